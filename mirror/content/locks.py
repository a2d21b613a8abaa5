"""Locks on the host: one holder over all processes of a store, awaited without blocking the loop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mirror import logs
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.threads import Threads

_FIRST_WAIT = 0.005  # seconds; doubles up to _LONGEST_WAIT
_LONGEST_WAIT = 0.08
_FILES = 4096  # lock files are never deleted, so there is not one for each tag ever asked for

_log = logs.get("content.locks")


class Locks:
    """Exclusive locks by key. A holder that dies lets go at once: they are flocks."""

    def __init__(self, layout: Layout, threads: Threads) -> None:
        self._layout = layout
        self._threads = threads

    def file(self, kind: str, key: str) -> FileLock:
        """Return the lock that `hold` takes, for a thread that does not wait for it."""
        share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % _FILES
        return FileLock(self._layout.lock(f"{kind} {share}"))

    @asynccontextmanager
    async def hold(self, kind: str, key: str, *, required: bool = False) -> AsyncIterator[None]:
        """Hold the lock of `key` among its `kind` while the block runs; waits as long as anybody else holds it.

        Keys share _FILES files a kind. So nothing that holds a lock may take another one of the same kind. Where the
        file cannot be locked the block runs without: two processes may then ask upstream the same, which harms nobody
        (`required`: raises OSError).
        """
        lock = self.file(kind, key)
        wait = _FIRST_WAIT
        try:
            while not await self._acquired(lock):
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT)
        except OSError as error:
            if required:
                raise
            _log.warning("lock_unusable", kind=kind, error=error.strerror)
        try:
            yield
        finally:
            lock.release()

    async def _acquired(self, lock: FileLock) -> bool:
        trying = self._threads.run(lock.try_acquire)
        try:
            return await asyncio.shield(trying)
        except asyncio.CancelledError:
            # The thread may still get it after the caller has gone.
            trying.add_done_callback(lambda _: lock.release())
            raise
