"""Whole answers that go wrong, and connections that do."""

import asyncio
import email.utils
import re
import socket
import time

import pytest

from mirror.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.upstream import exchange, transport
from tests.peers.faults import (
    CloseBeforeHeaders,
    HangHeaders,
    Html,
    Redirect,
    Status,
    TooMany,
    WithHeaders,
)
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry
from tests.peers.settings import client_of

CONTENT = noise(300_000)
DIGEST = Digest.of(CONTENT)

OPERATIONS = {
    "manifest": lambda client: client.get_manifest("team/app", "v1"),
    "head": lambda client: client.head_manifest("team/app", "v1"),
    "blob": lambda client: client.get_blob("team/app", DIGEST),
    "size": lambda client: client.head_blob("team/app", DIGEST),
    "tags": lambda client: client.list_tags("team/app"),
    "referrers": lambda client: client.list_referrers("team/app", DIGEST),
}
KIND = {
    "manifest": "manifest",
    "head": "manifest",
    "blob": "blob",
    "size": "blob",
    "tags": "tags",
    "referrers": "referrers",
}


@pytest.fixture
async def registry():
    async with ScriptedRegistry() as peer:
        peer.add_image("team/app", "v1")
        peer.add_blob("team/app", CONTENT)
        yield peer


@pytest.fixture
async def client(registry, impatient):
    async with client_of(registry.url) as client:
        yield client


async def do(operation, client):
    result = await OPERATIONS[operation](client)
    if operation == "blob":
        await result.close()
    return result


def http_date(seconds):
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


# -- what passes on a second try


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "fault",
    [
        Status(500),
        Status(502, body=b"<html>bad gateway"),
        Status(503),
        Status(504),
        Status(408),
        TooMany(1),
        CloseBeforeHeaders(),
        CloseBeforeHeaders(rst=True),
    ],
    ids=repr,
)
async def test_it_passes(registry, client, operation, fault, monkeypatch):
    monkeypatch.setattr("mirror.upstream.pauses.Pauses.left", lambda self, kind: 0.0)
    registry.fail(KIND[operation], fault, times=1)
    assert await do(operation, client) is not None


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(500), UpstreamUnavailable),
        (Status(599), UpstreamUnavailable),
        (Status(503, {"Retry-After": "120"}), UpstreamUnavailable),
        (TooMany(120), UpstreamUnavailable),
        (TooMany(http_date(120)), UpstreamUnavailable),
        (CloseBeforeHeaders(), UpstreamUnavailable),
        (CloseBeforeHeaders(rst=True), UpstreamUnavailable),
        (Status(403), UpstreamDenied),
        (Status(401), UpstreamDenied),
        (Status(402), UpstreamDenied),
        (Status(451), UpstreamDenied),
        (Status(400), UpstreamInvalid),
        (Status(418), UpstreamInvalid),
        (Status(304), UpstreamInvalid),
        (Status(204), UpstreamInvalid),
        (Html(), UpstreamInvalid),
        (WithHeaders({"Content-Encoding": "br"}), UpstreamInvalid),
        (Redirect(None), UpstreamInvalid),
        (Redirect(""), UpstreamInvalid),
        (Redirect("{self}{path}"), UpstreamInvalid),
        (Redirect("ftp://example.org/"), UpstreamInvalid),
    ],
    ids=lambda value: re.sub(r"'.* GMT'", "<date>", repr(value)),
)
async def test_it_stays(registry, client, operation, fault, error):
    registry.fail(KIND[operation], fault)
    with pytest.raises(error) as raised:
        await do(operation, client)
    assert type(raised.value).__name__ != "ExceptionGroup"
    assert raised.value.endpoint == registry.url


@pytest.mark.parametrize("operation", ["manifest", "head", "blob", "size", "tags"])
@pytest.mark.parametrize("status", [404, 410])
async def test_absent(registry, client, operation, status):
    registry.fail(KIND[operation], Status(status))
    with pytest.raises(UpstreamNotFound):
        await do(operation, client)


async def test_retries_are_few_and_growing(registry, client, impatient):
    registry.fail("manifest", Status(500))
    with pytest.raises(UpstreamUnavailable, match="answers 500"):
        await client.get_manifest("team/app", "v1")
    assert registry.count("manifest") == 3
    assert len(impatient) == 2
    assert 0.25 <= impatient[0] <= 0.75 <= impatient[1] + 0.25 <= 1.75


async def test_a_pause_is_kept_for_everybody(registry, client):
    registry.fail("manifest", TooMany(120), times=1)
    with pytest.raises(UpstreamUnavailable) as error:
        await client.get_manifest("team/app", "v1")
    assert error.value.retry_after == 120
    seen = len(registry.requests)
    with pytest.raises(UpstreamUnavailable) as error:
        await client.head_manifest("team/app", "v1")
    assert 110 < error.value.retry_after <= 120
    assert len(registry.requests) == seen
    # Limits are counted for each sort of request.
    await client.list_tags("team/app")
    await do("blob", client)
    assert client.health()[0].breaker == "closed"


async def test_the_breaker_spares_a_dead_registry(registry, client, impatient):
    registry.fail("any", Status(500))
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable):
            await client.get_manifest("team/app", "v1")
    seen = len(registry.requests)
    assert seen == 5
    with pytest.raises(UpstreamUnavailable, match="failed 5 times"):
        await client.get_manifest("team/app", "v1")
    assert len(registry.requests) == seen
    assert client.health()[0].breaker == "open"
    assert client.health()[0].asked_again > 0


async def test_an_absence_does_not_open_the_breaker(registry, client):
    for _ in range(20):
        with pytest.raises(UpstreamNotFound):
            await client.get_manifest("team/app", "absent")
    assert client.health()[0].breaker == "closed"


# -- connections


async def test_refused(impatient):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with client_of(f"http://127.0.0.1:{bound.getsockname()[1]}") as client:
            with pytest.raises(UpstreamUnavailable, match="refuses connections"):
                await do("manifest", client)


async def test_unresolvable(impatient):
    async with client_of("http://no-such-host.invalid") as client:
        with pytest.raises(UpstreamUnavailable, match=r"the name of http://no-such-host\.invalid cannot be resolved"):
            await do("manifest", client)


async def test_a_connection_that_is_not_accepted(impatient, monkeypatch):
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.2)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        async with client_of(f"http://127.0.0.1:{full.getsockname()[1]}") as client:
            with pytest.raises(UpstreamUnavailable, match="does not accept connections"):
                await do("manifest", client)


async def test_no_answer(registry, client, monkeypatch):
    monkeypatch.setattr(exchange, "LAST_SECONDS", 0.1)
    registry.fail("manifest", HangHeaders())
    with pytest.raises(UpstreamUnavailable, match="sent no answer within"):
        await do("manifest", client)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.9\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"\0\0\0"]
)
async def test_what_does_not_speak_http(answer, impatient):
    async def speak(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server, client_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(UpstreamError) as error:
            await do("manifest", client)
        assert "does not answer in HTTP" in error.value.what
