from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import os
import ssl

import pytest
import trustme
from aiohttp import web

from mirror.errors import ConfigurationError
from mirror.registry.certificates import Certificates
from mirror.registry.tls import ServerTls

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


class Files:
    """A certificate and a key on disk that can be replaced."""

    def __init__(self, folder, authority):
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        self.authority = authority
        self.issue()

    def issue(self, **days):
        issued = self.authority.issue_cert("127.0.0.1", "localhost", **days)
        certificates = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        # Renamed into place, as cert-manager and certbot do it.
        for path, content in ((self.certificate, certificates), (self.key, issued.private_key_pem.bytes())):
            path.with_suffix(".new").write_bytes(content)
            os.replace(path.with_suffix(".new"), path)
        return issued


@pytest.fixture
def files(tmp_path, authority):
    return Files(tmp_path, authority)


@pytest.fixture
def client(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def ask(service, context, text=GET):
    reader, writer = await asyncio.open_connection(*service.address, ssl=context, server_hostname="localhost")
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(text)
        async with asyncio.timeout(5):
            return shown, await reader.read(), writer.get_extra_info("ssl_object")
    finally:
        writer.close()


async def test_serves_over_tls(serve, files, client):
    client.set_alpn_protocols(["h2", "http/1.1"])
    _, answer, session = await ask(serve(tls=ServerTls(files.certificate, files.key)), client)
    assert answer.endswith(b"hello")
    assert session.selected_alpn_protocol() == "http/1.1"
    assert session.version() == "TLSv1.3"


async def test_plain_http_on_a_tls_port_is_said_once_with_what_mends_it(serve, files, said):
    service = serve(tls=ServerTls(files.certificate, files.key))
    for _ in range(3):
        with contextlib.suppress(ConnectionError):
            assert await service.ask(GET) == b""
    while service.count("mirror_connections_cut_total") < 3:
        await asyncio.sleep(0.01)
    assert said().count("event=plain_http_on_tls_port") == 1
    assert f"address={service.address[0]}:{service.address[1]}" in said()
    assert "have clients ask by https://" in said()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("break_it", ["old", "cipher"])
async def test_refuses_what_is_weak(serve, files, client, break_it, said):
    client.maximum_version = ssl.TLSVersion.TLSv1_1 if break_it == "old" else ssl.TLSVersion.TLSv1_2
    if break_it == "cipher":
        client.set_ciphers("AES128-SHA")
    service = serve(tls=ServerTls(files.certificate, files.key))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await ask(service, client)
    while service.connections.open:
        await asyncio.sleep(0.01)
    assert service.count('mirror_connections_cut_total{why="handshake"}') == 1
    assert "Traceback" not in said()


async def test_a_handshake_that_does_not_come_ends(serve, files, monkeypatch):
    monkeypatch.setattr("mirror.registry.connections._HANDSHAKE", 0.3)
    service = serve(tls=ServerTls(files.certificate, files.key))
    assert await service.ask(b"") == b""
    assert service.connections.open == 0


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n\r\n"], ids=["nothing", "no TLS"])
async def test_a_handshake_that_failed_leaves_nothing_for_the_collector(serve, files, monkeypatch, sent):
    monkeypatch.setattr("mirror.registry.connections._HANDSHAKE", 0.3)
    service = serve(tls=ServerTls(files.certificate, files.key))
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            await service.ask(sent)
        await asyncio.sleep(0.1)
        kept = [one for one in gc.get_objects() if isinstance(one, asyncio.sslproto.SSLProtocol)]
        assert kept == []
    finally:
        gc.enable()


async def test_a_changed_certificate_is_shown_without_dropping_a_connection(serve, files, client):
    tls = ServerTls(files.certificate, files.key)
    service = serve(tls=tls)
    reader, writer = await asyncio.open_connection(*service.address, ssl=client, server_hostname="localhost")
    first = (await ask(service, client))[0]
    assert not tls.reread()
    files.issue()
    assert tls.reread()
    second, answer, _ = await ask(service, client)
    assert second != first
    assert answer.endswith(b"hello")
    writer.write(GET)
    assert (await reader.read()).endswith(b"hello")
    writer.close()


async def test_a_bad_pair_changes_nothing_and_is_said_once(serve, files, client, said):
    tls = ServerTls(files.certificate, files.key)
    service = serve(tls=tls)
    first = (await ask(service, client))[0]
    files.key.write_text("-----BEGIN PRIVATE KEY-----\nsecretsecret\n-----END PRIVATE KEY-----\n")
    assert not tls.reread()
    assert not tls.reread()
    files.certificate.unlink()
    assert not tls.reread()
    assert (await ask(service, client))[0] == first
    assert said().count("event=tls_reload_failed") == 2
    assert "secretsecret" not in said()
    files.issue()
    assert tls.reread()


async def test_files_are_watched(serve, files, said):
    tls = ServerTls(files.certificate, files.key)
    service = serve()
    watching = asyncio.create_task(tls.watch(service.metrics, 0.02))
    before = tls.context
    await asyncio.sleep(0.05)
    files.issue()
    async with asyncio.timeout(5):
        while tls.context is before:
            await asyncio.sleep(0.01)
    watching.cancel()
    assert service.count("mirror_tls_certificate_expires_seconds") == pytest.approx(tls.expires)


@pytest.mark.parametrize("fault", ["certificate_expired", "certificate_not_yet_valid"])
async def test_a_certificate_that_is_not_valid_is_served_and_said_once(serve, files, said, authority, fault):
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=-1 if fault == "certificate_expired" else 9)
    begins = now + datetime.timedelta(days=-9 if fault == "certificate_expired" else 1)
    files.issue(not_before=begins, not_after=until)
    tls = ServerTls(files.certificate, files.key)
    telling = asyncio.create_task(tls.tell(files.certificate.with_name("mirror.yaml"), 0.02))
    service = serve(tls=tls)
    assert (await ask(service, ssl._create_unverified_context()))[1].endswith(b"hello")
    while fault not in said():
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)
    assert said().count(f"event={fault}") == 1
    assert f"expires={until:%Y-%m-%dT%H:%M:%SZ}" in said()
    assert "put a " in said()
    files.issue()
    assert tls.reread()
    files.issue(not_before=begins, not_after=until - datetime.timedelta(hours=1))
    assert tls.reread()
    while fault == "certificate_expired" and said().count(f"event={fault}") < 2:
        await asyncio.sleep(0.02)
    telling.cancel()


