"""Locks on the host: one holder over all processes of a store, awaited without blocking the loop.

In one process whoever lets go wakes the next one. Only one waits for other processes, and looks from the loop.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mirror import logs
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.threads import Threads

_FIRST_WAIT = 0.005  # seconds between looks at a lock that another process holds; doubles up to _LONGEST_WAIT
_LONGEST_WAIT = 0.08
_FILES = 4096  # lock files are never deleted, so there is not one for each tag ever asked for

_log = logs.get("content.locks")


class Locks:
    """Exclusive locks by key. A holder that dies lets go at once: they are flocks."""

    def __init__(self, layout: Layout, threads: Threads) -> None:
        self._layout = layout
        self._threads = threads
        self._turns: dict[str, deque[asyncio.Future[None]]] = {}  # by file: who of this process waits behind one

    def file(self, kind: str, key: str, upstream: str = "") -> FileLock:
        """Return the lock that `hold` takes, for a thread that does not wait for it."""
        return FileLock(self._path(kind, key, upstream))

    def _path(self, kind: str, key: str, upstream: str) -> str:
        share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % _FILES
        return self._layout.lock(f"{kind} {upstream} {share}" if upstream else f"{kind} {share}")

    @asynccontextmanager
    async def hold(self, kind: str, key: str, *, upstream: str = "", required: bool = False) -> AsyncIterator[None]:
        """Hold the lock of `key` among its `kind` while the block runs; waits as long as anybody else holds it.

        Keys share _FILES files a kind, and an `upstream` has its own. So nothing that holds a lock may take another one
        of the same kind. Where the file cannot be locked the block runs without: two processes may then ask upstream
        the same, which harms nobody (`required`: raises OSError).
        """
        path = self._path(kind, key, upstream)
        lock = FileLock(path)
        await self._turn(path)
        try:
            try:
                await self._take(lock)
            except OSError as error:
                if required:
                    raise
                _log.warning("lock_unusable", kind=kind, error=error.strerror)
            yield
        finally:
            lock.release()
            self._next(path)

    async def _turn(self, path: str) -> None:
        """Wait until nobody else of this process has the lock or waits for it before us."""
        waiting = self._turns.get(path)
        if waiting is None:
            self._turns[path] = deque()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                waiting.remove(turn)
            else:
                self._next(path)  # it came just when the caller left
            raise

    def _next(self, path: str) -> None:
        waiting = self._turns[path]
        if waiting:
            waiting.popleft().set_result(None)
        else:
            del self._turns[path]

    async def _take(self, lock: FileLock) -> None:
        opening = self._threads.run(lock.open)
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread may still open it after the caller has gone.
            opening.add_done_callback(lambda _: lock.release())
            raise
        wait = _FIRST_WAIT
        while not lock.retry():
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)
