"""Plain documents: the update graph, signatures."""

import asyncio
import contextlib
import functools
import os
import ssl

import pytest
import trustme
from yarl import URL

from mirror.errors import (
    ConfigurationError,
    NotHere,
    UpstreamDenied,
    UpstreamInterrupted,
    UpstreamInvalid,
    UpstreamUnavailable,
)
from mirror.metrics import Metrics
from mirror.upstream import body as body_module
from mirror.upstream import document_urls, documents
from mirror.upstream.documents import open_documents
from mirror.upstream.retry import Retry
from tests.peers import settings
from tests.peers.egress import EgressProxy
from tests.peers.faults import (
    CloseBeforeHeaders,
    Drip,
    Gzip,
    HangHeaders,
    Html,
    LieLength,
    NoLength,
    Redirect,
    Stall,
    Status,
    TooMany,
    Truncate,
)
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry

CONTENT = noise(100_000)
LIMIT = 200_000


@pytest.fixture
async def server():
    async with ScriptedRegistry() as peer:
        yield peer


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Have retries wait for a hundredth; return the waits as they were meant."""
    meant = []

    async def sleep(seconds):
        meant.append(seconds)
        await asyncio.sleep(seconds / 100)

    monkeypatch.setattr(documents, "Retry", functools.partial(Retry, sleep=sleep))
    return meant


def place(peer, content=CONTENT):
    """Put a document there and return its path."""
    return f"/v2/docs/blobs/{peer.add_blob('docs', content)}"


@contextlib.asynccontextmanager
async def opened(environ=None, metrics=None, outside=None, **config):
    found = open_documents(settings.config(**config), environ or {}, metrics, outside)
    try:
        yield found
    finally:
        await found.close()


async def test_a_document(server):
    url = server.url + place(server)
    metrics = Metrics(upstreams=["documents"])
    async with opened(metrics=metrics) as found:
        assert await found.get(url, limit=LIMIT) == CONTENT
        assert await found.get(url, limit=len(CONTENT), accept="application/json", params={"channel": "a+b &c"})
    first, second = server.requests
    assert "cookie" not in first.headers
    assert "authorization" not in first.headers
    assert first.headers["accept-encoding"] == "identity"
    assert first.headers["accept"] == "*/*"
    assert first.query == ""
    assert second.headers["accept"] == "application/json"
    assert second.query == "channel=a%2Bb+%26c"


async def test_params_join_the_query_and_the_url_stays_as_spelled(server):
    async with opened() as found:
        assert await found.get(f"{server.url}/a%2fb/sha256=00?x=%2f#y", limit=9, params={"arch": "amd64"}) is None
    assert server.requests[0].target == "/a%2fb/sha256=00?x=%2f&arch=amd64"


@pytest.mark.parametrize("status", [404, 410])
async def test_absent(server, status):
    server.fail("any", Status(status, {}, b"<html>"))
    async with opened() as found:
        assert await found.get(server.url + "/x", limit=9) is None
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_denied(server, status):
    server.fail("any", Status(status))
    async with opened() as found:
        with pytest.raises(UpstreamDenied, match=f"{server.url} does not give us .*{status}.*without a login"):
            await found.get(server.url + "/x", limit=9)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Status(400), "answers 400"),
        (Status(206, {}, b"x"), "answers 206"),
        (Status(304), "answers 304"),
        (Html(), "answers with a web page"),
        (Gzip(), "encoded although asked not to"),
        (Redirect(None), "without saying where"),
        (Redirect("ftp://127.0.0.1/x"), "cannot be asked for"),
        (Redirect("http://user:hunter2@127.0.0.1/x"), "a login in it"),
    ],
)
async def test_what_is_no_document(server, fault, said):
    path = place(server)
    server.fail("any", fault)
    async with opened() as found:
        with pytest.raises(UpstreamInvalid, match=said) as error:
            await found.get(server.url + path, limit=LIMIT)
    assert f"127.0.0.1:{server.port}" in str(error.value)
    assert "hunter2" not in str(error.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [Status(503), Status(500), Status(408), Status(425), TooMany(), CloseBeforeHeaders()])
async def test_passing_failures_are_tried_again(server, waits, fault):
    path = place(server)
    server.fail("any", fault, times=2)
    async with opened() as found:
        assert await found.get(server.url + path, limit=LIMIT) == CONTENT
    assert len(server.requests) == 3
    assert 0 < sum(waits) < 3


async def test_retry_after_is_kept(server, waits):
    path = place(server)
    server.fail("any", Status(503, {"Retry-After": "7"}), times=1)
    async with opened() as found:
        assert await found.get(server.url + path, limit=LIMIT) == CONTENT
    assert [7 <= one <= 8 for one in waits] == [True]


async def test_a_long_retry_after_is_handed_on(server, waits):
    server.fail("any", TooMany(600))
    async with opened() as found:
        with pytest.raises(UpstreamUnavailable, match="answers 429") as error:
            await found.get(server.url + "/x", limit=LIMIT)
    assert error.value.retry_after == 600
    assert waits == []


async def test_a_server_that_nobody_reaches_is_left_alone_for_a_while(server, monkeypatch, waits):
    path = place(server)
    await server.stop(returning=True)
    async with opened() as found, ScriptedRegistry() as other:
        with pytest.raises(UpstreamUnavailable, match="refuses connections"):
            await found.get(server.url + path, limit=LIMIT)
        await server.restart()
        with pytest.raises(UpstreamUnavailable, match=r"refuses connections; it is asked again in 30 s: .*firewall"):
            await found.get(server.url + path, limit=LIMIT)
        assert await found.get(other.url + place(other), limit=LIMIT) == CONTENT  # another one does not wait for it
        monkeypatch.setattr(documents, "AWAY_SECONDS", 0)
        await server.stop(returning=True)
        async with opened() as fresh:
            with pytest.raises(UpstreamUnavailable, match="refuses connections"):
                await fresh.get(server.url + path, limit=LIMIT)
            await server.restart()
            assert await fresh.get(server.url + path, limit=LIMIT) == CONTENT


async def test_a_server_that_answers_is_not_away(server):
    path = place(server)
    async with opened() as found:
        server.fail("any", Status(503))
        with pytest.raises(UpstreamUnavailable, match="answers 503"):
            await found.get(server.url + path, limit=LIMIT)
        assert len(server.requests) == 3
        server.heal()
        assert await found.get(server.url + path, limit=LIMIT) == CONTENT


@pytest.mark.parametrize("fault", [Truncate(50_000), Truncate(50_000, rst=True), LieLength(10)])
async def test_truncated(server, fault):
    path = place(server)
    server.fail("blob", fault, times=1)
    async with opened() as found:
        assert await found.get(server.url + path, limit=LIMIT) == CONTENT
        server.fail("blob", fault)
        with pytest.raises(UpstreamInterrupted, match=f"{server.url} ended the body early"):
            await found.get(server.url + path, limit=LIMIT)
    assert server.count("blob") == 5


@pytest.mark.parametrize("fault", [None, NoLength(), NoLength(chunked=False)])
async def test_too_large(server, fault):
    path = place(server, noise(3_000_000))
    if fault is not None:
        server.fail("blob", fault)
    async with opened() as found:
        with pytest.raises(UpstreamInvalid, match=f"{server.url} sends a document .*limit of 99999"):
            await found.get(server.url + path, limit=99_999)
    assert len(server.requests) == 1


async def test_a_body_of_unknown_length(server):
    path = place(server)
    server.fail("blob", NoLength())
    async with opened() as found:
        assert await found.get(server.url + path, limit=len(CONTENT)) == CONTENT


async def test_slow_servers(server, monkeypatch):
    path = place(server)
    async with opened() as found:
        server.fail("any", HangHeaders(0.3), times=1)
        assert await found.get(server.url + path, limit=LIMIT) == CONTENT
        monkeypatch.setattr(documents, "LAST_SECONDS", 0.1)
        server.fail("any", HangHeaders(), times=1)
        assert await found.get(server.url + path, limit=LIMIT) == CONTENT
        assert server.count("blob") == 3
        monkeypatch.setattr(body_module, "STALL_SECONDS", 0.2)
        server.fail("any", Stall(1000), times=1)
        assert await found.get(server.url + path, limit=LIMIT) == CONTENT
        assert server.count("blob") == 5
        monkeypatch.setattr(body_module, "CRAWL_SECONDS", 0.3)
        monkeypatch.setattr(body_module, "CRAWL_RATE", 10**9)
        server.fail("any", Drip(500, 0.01))
        with pytest.raises(UpstreamInterrupted, match=f"{server.url} sent .* bytes in"):
            await found.get(server.url + path, limit=LIMIT)


async def test_cancelled_in_the_body(server):
    path = place(server)
    server.fail("any", Stall(1000), times=8)
    async with opened() as found:
        tasks = [asyncio.create_task(found.get(server.url + path, limit=LIMIT)) for _ in range(8)]
        while server.sent("blob") < 8000:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await found.get(server.url + path, limit=LIMIT) == CONTENT  # every place was given back


# -- redirects


async def test_redirects_are_followed(server):
    path = place(server)
    async with opened() as found, ScriptedRegistry() as other:
        for _ in range(4):
            server.fail("any", Redirect("{self}{path}"), times=1)
        server.fail("any", Redirect(f"{other.url}{place(other)}?sig=%2f"), times=1)
        assert await found.get(server.url + path, limit=LIMIT) == CONTENT
        assert len(server.requests) == 5
        assert other.requests[0].query == "sig=%2f"
        server.fail("any", Redirect("{self}{path}"))
        server.forget()
        with pytest.raises(UpstreamInvalid, match=f"{server.url} redirects more than 5 times"):
            await found.get(server.url + path, limit=LIMIT)
        assert len(server.requests) == 6


async def test_never_from_https_to_http(server, tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with ScriptedRegistry(tls=context, name="localhost") as secure, opened(ca=(tmp_path / "ca.pem",)) as found:
        assert await found.get(secure.url + place(secure), limit=LIMIT) == CONTENT
        secure.fail("any", Redirect(server.url + place(server)))
        with pytest.raises(UpstreamInvalid, match="redirects from https to http"):
            await found.get(secure.url + "/x", limit=LIMIT)
    assert server.requests == []


async def test_a_server_outside_leads_into_no_private_network(server):
    """Through a proxy nothing says that the server which redirects is itself inside."""
    server.fail("any", Redirect("http://127.0.0.1:9/metadata"))
    async with EgressProxy({"graph.example": server.port}) as proxy, opened(proxy=proxy.url) as found:
        with pytest.raises(UpstreamInvalid, match=r"127.0.0.1:9 lies in a private network.*configure that"):
            await found.get("http://graph.example/x", limit=9)
        server.heal()
        server.fail("any", Redirect("http://169.254.169.254/latest"))
        with pytest.raises(UpstreamInvalid, match="private network"):
            await found.get("http://graph.example/x", limit=9)
        assert {host for _, host in proxy.asked} == {"graph.example"}


async def test_a_private_server_leads_to_no_link_local_address(server):
    server.fail("any", Redirect("http://169.254.169.254/latest"))
    async with opened() as found:
        with pytest.raises(UpstreamInvalid, match="private network"):
            await found.get(server.url + "/x", limit=9)


# -- TLS and proxies


async def test_an_unknown_authority(waits):
    authority = trustme.CA(organization_name="Laboratory")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with ScriptedRegistry(tls=context, name="localhost") as secure, opened() as found:
        with pytest.raises(UpstreamUnavailable) as error:
            await found.get(secure.url + "/x", limit=9)
    assert f"{secure.url} shows a certificate that is not trusted" in error.value.what
    assert "Laboratory" in error.value.what
    assert "`ca`" in error.value.remedy
    assert waits == []  # it will not be another one in a second


def test_a_ca_that_cannot_be_used(tmp_path):
    with pytest.raises(ConfigurationError, match=r"ca\.pem cannot be used"):
        open_documents(settings.config(ca=(tmp_path / "ca.pem",)), {})


async def test_the_environments_proxy(server):
    path = place(server)
    async with EgressProxy({"graph.example": server.port}) as proxy:
        environ = {"HTTP_PROXY": proxy.url, "NO_PROXY": "10.0.0.0/8"}
        async with opened(environ) as found:
            assert await found.get(f"http://graph.example{path}", limit=LIMIT) == CONTENT
            assert await found.get(server.url + path, limit=LIMIT) == CONTENT  # loopback is asked directly
        assert proxy.asked == [("GET", "graph.example")]


async def test_the_configured_proxy_by_connect(tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("graph.example").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with ScriptedRegistry(tls=context) as secure, EgressProxy({"graph.example:443": secure.port}) as proxy:
        async with opened(proxy=proxy.url, ca=(tmp_path / "ca.pem",)) as found:
            assert await found.get(f"https://graph.example{place(secure)}", limit=LIMIT) == CONTENT
        assert proxy.asked == [("CONNECT", "graph.example:443")]


@pytest.mark.parametrize(("scheme", "said"), [("https", "answered 407"), ("http", "wants a login")])
async def test_a_proxy_that_wants_a_login(scheme, said):
    async with EgressProxy({}, "Basic x") as proxy, opened(proxy=proxy.url) as found:
        with pytest.raises((UpstreamUnavailable, UpstreamInvalid), match=rf"{said}.*check `proxy` and its login"):
            await found.get(f"{scheme}://graph.example/x", limit=9)


async def test_what_refuses_connections(server, waits):
    url = server.url
    await server.stop()
    async with opened() as found:
        with pytest.raises(UpstreamUnavailable, match=f"{url} refuses connections") as error:
            await found.get(url + "/x", limit=9)
    assert "firewall must let this host reach 127.0.0.1 port" in error.value.remedy
    assert "`proxy`" in error.value.remedy
    assert len(waits) == 2


async def test_a_name_that_leads_nowhere():
    async with opened() as found:
        with pytest.raises(UpstreamUnavailable, match=r"https://graph\.invalid cannot be resolved.*DNS.*`proxy`"):
            await found.get("https://graph.invalid/x", limit=9)


async def test_offline_asks_nobody(server, tmp_path):
    (tmp_path / "graph.json").write_bytes(CONTENT)
    async with opened(offline=True) as found:
        with pytest.raises(NotHere, match=f"{server.url} is not asked and the mirror is offline"):
            await found.get(server.url + "/x", limit=9)
        assert await found.get(f"file://{tmp_path}/graph.json", limit=LIMIT) == CONTENT
    assert server.connections == 0


# -- files


async def test_files(tmp_path):
    folder = tmp_path / "sha256=00 #?"
    folder.mkdir()
    (folder / "signature-1").write_bytes(CONTENT)
    base = URL.build(scheme="file", path=str(folder))
    async with opened() as found:
        assert await found.get(f"{base}/signature-1", limit=len(CONTENT), params={"a": "b"}) == CONTENT
        assert await found.get(str(base).replace("file://", "file://localhost") + "/signature-1", limit=LIMIT)
        assert await found.get(f"{base}/signature-2", limit=LIMIT) is None
        assert await found.get(f"{base}/signature-1/x", limit=LIMIT) is None
        with pytest.raises(UpstreamInvalid, match="over the limit of 99999 bytes"):
            await found.get(f"{base}/signature-1", limit=len(CONTENT) - 1)
        with pytest.raises(UpstreamInvalid, match="no regular file"):
            await found.get(str(base), limit=LIMIT)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UpstreamInvalid, match="no regular file"):
            await asyncio.wait_for(found.get(f"file://{tmp_path}/pipe", limit=LIMIT), 5)
        (tmp_path / "empty").touch()
        assert await found.get(f"file://{tmp_path}/empty", limit=0) == b""


async def test_files_that_somebody_else_opens(tmp_path):
    class Parent:
        def open(self, path, flags, mode=0o644):
            if path.name == "secret":
                raise PermissionError(13, "Permission denied")
            if path.name == "rotten":
                raise OSError(5, "Input/output error")
            return os.open(tmp_path / "elsewhere", flags)

    (tmp_path / "elsewhere").write_bytes(b"here")
    async with opened(outside=Parent()) as found:
        assert await found.get("file:///graph.json", limit=LIMIT) == b"here"
        with pytest.raises(UpstreamDenied, match="/secret may not be read"):
            await found.get("file:///secret", limit=LIMIT)
        with pytest.raises(UpstreamUnavailable, match=r"/rotten cannot be read \(Input/output error\)"):
            await found.get("file:///rotten", limit=LIMIT)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:signatures/x", "no absolute path"),
        ("file://signatures/x", "no absolute path"),
        ("file://./signatures/x", "no absolute path"),
        ("file:", "no absolute path"),
        ("file:///a%00b", "no absolute path"),
        ("/etc/graph.json", "no address of a document"),
        ("ftp://host/x", "no address of a document"),
        ("https:///x", "no address of a document"),
        ("https://host:0/x", "no address of a document"),
        ("https://host:99999/x", "no address of a document"),
        ("https://bücher.example/x", "no address of a document"),
        ("https://host/a b", "no address of a document"),
        ("https://host/a\r\nx: y", "no address of a document"),
        ("", "no address of a document"),
        ("https://user:hunter2@host/x", "has a login in it"),
        ("https://user:hunter2/hunter2@host/x", "no address of a document"),
        ("https://user@host/x?hunter2", "has a login in it"),
    ],
)
async def test_urls_that_can_never_be_asked_for(url, said):
    async with opened() as found:
        with pytest.raises(ConfigurationError, match=said) as error:
            await found.get(url, limit=9)
    assert "hunter2" not in str(error.value)
    assert error.value.problems[0].remedy


def test_urls_stay_as_they_are_spelled():
    url = "https://host:8443/a//b/../sha256=00?x=%2f~!'"
    assert str(document_urls.checked(url, {})) == url
