"""A forward proxy that knows where each name is, for tests of egress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Self


class EgressProxy:
    """Answers CONNECT and absolute-form requests; `routes` maps host:port to a local port. Records what it is asked."""

    def __init__(self, routes: Mapping[str, int] | None = None, authorization: str = "") -> None:
        self.routes = dict(routes or {})
        self.authorization = authorization
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """What `proxy` of a configuration names."""
        return f"http://127.0.0.1:{self.port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")
        method, target, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields if one)}
        self.headers.append(headers)
        host = target if method == "CONNECT" else target.split("/")[2]
        self.asked.append((method, host))
        if self.authorization and headers.get("proxy-authorization") != self.authorization:
            writer.write(b"HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n")
            return True
        if host not in self.routes:
            writer.write(b"HTTP/1.1 502 Unknown\r\nContent-Length: 0\r\n\r\n")
            return True
        there, back = await asyncio.open_connection("127.0.0.1", self.routes[host])
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        else:
            path = "/" + target.split("/", 3)[3]
            kept = [one for one in fields if one and not one.lower().startswith(("proxy-", "connection"))]
            back.write("\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]).encode())
        await asyncio.gather(self._pipe(reader, back), self._pipe(there, writer))
        return False

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        writer.close()
