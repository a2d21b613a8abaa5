"""Lanes: how many requests of one sort run at once, so that small ones never queue behind blobs."""

from __future__ import annotations

import asyncio
import math


class Lane:
    """Room for `width` holders at once (0 or infinite: no bound). Waiting for room can be cancelled."""

    def __init__(self, width: float) -> None:
        self._places = None if width <= 0 or width == math.inf else asyncio.Semaphore(int(width))

    @property
    def free(self) -> bool:
        """Whether there is room for one more now."""
        return self._places is None or not self._places.locked()

    async def enter(self) -> None:
        """Wait for a place; each must be given back by `leave`."""
        if self._places is not None:
            await self._places.acquire()

    def leave(self) -> None:
        """Give a place back."""
        if self._places is not None:
            self._places.release()

    async def __aenter__(self) -> None:
        await self.enter()

    async def __aexit__(self, *_: object) -> None:
        self.leave()
