"""Lanes: how many requests of one sort run at once, so that small ones never queue behind blobs."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Lane:
    """Room for `width` holders at once (0 or infinite: no bound), first come, first served.

    Of that one repository leaves `spare` to the others: one that gets no answers does not hold them up. Waiting for
    room can be cancelled.
    """

    def __init__(self, width: float, spare: int = 0) -> None:
        self._free = width if width > 0 else math.inf
        self._most_of_one = self._free - spare
        self._held: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], str] = {}

    @property
    def free(self) -> bool:
        """Whether there is room for one more now."""
        return self._free > 0

    async def enter(self, repository: str = "") -> None:
        """Wait for a place; each must be given back by `leave`."""
        if self._free > 0 and self._held[repository] < self._most_of_one:
            self._take(repository)
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[place] = repository
        try:
            await place
        except asyncio.CancelledError:
            if self._waiting.pop(place, None) is None and not place.cancelled():
                self.leave(repository)  # it was given just when whoever waited left
            raise

    def leave(self, repository: str = "") -> None:
        """Give a place back."""
        self._free += 1
        self._held[repository] -= 1
        if not self._held[repository]:
            del self._held[repository]
        for place, one in list(self._waiting.items()) if self._waiting else ():
            if self._free <= 0:
                break
            if place.done():
                del self._waiting[place]
            elif self._held[one] < self._most_of_one:
                del self._waiting[place]
                self._take(one)
                place.set_result(None)

    def _take(self, repository: str) -> None:
        self._free -= 1
        self._held[repository] += 1

    @asynccontextmanager
    async def place(self, repository: str = "") -> AsyncIterator[None]:
        """Hold a place while the block runs."""
        await self.enter(repository)
        try:
            yield
        finally:
            self.leave(repository)
