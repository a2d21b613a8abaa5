"""TLS: who is believed, what is said of who is not, and no way around it."""

import asyncio
import datetime
import ssl

import pytest
import trustme

from mirror.errors import ConfigurationError, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.upstream import tls
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry, TokenLogin
from tests.peers.settings import client_of


@pytest.fixture(scope="module")
def authority():
    return trustme.CA(organization_name="Laboratory")


@pytest.fixture
def authority_file(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def context_of(authority, *names, **more):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("localhost",)), **more).configure_cert(context)
    return context


def serving(context):
    registry = ScriptedRegistry(tls=context, name="localhost", cdn=True)
    registry.add_image("team/app", "v1")
    return registry


async def test_a_general_and_an_own_authority(authority, authority_file, read_whole):
    content = noise(200_000)
    async with serving(context_of(authority)) as registry:
        digest = Digest.parse(registry.add_blob("team/app", content))
        async with client_of(registry.url, general={"ca": (authority_file,)}) as client:
            assert await client.get_manifest("team/app", "v1")
            assert await read_whole(await client.get_blob("team/app", digest)) == content
        async with client_of(registry.url, ca=authority_file) as client:
            assert await client.get_manifest("team/app", "v1")


@pytest.mark.parametrize("realm", ["http://{host}/token", "http://localhost/token"])
async def test_a_realm_spelled_http_behind_a_proxy_that_ends_tls(authority, authority_file, tmp_path, realm):
    """What is behind the proxy knows neither of TLS nor, perhaps, of the port; the login never goes in the clear."""
    password = tmp_path / "password"
    password.write_text("p:w")
    login = {"username": "robot", "password_file": password}
    async with serving(context_of(authority)) as registry:
        registry.login = TokenLogin(users={"robot": "p:w"}, anonymous=False, realm=realm.format(host=registry.host))
        async with client_of(registry.url, ca=authority_file, credentials=login) as client:
            assert await client.get_manifest("team/app", "v1")
        assert registry.count("token") == 1


async def test_an_unknown_authority_is_named(authority, impatient):
    async with serving(context_of(authority)) as registry, client_of(registry.url) as client:
        with pytest.raises(UpstreamUnavailable) as error:
            await client.get_manifest("team/app", "v1")
    assert "is not trusted" in error.value.what
    assert "issuer" in error.value.what
    assert "Laboratory" in error.value.what
    assert "valid until 3000-01-01" in error.value.what
    assert "name its CA under `ca`" in error.value.remedy
    assert registry.requests == []


async def test_another_name(authority, authority_file, impatient):
    async with (
        serving(context_of(authority, "other.example")) as registry,
        client_of(registry.url, ca=authority_file) as client,
    ):
        with pytest.raises(UpstreamUnavailable, match=r"(?i)hostname mismatch"):
            await client.get_manifest("team/app", "v1")


async def test_expired(authority, authority_file, impatient):
    ended = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=3)
    async with (
        serving(context_of(authority, not_after=ended)) as registry,
        client_of(registry.url, ca=authority_file) as client,
    ):
        with pytest.raises(UpstreamUnavailable, match="expired") as error:
            await client.get_manifest("team/app", "v1")
    assert f"valid until {ended:%Y-%m-%d}" in error.value.what


async def test_no_tls_there(impatient):
    heard = []

    async def speak(reader, writer):
        heard.append(await reader.read(3))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server, client_of(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(UpstreamUnavailable, match="TLS with"):
            await client.get_manifest("team/app", "v1")
    assert set(heard) == {b"\x16\x03\x01"}  # a TLS hello each time: no second try in plain http


async def test_tls_there_and_not_asked_for(authority, impatient):
    async with (
        serving(context_of(authority)) as registry,
        client_of(registry.url.replace("https:", "http:")) as client,
    ):
        with pytest.raises(UpstreamUnavailable):
            await client.get_manifest("team/app", "v1")


async def test_old_versions_are_refused(authority, authority_file, impatient):
    context = context_of(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.options &= ~(ssl.OP_NO_TLSv1_1 | ssl.OP_NO_TLSv1)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(context) as registry, client_of(registry.url, ca=authority_file) as client:
        with pytest.raises(UpstreamUnavailable, match="TLS with"):
            await client.get_manifest("team/app", "v1")


async def test_a_client_certificate_is_for_the_endpoint_alone(authority, authority_file, tmp_path, impatient):
    ours = authority.issue_cert("mirror.lab")
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in ours.cert_chain_pems))
    ours.private_key_pem.write_to_path(key)
    context = context_of(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    async with serving(context) as registry:
        digest = Digest.parse(registry.add_blob("team/app", b"x"))
        more = {"ca": authority_file, "client_certificate": certificate, "client_key": key}
        async with client_of(registry.url, **more) as client:
            assert await client.get_manifest("team/app", "v1")
            # The second origin wants one too, and is not shown ours.
            with pytest.raises(UpstreamUnavailable):
                await client.get_blob("team/app", digest)
        assert registry.count("cdn") == 0


@pytest.mark.parametrize("content", [b"", b"no PEM at all", None])
async def test_files_that_cannot_be_used(tmp_path, content):
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"file\.pem cannot be used"):
        tls.client_context([path])
    with pytest.raises(ConfigurationError) as error:
        tls.client_context([path], path, path)
    assert len(error.value.problems) == 2


def test_contexts_are_shared(authority_file):
    contexts = tls.Contexts([])
    assert contexts.for_endpoint(None) is contexts.for_endpoint(None)
    assert contexts.for_endpoint(authority_file) is not contexts.for_endpoint(None)
    assert contexts.for_endpoint(None).minimum_version == ssl.TLSVersion.TLSv1_2
    assert contexts.for_endpoint(None).verify_mode == ssl.CERT_REQUIRED
