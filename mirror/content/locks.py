"""Locks on the host: one holder over all processes of a store, awaited without blocking the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.threads import Threads

_FIRST_WAIT = 0.005  # seconds; doubles up to _LONGEST_WAIT
_LONGEST_WAIT = 0.08


class Locks:
    """Exclusive locks by key. A holder that dies lets go at once: they are flocks."""

    def __init__(self, layout: Layout, threads: Threads) -> None:
        self._layout = layout
        self._threads = threads

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Hold the lock of `key` while the block runs; waits as long as another process holds it."""
        lock = FileLock(self._layout.lock(key))
        wait = _FIRST_WAIT
        try:
            while not await self._threads.run(lock.try_acquire):
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT)
            yield
        finally:
            lock.release()
