"""Large answers: they leave in steps as the client takes them, and whoever takes the same shares the memory."""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
import termios

import pytest

from mirror.registry.memory import OWN, Bodies, Memory
from mirror.registry.responses import STEP
from tests.unit.registry.stage import until

LARGE = json.dumps({"schemaVersion": 2, "pad": "x" * 12_000_000}).encode()


@pytest.mark.parametrize("size", [STEP - 1, STEP, STEP + 1, 3_000_000])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_bodies_of_every_size_are_whole(content, face, size, method):
    body = bytes(range(256)) * (size // 256 + 1)
    digest = content.add_manifest(body[:size])
    wire = await face.connect()
    for _ in range(2):
        await wire.send(f"/v2/quay.io/a/manifests/{digest}", method)
        reply = await wire.read(method)
        assert (reply.status, reply.fields["content-length"]) == (200, str(size))
        assert reply.body == (body[:size] if method == "GET" else b"")
    await wire.close()


async def test_who_reads_nothing_holds_a_step_and_shares_the_rest(content, face):
    digest = content.add_manifest(LARGE)
    sockets = []
    loop = asyncio.get_running_loop()
    for _ in range(20):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, face.listeners[0].getsockname())
        await loop.sock_sendall(sock, f"GET /v2/quay.io/a/manifests/{digest} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        sockets.append(sock)
    bodies = face.dispatcher._responses._bodies._bodies
    await until(lambda: sum(body.takers for body in bodies.values()) == 20)
    assert len(bodies) == 1
    buffered = [one.transport.get_write_buffer_size() for one in face.server.connections]
    assert max(buffered) <= STEP + (64 << 10)
    assert max(unsent(one.transport) for one in face.server.connections) <= 512 << 10, "memory, too, the kernel's"
    for one in face.server.connections:
        face.server.memory.weigh(one)  # as the sweeper does: their shares have changed since they came
    assert face.server.memory.held < 20 * (STEP + (64 << 10)) + 2 * len(LARGE)
    for sock in sockets:
        sock.close()
    await until(lambda: not bodies)
    await until(lambda: face.server.memory.held == 0)


def unsent(transport: asyncio.Transport) -> int:
    """Return how many bytes the kernel holds for a client."""
    sock = transport.get_extra_info("socket")
    return struct.unpack("=i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]


def test_bodies_that_are_alike_are_one():
    bodies = Bodies()
    first, other = bodies.take(b"a" * 9000), bodies.take(b"b" + b"a" * 8999)
    again = bodies.take(bytes(b"a" * 9000))
    assert again is first
    assert other is not first
    assert (first.share, other.share) == (4500, 9000)
    for body in (first, other, again):
        bodies.release(body)
    assert not bodies._bodies


@pytest.mark.parametrize(
    ("target", "full", "status"),
    [
        ("/v2/", True, 503),
        ("/v2/quay.io/a/manifests/v1", True, 503),
        # Probes tell of the process, and a supervisor would end one that serves.
        ("/livez", True, 200),
        ("/readyz", True, 200),
        ("/v2/", False, 200),
        ("/v2/quay.io/a/manifests/v1", False, 200),
    ],
)
async def test_a_worker_without_memory_says_so(content, open_face, target, full, status):
    content.add_manifest(b"{}", "v1")
    memory = Memory(OWN)
    face = await open_face(memory=memory)
    memory.full = full
    reply = await face.ask(target)
    assert reply.status == status
    if status == 503:
        assert reply.fields["retry-after"] == "5"
        assert "memory" in json.loads(reply.body)["errors"][0]["message"]
