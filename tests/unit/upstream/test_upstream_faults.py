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
from tests.peers.settings import client_of
from tests.unit.upstream.conftest import DIGEST

OPERATIONS = {
    "manifest": lambda client, name: client.get_manifest(name, "v1"),
    "head": lambda client, name: client.head_manifest(name, "v1"),
    "blob": lambda client, name: client.get_blob(name, DIGEST),
    "size": lambda client, name: client.head_blob(name, DIGEST),
    "tags": lambda client, name: client.list_tags(name),
    "referrers": lambda client, name: client.list_referrers(name, DIGEST),
}
KIND = {
    "manifest": "manifest",
    "head": "manifest",
    "blob": "blob",
    "size": "blob",
    "tags": "tags",
    "referrers": "referrers",
}


async def do(operation, client, name="team/app"):
    result = await OPERATIONS[operation](client, name)
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
    monkeypatch.setattr("mirror.upstream.pauses.Pauses.left", lambda self, kind, repository: 0.0)
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
    for repository in ("team/app", "team/other"):
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable):
                await client.get_manifest(repository, "v1")
    seen = len(registry.requests)
    assert seen == 10
    with pytest.raises(UpstreamUnavailable, match="failed 5 times"):
        await client.get_manifest("team/third", "v1")
    assert len(registry.requests) == seen
    assert client.health()[0].breaker == "open"
    assert client.health()[0].asked_again > 0


async def test_a_repository_that_always_fails_is_spared(registry, client, impatient):
    registry.fail("any", Status(500))
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable):
            await client.get_manifest("team/app", "v1")
    assert len(registry.requests) == 5
    with pytest.raises(UpstreamUnavailable, match="failed 5 times for 'team/app'"):
        await client.get_manifest("team/app", "v1")
    assert len(registry.requests) == 5


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "fault",
    [
        TooMany(3600),
        TooMany(),
        Status(503, {"Retry-After": "3600"}),
        Status(503),
        Status(500),
        Status(504),
        Status(501),
        CloseBeforeHeaders(),
        CloseBeforeHeaders(rst=True),
        HangHeaders(),
    ],
    ids=repr,
)
async def test_one_repository_does_not_stop_the_others(registry, client, monkeypatch, operation, fault):
    """Docker Hub keeps repositories that always answer 429; asked by anybody, they stopped the whole upstream."""
    if isinstance(fault, HangHeaders):
        monkeypatch.setattr(exchange, "LAST_SECONDS", 0.05)
    registry.fail("any", fault, repository="team/bad")
    for _ in range(6):
        with pytest.raises(UpstreamError):
            await do(operation, client, "team/bad")
    registry.forget()
    monkeypatch.undo()
    for good in OPERATIONS:
        await do(good, client)
    assert client.health()[0].breaker == "closed"
    assert len(registry.requests) == len(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_pause_that_two_repositories_are_told_is_the_accounts(registry, client, operation):
    registry.fail(KIND[operation], TooMany(3600))
    for name in ("team/app", "team/other"):
        with pytest.raises(UpstreamUnavailable):
            await do(operation, client, name)
    registry.heal()
    registry.forget()
    with pytest.raises(UpstreamUnavailable, match="asked us to wait") as error:
        await do(operation, client, "team/third")
    assert 890 < error.value.retry_after <= 900
    assert registry.requests == []


async def test_what_cannot_be_reached_is_no_repositorys_fault(registry, client):
    await registry.stop(returning=True)
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable):
            await client.get_manifest("team/app", "v1")
    assert client.health()[0].breaker == "open"


@pytest.mark.parametrize("operation", ["head", "size"])
@pytest.mark.parametrize("status", [400, 401, 403, 405, 410, 500, 501, 502])
async def test_head_fails_and_get_works(registry, client, operation, status):
    """crossplane#3223, containerd#6684, harbor#14588: registries without HEAD, and filters before them.

    Those below 500 guard what was so before.
    """
    registry.fail("any", Status(status), method="HEAD")
    for _ in range(6):
        assert await do(operation, client)
    assert [one.method for one in registry.seen(KIND[operation])] == ["HEAD", "GET"] * 6
    assert client.health()[0].breaker == "closed"
    assert client.health()[0].last_error == ""


@pytest.mark.parametrize("operation", ["head", "size"])
@pytest.mark.parametrize(
    ("status", "each", "requests", "breaker"),
    [(500, 2, 10, "open"), (502, 2, 10, "open"), (503, 1, 5, "open"), (501, 2, 20, "closed"), (405, 2, 20, "closed")],
)
async def test_head_and_get_that_fail_count_once(registry, client, operation, status, each, requests, breaker):
    """405 and 503 guard what was so before: the one is no sign of illness, after the other nobody asks by GET."""
    registry.fail("any", Status(status))
    for number in range(10):
        with pytest.raises(UpstreamError):
            await do(operation, client)
        assert len(registry.requests) <= requests, number
    assert len(registry.requests) == requests
    assert [one.method for one in registry.requests[:2]] == ["HEAD", "GET" if each == 2 else "HEAD"]
    assert (client._endpoints[0].breakers.wait("team/app") > 0) == (breaker == "open")


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