async def name_client(request: web.BaseRequest) -> web.StreamResponse:
    found = Certificates().principal(request)
    return web.Response(text=found.name if found else "nobody")


@pytest.fixture
def client_ca(authority, tmp_path):
    path = tmp_path / "ca.crt"
    authority.cert_pem.write_to_path(path)
    return path


async def test_a_client_certificate_can_be_shown(serve, files, client, authority, client_ca):
    service = serve(name_client, tls=ServerTls(files.certificate, files.key, client_ca))
    assert (await ask(service, client))[1].endswith(b"nobody")
    authority.issue_cert("node@example", common_name="node7").configure_cert(client)
    assert (await ask(service, client))[1].endswith(b"cert:node7")


@pytest.mark.parametrize("fault", ["stranger", "late"])
async def test_a_client_certificate_that_does_not_hold_ends_the_handshake(
    serve, files, client, authority, client_ca, fault, said
):
    service = serve(name_client, tls=ServerTls(files.certificate, files.key, client_ca))
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    if fault == "stranger":
        trustme.CA().issue_cert("node@example", common_name="node7").configure_cert(client)
    else:
        authority.issue_cert("node@example", common_name="node7", not_after=long_ago).configure_cert(client)
    # With TLS 1.3 a client believes that it is in, and hears otherwise when it reads.
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        assert (await ask(service, client))[1] == b""
    while service.connections.open:
        await asyncio.sleep(0.01)
    assert "Traceback" not in said()


async def test_the_certificate_counts_on_a_resumed_session_too(serve, files, client, authority, client_ca):
    tls = ServerTls(files.certificate, files.key, client_ca)
    service = serve(name_client, tls=tls)
    authority.issue_cert("node@example", common_name="node7").configure_cert(client)
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # where the client can say which session to resume
    session = (await ask(service, client))[2].session
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    again = client.wrap_bio(incoming, outgoing, server_hostname="localhost", session=session)
    reader, writer = await asyncio.open_connection(*service.address)
    try:
        while True:
            try:
                again.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await asyncio.wait_for(reader.read(65536), 5))
        again.write(GET)
        writer.write(outgoing.read())
        assert again.session_reused
        answer = b""
        while not answer.endswith(b"cert:node7"):
            incoming.write(await asyncio.wait_for(reader.read(65536), 5))
            with contextlib.suppress(ssl.SSLWantReadError):
                answer += again.read(65536)
    finally:
        writer.close()


async def test_another_client_ca_counts_for_new_connections(serve, files, client, authority, client_ca, said):
    tls = ServerTls(files.certificate, files.key, client_ca)
    service = serve(name_client, tls=tls)
    other = trustme.CA()
    other.issue_cert("node@example", common_name="node8").configure_cert(client)
    client_ca.write_text("no certificate")
    assert not tls.reread()
    assert f"certificate={client_ca}" in said()
    other.cert_pem.write_to_path(client_ca)
    assert tls.reread()
    assert (await ask(service, client))[1].endswith(b"cert:node8")


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_client_ca_that_is_none_is_said_at_the_start(files, tmp_path, content):
    path = tmp_path / "ca.crt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"ca\.crt holds no certificate of a CA"):
        ServerTls(files.certificate, files.key, path)


@pytest.mark.parametrize("fault", ["absent", "mismatch", "encrypted"])
def test_what_is_no_pair_is_said_at_the_start(files, tmp_path, authority, fault):
    if fault == "absent":
        files.key.unlink()
    elif fault == "mismatch":
        files.key.write_bytes(authority.issue_cert("other").private_key_pem.bytes())
    else:
        from cryptography.hazmat.primitives import serialization

        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"passphrase"),
            )
        )
    with pytest.raises(ConfigurationError, match="no certificate and its key"):
        ServerTls(files.certificate, files.key)
