"""How long a client waits for headers: content says NotYet after 18 s, and this is the net below it."""

from __future__ import annotations

import asyncio
from types import TracebackType

from aiohttp import web

from mirror.content.callers import Caller, caller
from mirror.errors import NotYet
from mirror.registry.clients import client_of
from mirror.registry.connection import Connection
from mirror.registry.flow import ClientGone

# containerd gives up after 30 s without headers and then tries no other host in time (protocol.md 2.2).
LIMIT = 20.0


class Patience:
    """`async with` it around what may wait before the headers; it ends 20 s after the request came, or with its client.

    `arrived` is on the loop's clock; `client` is for whom it waits, where nobody has said yet who that is. Cancels
    what waited, and raises NotYet, or ClientGone where the client has left.
    """

    def __init__(self, request: web.BaseRequest, arrived: float, client: str = "") -> None:
        self._request = request
        self._timeout = asyncio.timeout_at(arrived + LIMIT)
        self._caller = Caller(client or client_of(request))
        self._task: asyncio.Task[object] | None = None

    async def __aenter__(self) -> None:
        if self._request.transport is None:
            raise ClientGone
        caller.set(self._caller)
        self._task = asyncio.current_task()
        self._watch(self)
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch(None)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise NotYet("this takes longer than a client waits", "ask again") from None
        if self._caller.left and self._task is not None:
            self._task.uncancel()
            if kind is not None and issubclass(kind, asyncio.CancelledError):
                raise ClientGone from error

    def end(self) -> None:
        """The client has left: nobody waits any more."""
        self._caller.left = True
        if self._task is not None:
            self._task.cancel()

    def _watch(self, waiting: Patience | None) -> None:
        if isinstance(self._request.protocol, Connection):
            self._request.protocol.waiting = waiting
