"""What the tests of processes, connections, logs and metrics share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from mirror import logs
from mirror.metrics import Metrics
from mirror.registry.connections import Connections
from mirror.registry.tls import ServerTls
from mirror.sink import Sink
from tests.unit.process.running import Running

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def say_hello(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="hello")


class Service:
    """A `Connections` on a free port of loopback, and raw sockets to it."""

    def __init__(self, connections: Connections, metrics: Metrics, listener: socket.socket) -> None:
        self.connections = connections
        self.metrics = metrics
        self.address: tuple[str, int] = listener.getsockname()[:2]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address)

    async def ask(self, text: bytes) -> bytes:
        """Send `text` on a new connection; return everything until the server closes it."""
        reader, writer = await self.connect()
        try:
            writer.write(text)
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()

    def count(self, name: str) -> float:
        """Return the sum of a metric's series, or 0."""
        lines = self.metrics.render().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture
def said(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Send all logs through a started sink, as a service does; the function returns what was written so far."""
    path = tmp_path / "said.log"
    with path.open("w") as file:
        sink = logs.configure("debug", "logfmt", Sink(file.fileno()))
        sink.start()

        def read() -> str:
            assert sink.flush(5)
            return path.read_text()

        yield read
        sink.stop()
    structlog.reset_defaults()
    logging.getLogger().handlers = [h for h in logging.getLogger().handlers if type(h).__module__ != logs.__name__]


@pytest.fixture
async def serve(said: Callable[[], str]) -> AsyncIterator[Callable[..., Service]]:
    async with contextlib.AsyncExitStack() as stack:

        def start(handler: Handler = say_hello, tls: ServerTls | None = None, **limits: float) -> Service:
            metrics = Metrics()
            connections = Connections(handler, metrics, **limits)
            listener = socket.create_server(("127.0.0.1", 0), backlog=128)
            stack.callback(listener.close)
            stack.push_async_callback(connections.drain, 0)
            connections.listen(listener, tls)
            return Service(connections, metrics, listener)

        yield start


@pytest.fixture
def start(tmp_path):
    running = []

    def start(environ=(), **options):
        folder = tmp_path / str(len(running))
        folder.mkdir()
        running.append(Running(folder, options, dict(environ)))
        return running[-1]

    yield start
    for program in running:
        program.end()
