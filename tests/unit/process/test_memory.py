"""What one connection may hold, and what becomes of those that hold most when there is too much of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from aiohttp import web

from mirror.metrics import MEMORY_SHORT
from mirror.registry.memory import OWN, Memory
from tests.unit.process.test_connections import GET, read_answer, until

MIB = 1 << 20


def head(size: int, byte: bytes = b"a") -> bytes:
    """Return a request whose head has about `size` bytes, in fields that are no longer than they may be."""
    fields = b""
    while len(fields) < size - 100:
        fields += b"X: " + byte * min(4000, size - 60 - len(fields)) + b"\r\n"
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n"


POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
LARGE = head(66_000)
FITS = head(64_000)


class Gate:
    """A handler that reads the body and answers when it is let."""

    def __init__(self) -> None:
        self.begun = 0
        self.open = asyncio.Event()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.begun += 1
        await request.content.read()
        await self.open.wait()
        return web.Response(text=str(len(request.raw_headers)))


@pytest.mark.parametrize(
    ("before", "pieces"),
    [
        pytest.param(b"", [LARGE], id="whole"),
        pytest.param(b"", [LARGE[:-2]], id="not whole"),
        pytest.param(b"", [LARGE[:30_000], LARGE[30_000:]], id="in pieces"),
        pytest.param(b"", [GET + LARGE], id="behind one in the same read"),
        pytest.param(GET, [LARGE], id="behind an answer, whole"),
        pytest.param(GET, [LARGE[:-2]], id="behind an answer, not whole"),
        pytest.param(GET, [LARGE[:40_000], LARGE[40_000:]], id="behind an answer, in pieces"),
        pytest.param(POST % 100_000 + bytes(100_000), [LARGE], id="behind a body"),
        pytest.param(FITS, [LARGE], id="behind a large one"),
    ],
)
async def test_a_head_that_is_too_large_is_refused_in_its_turn(serve, before, pieces):
    gate = Gate()
    service = serve(gate)
    reader, writer = await service.connect()
    if before:
        writer.write(before)
        await until(lambda: gate.begun == 1)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.05)  # so that it comes by itself; more in one read changes nothing
    assert all(connection.weigh() < MIB // 2 for connection in service.connections.connections)
    gate.open.set()
    answered = len(before) > 0 or pieces[0].startswith(GET)
    if answered:
        assert (await read_answer(reader))[0].startswith(b"HTTP/1.1 200")
    assert b" 431 " in (await read_answer(reader))[0].partition(b"\r\n")[0]
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    assert gate.begun == answered
    writer.close()


@pytest.mark.parametrize(
    "requests",
    [
        # What it did always: guards against refusing what fits.
        pytest.param([FITS], id="one that fits"),
        pytest.param([FITS] * 5, id="many that fit"),
        pytest.param([head(40_000, b"\xff")] * 5, id="no text"),
        pytest.param([GET] * 500, id="many small ones"),
        pytest.param([POST % 300_000 + bytes(300_000), FITS] * 3, id="bodies between"),
        pytest.param([POST % 65_536 + b"\r\n\r\n" * 16_384, GET] * 3, id="a body like ends of heads"),
        pytest.param(
            [
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                + b"10\r\n0123456789abcdef\r\n" * 9000
                + b"0\r\n\r\n",
                FITS,
            ]
            * 2,
            id="chunks between",
        ),
    ],
)
@pytest.mark.parametrize("size", [1 << 20, 9000, 65_537])
async def test_what_comes_ahead_is_answered_in_order(serve, requests, size):
    gate = Gate()
    gate.open.set()
    service = serve(gate)
    reader, writer = await service.connect()

    async def send():
        text = b"".join(requests)
        for start in range(0, len(text), size):
            writer.write(text[start : start + size])
            await writer.drain()

    sending = asyncio.create_task(send())
    for text in requests:
        lines = text.partition(b"\r\n\r\n")[0].count(b"\r\n")
        assert (await read_answer(reader))[1] == str(lines).encode()
    await sending
    writer.close()


@pytest.mark.parametrize("sent", [head(60_000), head(8000), head(60_000, b"\xff"), GET])
async def test_what_comes_behind_a_request_that_waits_is_not_read(serve, sent):
    gate = Gate()
    service = serve(gate)
    reader, writer = await service.connect()
    writer.write(sent)
    await until(lambda: gate.begun == 1)
    (connection,) = service.connections.connections
    for _ in range(-(-4 * MIB // len(sent))):
        writer.write(sent)
    await until(lambda: connection._buffer_paused)
    chunks = connection.chunks
    await asyncio.sleep(0.05)
    assert connection.chunks == chunks
    assert len(connection._messages) <= 2
    assert connection.weigh() < MIB
    gate.open.set()
    for _ in range(3):
        assert (await read_answer(reader))[0].startswith(b"HTTP/1.1 200")
    writer.transport.abort()


async def test_what_a_connection_held_is_not_counted_when_it_is_closed(serve):
    gate = Gate()
    memory = Memory()
    service = serve(gate, memory=memory)
    _, writer = await service.connect()
    writer.write(FITS * 3)
    await until(lambda: gate.begun == 1)
    await until(lambda: memory.held > 3 * len(FITS))
    writer.transport.abort()
    await until(lambda: service.connections.open == 0)
    assert memory.held > len(FITS)  # the request that is answered is there until its handler ends
    gate.open.set()
    await until(lambda: memory.held == 0)


async def test_who_holds_most_and_takes_least_is_cut(serve):
    gate = Gate()
    memory = Memory(OWN + 4 * MIB)
    service = serve(gate, memory=memory)
    small = await service.connect()
    small[1].write(GET)
    await until(lambda: gate.begun == 1)
    large = []
    while not service.count('mirror_connections_cut_total{why="memory"}'):
        reader, writer = await service.connect()
        writer.write(FITS * 3)
        large.append((reader, writer))
        await asyncio.sleep(0.01)
        assert len(large) < 50
    assert memory.held <= 4 * MIB
    assert not memory.full
    assert service.metrics.read(MEMORY_SHORT)[0][()] > 0
    gate.open.set()
    assert (await read_answer(small[0]))[1] == b"1"
    ends = [await read_to_the_end(reader, writer) for reader, writer in large]
    assert not ends[0], "the first has stood still for longest"
    assert ends[-1], "the last has only come"
    small[1].close()


async def read_to_the_end(reader, writer):
    """Return what the server sends before a second passes without a byte, nothing where it has cut the connection."""
    found = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        while True:
            async with asyncio.timeout(1):
                piece = await reader.read(1 << 16)
            if not piece:
                break
            found += piece
    writer.transport.abort()
    return found


async def test_where_cutting_is_not_enough_idle_connections_go_and_then_nothing_new_is_taken(serve):
    gate = Gate()
    memory = Memory(OWN + 300 * 1024)
    service = serve(gate, memory=memory, idle_timeout=60)
    gate.open.set()
    idle = []
    for _ in range(8):
        reader, writer = await service.connect()
        writer.write(GET)
        await read_answer(reader)
        idle.append((reader, writer))
    gate.open.clear()
    busy = []
    for _ in range(12):
        reader, writer = await service.connect()
        writer.write(GET)
        busy.append((reader, writer))
    await until(lambda: memory.full)
    await until(lambda: service.connections.open == 12)
    gate.open.set()
    for reader, _ in busy:
        assert (await read_answer(reader))[1] == b"1"
    for _, writer in (*busy, *idle):
        writer.close()
    await until(lambda: not memory.full)


async def test_a_socket_takes_no_more_at_once_than_a_head(serve):
    service = serve()
    with socket.create_connection(service.address):
        await until(lambda: service.connections.open == 1)
        await until(lambda: len(service.connections.connections) == 1)
        (connection,) = service.connections.connections
        assert connection.transport.max_size == 1 << 16
