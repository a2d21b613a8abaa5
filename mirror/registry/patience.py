"""How long a client waits for headers: content says NotYet after 18 s, and this is the net below it."""

from __future__ import annotations

import asyncio
from types import TracebackType

from mirror.errors import NotYet

# containerd gives up after 30 s without headers and then tries no other host in time (protocol.md 2.2).
LIMIT = 20.0


class Patience:
    """`async with` it around what may wait before the headers; it ends 20 s after the request came.

    `arrived` is on the loop's clock. Raises NotYet, and cancels what waited.
    """

    def __init__(self, arrived: float) -> None:
        self._timeout = asyncio.timeout_at(arrived + LIMIT)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise NotYet("this takes longer than a client waits", "ask again") from None
