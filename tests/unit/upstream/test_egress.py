"""Requests through an egress proxy."""

import base64
import ssl

import pytest
import trustme

from mirror.errors import UpstreamUnavailable
from mirror.upstream.failures import AddressForbidden
from tests.peers.egress import EgressProxy
from tests.peers.faults import Redirect
from tests.peers.scripted import ScriptedRegistry
from tests.peers.settings import client_of


@pytest.fixture
async def registry():
    async with ScriptedRegistry() as peer:
        peer.add_image("team/app", "v1")
        yield peer


async def test_plain_http_with_a_login(registry):
    login = "Basic " + base64.b64encode(b"user:pw").decode()
    async with EgressProxy({"reg.example": registry.port}, login) as proxy:
        own = proxy.url.replace("http://", "http://user:pw@")
        async with client_of("http://reg.example", environ={"HTTP_PROXY": own}) as client:
            assert await client.get_manifest("team/app", "v1")
        assert proxy.asked == [("GET", "reg.example")]
        assert "proxy-authorization" not in registry.requests[0].headers


async def test_https_through_connect(tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("reg.example").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    login = "Basic " + base64.b64encode(b"user:pw").decode()
    async with ScriptedRegistry(tls=context) as registry:
        registry.add_image("team/app", "v1")
        async with EgressProxy({"reg.example:443": registry.port}, login) as proxy:
            environ = {"HTTPS_PROXY": proxy.url.replace("http://", "http://user:pw@")}
            async with client_of("https://reg.example", environ=environ, ca=tmp_path / "ca.pem") as client:
                assert await client.get_manifest("team/app", "v1")
                assert await client.list_tags("team/app")
        assert proxy.asked == [("CONNECT", "reg.example:443")]  # one connection, kept
        assert "proxy-authorization" not in registry.requests[0].headers


async def test_no_proxy_is_direct(registry):
    async with EgressProxy() as proxy:
        environ = {"http_proxy": proxy.url, "no_proxy": "10.0.0.0/8,.svc"}
        async with client_of(registry.url, environ=environ) as client:
            assert await client.get_manifest("team/app", "v1")
        assert proxy.asked == []


@pytest.mark.parametrize(
    ("authorization", "said"), [("Basic x", "the egress proxy answered 407"), ("", "the egress proxy answered 502")]
)
async def test_a_proxy_that_refuses(authorization, said, impatient):
    async with EgressProxy({}, authorization) as proxy:
        own = proxy.url.replace("http://", "http://user:hunter2@")
        async with client_of("https://reg.example", environ={"HTTPS_PROXY": own}) as client:
            with pytest.raises(UpstreamUnavailable, match=said) as error:
                await client.get_manifest("team/app", "v1")
        assert "hunter2" not in str(error.value)


async def test_a_proxy_that_is_away(impatient):
    async with EgressProxy() as proxy:
        pass
    async with client_of("https://reg.example", proxy=proxy.url) as client:
        with pytest.raises(UpstreamUnavailable, match="the egress proxy cannot be reached"):
            await client.get_manifest("team/app", "v1")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "10.0.0.1", "localhost", "127.1", "0x7f.1", "2130706433", "169.254.169.254", "[fe80::1]"],
)
async def test_literals_are_checked_before_the_proxy_sees_them(registry, host):
    async with EgressProxy({"reg.example": registry.port}) as proxy:
        registry.fail("manifest", Redirect(f"http://{host}/latest"))
        async with client_of("http://reg.example", proxy=proxy.url) as client:
            with pytest.raises(AddressForbidden):
                await client.get_manifest("team/app", "v1")
        assert proxy.asked == [("GET", "reg.example")]


async def test_names_and_listed_literals_go_on_through_the_proxy(registry):
    async with EgressProxy(
        {"reg.example": registry.port, "cdn.example": registry.port, "10.9.9.9": registry.port}
    ) as proxy:
        registry.fail("manifest", Redirect("http://cdn.example{path}"), times=1)
        async with client_of("http://reg.example", proxy=proxy.url, redirects=("10.9.0.0/16",)) as client:
            assert await client.get_manifest("team/app", "v1")
            registry.fail("manifest", Redirect("http://10.9.9.9{path}"), times=1)
            assert await client.get_manifest("team/app", "v1")
        assert [host for _, host in proxy.asked][-1] == "10.9.9.9"
