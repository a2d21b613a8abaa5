from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import pytest
from aiohttp import http_parser, web

from mirror.errors import ConfigurationError
from mirror.metrics import Metrics
from mirror.registry import connections as module
from mirror.registry.connections import sample_loop_lag

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def until(condition, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def read_answer(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head, await reader.readexactly(length)


async def test_answers_several_requests_on_one_connection(serve):
    service = serve()
    reader, writer = await service.connect()
    for _ in range(3):
        writer.write(GET)
        head, body = await read_answer(reader)
        assert head.startswith(b"HTTP/1.1 200")
        assert body == b"hello"
    assert service.connections.open == 1
    writer.close()
    await until(lambda: service.connections.open == 0)


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n"])
async def test_cuts_a_first_request_whose_head_does_not_end(serve, begun):
    service = serve(header_timeout=0.3)
    started = time.monotonic()
    assert await service.ask(begun) == b""
    assert time.monotonic() - started > 0.25
    assert service.count('mirror_connections_cut_total{why="header_timeout"}') == 1


async def test_cuts_a_head_that_drips(serve):
    service = serve(header_timeout=0.3)
    reader, writer = await service.connect()
    writer.write(b"GET / HTTP/1.1\r\n")

    async def drip():
        while True:
            writer.write(b"a: b\r\n")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    # It may well send when we have closed, and is told so by a reset.
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    dripping.cancel()
    writer.close()


async def test_cuts_a_later_request_whose_head_does_not_end_but_not_an_idle_connection(serve):
    service = serve(header_timeout=0.3)
    slow, idle = await service.connect(), await service.connect()
    for reader, writer in (slow, idle):
        writer.write(GET)
        await read_answer(reader)
    slow[1].write(b"GET / HTTP/1.1\r\n")
    async with asyncio.timeout(5):
        assert await slow[0].read() == b""
    idle[1].write(GET)
    assert (await read_answer(idle[0]))[1] == b"hello"
    slow[1].close()
    idle[1].close()


async def test_closes_an_idle_connection(serve):
    service = serve(idle_timeout=0.3)
    reader, writer = await service.connect()
    writer.write(GET)
    await read_answer(reader)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    assert service.count('mirror_connections_cut_total{why="idle"}') == 1
    writer.close()


async def test_a_handler_that_waits_is_not_cut(serve):
    async def wait(request):
        await asyncio.sleep(0.8)
        return web.Response(text="late")

    service = serve(wait, header_timeout=0.2, idle_timeout=0.2, write_stall=0.2)
    reader, writer = await service.connect()
    writer.write(GET)
    assert (await read_answer(reader))[1] == b"late"
    writer.close()


async def test_cuts_a_reader_that_never_reads(serve):
    ended = asyncio.Event()

    async def flood(request):
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(1 << 16))
        finally:
            ended.set()

    service = serve(flood, write_stall=0.3)
    with socket.create_connection(service.address) as client:
        client.send(GET)
        async with asyncio.timeout(10):
            await ended.wait()
    assert service.count('mirror_connections_cut_total{why="write_stall"}') == 1


async def test_a_connection_that_was_lost_since_the_last_look_does_not_end_the_sweep(serve, monkeypatch):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request):
        begun.set()
        await go_on.wait()
        return web.Response(text="whole")

    service = serve(wait, header_timeout=3600, idle_timeout=3600, write_stall=3600)
    reader, writer = await service.connect()
    writer.write(GET)
    await begun.wait()
    ((connection, transport),) = service.connections._connections.items()
    with monkeypatch.context() as patch:
        # As TLS has it between the loss of the transport below and its own protocol's connection_lost.
        patch.setitem(transport._extra, "socket", None)
        await service.connections._sweep()
        assert connection.stalled_for(transport, time.monotonic()) == 0
    go_on.set()
    assert (await read_answer(reader))[1] == b"whole"
    writer.close()


async def test_a_slow_reader_inside_one_sendfile_window_is_not_cut(serve, tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(os.urandom(1 << 20))
    taken = bytearray()

    async def send(request):
        response = web.StreamResponse(headers={"Content-Length": str(1 << 20)})
        await response.prepare(request)
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        with path.open("rb") as file:
            await asyncio.get_running_loop().sendfile(request.transport, file)
        return response

    service = serve(send, write_stall=0.4)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(service.address)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, GET)
        begun = time.monotonic()
        # Slow enough that the one window takes longer than a stall may, and never still for as long.
        while time.monotonic() - begun < 1.5:
            taken += await loop.sock_recv(client, 8192)
            await asyncio.sleep(0.05)
        while not taken.endswith(path.read_bytes()[-64:]):
            chunk = await loop.sock_recv(client, 1 << 16)
            assert chunk, "cut although it moved"
            taken += chunk
    assert taken.partition(b"\r\n\r\n")[2] == path.read_bytes()


async def test_cuts_a_body_that_stops_coming(serve):
    async def upload(request):
        await request.read()
        return web.Response()

    service = serve(upload, write_stall=0.3)
    answer = await service.ask(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nonly this")
    assert answer == b""


async def test_at_the_cap_further_connections_wait_until_one_closes(serve):
    service = serve(connections=2)
    first, second = await service.connect(), await service.connect()
    await until(lambda: service.connections.open == 2)
    third = await service.connect()
    third[1].write(GET)
    await asyncio.sleep(0.1)
    assert service.connections.open == 2
    first[1].close()
    assert (await read_answer(third[0]))[1] == b"hello"
    for _, writer in (second, third):
        writer.close()


async def test_connections_of_one_client_are_limited_if_asked_for(serve):
    service = serve(connections_per_client=1)
    reader, writer = await service.connect()
    writer.write(GET)
    await read_answer(reader)
    assert await service.ask(b"") == b""
    writer.close()
    await until(lambda: service.connections.open == 0)
    assert b"hello" in await service.ask(GET.replace(b"Host", b"Connection: close\r\nHost"))


EMFILE = """
import asyncio, resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
from aiohttp import web
from mirror import logs
from mirror.metrics import Metrics
from mirror.registry.connections import Connections

logs.configure()

async def hello(request):
    open("/dev/null").close()  # what a handler needs is still there
    return web.Response(text="hello")

async def main():
    metrics = Metrics()
    service = Connections(hello, metrics)
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    service.listen(listener)
    print(listener.getsockname()[1], flush=True)
    while b'mirror_accept_pauses_total{why="descriptors"}' not in metrics.render():
        await asyncio.sleep(0.01)
    print(service.open, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_keeps_a_reserve_of_descriptors_and_goes_on_when_connections_close():
    process = subprocess.Popen(
        [sys.executable, "-c", EMFILE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        port = int(process.stdout.readline())
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(150)]
        accepted = int(process.stdout.readline())
        assert 60 < accepted < 100
        clients[0].sendall(GET)
        assert b"hello" in clients[0].recv(4096)
        clients[-1].sendall(GET)
        for client in clients[:100]:
            client.close()
        clients[-1].settimeout(10)
        assert b"hello" in clients[-1].recv(4096)
        for client in clients:
            client.close()
    finally:
        process.kill()
        said = process.communicate()[1]
    assert said.count("accepting_paused") == 1


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 65 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_refuses_what_is_malformed_and_closes(serve, text, caplog):
    service = serve()
    answer = await service.ask(text)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert b"hello" not in answer
    assert "Traceback" not in caplog.text


async def test_tls_on_a_plain_port_is_said_once_with_what_mends_it(serve, said):
    service = serve()
    for _ in range(3):
        answer = await service.ask(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        assert b"TLS was spoken to a port of plain HTTP" in answer
    assert "request_malformed" not in said()
    assert said().count("event=tls_on_plain_port") == 1
    assert f"address={service.address[0]}:{service.address[1]}" in said()
    assert "or `insecure = true` in registries.conf, or give this mirror a certificate: `tls` in mirror.yaml" in said()


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        (b"GET / HTTP/9.9\r\n\r\n", "what came is not HTTP/1.1", "speak HTTP/1.1 to this port"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 was spoken without TLS", "speak HTTP/1.1 to this port"),
        (b"hello\r\n\r\n", "what came is not HTTP", "see which program there speaks to this port"),
        (b"GET / HTTP/1.1\r\n\r\n", "the request has no Host field, or more than one", "does a proxy on the way"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "Host field, or more than one", "does a proxy on the way"),
        (
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "the request says how long it is more than once",
            "does a proxy on the way",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 65 + b"\r\n",
            "the request has more than 64 fields",
            "does a proxy on the way",
        ),
        (
            b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            "the head of the request is too long",
            "a line of it may have 8190 bytes, all of it 65536",
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nb c: d\r\n\r\n", "the request is malformed", "does a proxy on the way"),
    ],
)
async def test_what_is_no_request_is_told_what_is_wrong_and_what_mends_it(serve, said, text, what, remedy):
    answer = await serve().ask(text)
    message = json.loads(answer.rpartition(b"\r\n")[2])["errors"][0]["message"]
    assert what in message
    assert f": {remedy}" in message
    assert f'remedy="{remedy}' in said()


@pytest.mark.parametrize(
    "text",
    [
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nb: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"b: " + b"a" * 8000 + b"\r\n") * 12,
    ],
)
async def test_refuses_a_head_that_is_too_large(serve, text):
    assert b" 431 " in (await serve().ask(text)).partition(b"\r\n")[0]


async def test_a_handler_that_fails_is_a_500_without_its_reason(serve):
    async def fail(request):
        raise RuntimeError("the secret reason")

    answer = await serve(fail).ask(GET)
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"secret" not in answer


async def test_drain_lets_an_answer_end_and_closes_the_idle(serve):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(request):
        begun.set()
        await go_on.wait()
        return web.Response(text="whole")

    service = serve(work)
    go_on.set()
    idle = await service.connect()
    idle[1].write(GET)
    await read_answer(idle[0])
    go_on.clear()
    begun.clear()
    busy = await service.connect()
    busy[1].write(GET)
    await begun.wait()
    drain = asyncio.create_task(service.connections.drain(10))
    async with asyncio.timeout(5):
        assert await idle[0].read() == b""
    assert not drain.done()
    go_on.set()
    assert (await busy[0].read()).endswith(b"whole")
    await drain
    with pytest.raises(ConnectionRefusedError):
        # A client that is refused takes its next mirror; one that the kernel queued would wait for nobody.
        await service.ask(GET)
    for _, writer in (idle, busy):
        writer.close()


async def test_a_drain_that_has_time_waits_for_the_next_request_of_who_is_idle(serve):
    service = serve()
    first, second = await service.connect(), await service.connect()
    for reader, writer in (first, second):
        writer.write(GET)
        await read_answer(reader)
    drain = asyncio.create_task(service.connections.drain(60, idle=1.0))
    await asyncio.sleep(0.3)
    first[1].write(GET)
    assert b"close" in (await first[0].read()).lower()
    assert not drain.done()
    async with asyncio.timeout(10):
        assert await second[0].read() == b""
        await drain
    for _, writer in (first, second):
        writer.close()


async def test_a_drain_may_be_given_less_time_while_it_runs(serve):
    begun = asyncio.Event()

    async def work(request):
        begun.set()
        await asyncio.sleep(60)
        return web.Response()

    service = serve(work)
    reader, writer = await service.connect()
    writer.write(GET)
    await begun.wait()
    unhurried = asyncio.create_task(service.connections.drain(3600, idle=5))
    await asyncio.sleep(0.1)
    unhurried.cancel()
    async with asyncio.timeout(5):
        await service.connections.drain(0.1)
        assert await reader.read() == b""
    assert service.connections.open == 0
    writer.close()


async def test_drain_ends_a_connection_that_keeps_asking(serve):
    async def work(request):
        await asyncio.sleep(0.01)
        return web.Response(text="hello")

    service = serve(work)
    reader, writer = await service.connect()
    writer.write(GET)
    await read_answer(reader)

    async def ask():
        while True:
            writer.write(GET * 3)
            await read_answer(reader)

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        await service.connections.drain(4)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asking
    assert service.count('mirror_connections_cut_total{why="drain"}') == 0
    writer.close()


async def test_drain_aborts_what_does_not_end_in_time(serve):
    cancelled = asyncio.Event()

    async def stuck(request):
        try:
            response = web.StreamResponse(headers={"Content-Length": "100"})
            await response.prepare(request)
            while True:
                await response.write(b"a")
                await asyncio.sleep(0.01)
        finally:
            cancelled.set()

    service = serve(stuck)
    reader, writer = await service.connect()
    writer.write(GET)
    await reader.readuntil(b"\r\n\r\n")
    await service.connections.drain(0.2)
    assert service.connections.open == 0
    async with asyncio.timeout(5):
        await cancelled.wait()
    writer.close()


class Sibling:
    """The share of a worker whose siblings have few connections; `room` is what it may take."""

    def __init__(self, *room: int | None) -> None:
        self._room = list(room)
        self.counts: list[int] = []

    def count(self, connections: int) -> None:
        self.counts.append(connections)

    def leave(self) -> None:
        self.counts.append(-1)

    def room(self) -> int | None:
        return self._room.pop(0) if len(self._room) > 1 else self._room[0]


@pytest.mark.parametrize(
    ("lag", "room", "taken"),
    [
        (0.0, [None], [16, 16, 8]),
        (0.004, [None], [16, 16, 8]),
        (0.006, [None], [1] * 40),  # what it did always: guards those that are behind
        (0.0, [4, 6, 100], [4, 6, 16, 14]),
        (0.006, [4], [1] * 40),
        (0.0, [0, 0, 12], [12, 12, 12, 4]),  # it leaves them to others, and looks again
        (0.0, [0], [16, 16, 8]),  # nobody takes them: clients do not wait for a worker that hangs
    ],
)
async def test_how_much_of_a_burst_one_wake_up_takes(serve, monkeypatch, lag, room, taken):
    share = Sibling(*room)
    service = serve(share=share)
    connections = service.connections
    monkeypatch.setattr(connections, "_turned", lambda: None)
    monkeypatch.setattr(connections, "_lag", lag)
    found = []
    accept = connections._accept

    def counted(listener):
        before = connections.open
        accept(listener)
        if connections.open > before:
            found.append(connections.open - before)

    listener = next(iter(connections._listeners))
    asyncio.get_running_loop().remove_reader(listener)
    clients = [socket.create_connection(service.address) for _ in range(40)]
    monkeypatch.setattr(connections, "_accept", counted)
    asyncio.get_running_loop().add_reader(listener, counted, listener)
    await until(lambda: connections.open == 40)
    assert found == taken
    assert share.counts[-1] == 40
    for client in clients:
        client.close()
    await until(lambda: connections.open == 0)
    assert share.counts[-1] == 0
    await connections.drain(0)
    assert share.counts[-1] == -1


async def test_who_had_left_when_it_came_is_closed_and_takes_nobody_s_turn(serve, monkeypatch):
    asked = []

    async def answer(request):
        asked.append(request.path)
        return web.Response(text="hello")

    service = serve(answer)
    connections = service.connections
    monkeypatch.setattr(connections, "_lag", 1.0)  # one that waits in a turn of the loop
    listener = next(iter(connections._listeners))
    asyncio.get_running_loop().remove_reader(listener)
    for _ in range(50):
        with socket.create_connection(service.address) as client:
            client.send(GET.replace(b"/", b"/left", 1))
    reader, writer = await service.connect()
    writer.write(GET)
    connections._accept(listener)
    assert connections.open == 1
    asyncio.get_running_loop().add_reader(listener, connections._accept, listener)
    assert (await read_answer(reader))[1] == b"hello"
    assert asked == ["/"]
    assert service.count('mirror_connections_cut_total{why="left"}') == 50
    writer.close()


async def test_a_worker_that_takes_none_is_not_waited_for(serve):
    share = Sibling(None)
    service = serve(share=share, connections=1)
    first = await service.connect()
    await until(lambda: service.connections.open == 1)
    assert share.counts[-1] == -1
    first[1].close()
    await until(lambda: share.counts[-1] == 0)


async def test_the_turn_in_which_connections_are_taken_is_the_lag(serve):
    service = serve()

    async def ask():
        assert b"hello" in await service.ask(GET.replace(b"Host", b"Connection: close\r\nHost"))

    await ask()
    service.connections._lag = 1.0
    await ask()
    assert 0 < service.connections._lag < 1  # measured anew


async def test_accepted_connections_inherit_their_options(serve):
    seen = {}

    async def look(request):
        sock = request.transport.get_extra_info("socket")
        seen["keepalive"] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        seen["timeout"] = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        seen["nodelay"] = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        return web.Response()

    await serve(look).ask(GET.replace(b"Host", b"Connection: close\r\nHost"))
    assert seen == {"keepalive": 1, "timeout": 60000, "nodelay": 1}


async def test_serves_a_unix_socket(serve, tmp_path):
    service = serve(write_stall=1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        service.connections.listen(listener)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(GET)
        assert (await read_answer(reader))[1] == b"hello"
        writer.close()
        await service.connections.drain(0)


def test_refuses_the_pure_python_parser(monkeypatch):
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
    with pytest.raises(ConfigurationError, match="compiled HTTP parser"):
        module.require_compiled_parser()


async def test_loop_lag_is_seen():
    metrics = Metrics()
    sampling = asyncio.create_task(sample_loop_lag(metrics, 0.01))
    await asyncio.sleep(0.02)
    time.sleep(0.3)
    await asyncio.sleep(0.02)
    sampling.cancel()
    lines = dict(line.rsplit(" ", 1) for line in metrics.render().decode().splitlines() if "loop_lag" in line)
    assert float(lines['mirror_loop_lag_seconds_bucket{le="+Inf"}']) > float(
        lines['mirror_loop_lag_seconds_bucket{le="0.1"}']
    )
