"""Locks on the host: one holder over all processes of a store, awaited without blocking the loop.

In one process whoever lets go wakes the next one. Only one waits for other processes, and looks from the loop.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque

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

    def hold(self, kind: str, key: str, *, upstream: str = "", required: bool = False) -> Hold:
        """Return what holds the lock of `key` among its `kind` while a block runs; it waits for anybody else's end.

        Keys share _FILES files a kind, and an `upstream` has its own. So nothing that holds a lock may take another one
        of the same kind. Where the file cannot be locked the block runs without: two processes may then ask upstream
        the same, which harms nobody (`required`: raises OSError).
        """
        return Hold(self, kind, self._path(kind, key, upstream), required)

    def let_go(self, lock: FileLock, path: str) -> None:
        """Give a lock back, to whoever of this process is next."""
        lock.release()
        self._next(path)

    async def turn(self, path: str) -> None:
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

    async def take(self, lock: FileLock) -> None:
        """Take a lock whose turn it is in this process. Raises OSError; may be cancelled."""
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


class Hold:
    """`async with` it around what must be one at a time. Written out, since every miss takes some."""

    __slots__ = ("_kind", "_lock", "_locks", "_path", "_required")

    def __init__(self, locks: Locks, kind: str, path: str, required: bool) -> None:
        self._locks = locks
        self._kind = kind
        self._path = path
        self._required = required
        self._lock = FileLock(path)

    async def __aenter__(self) -> None:
        await self._locks.turn(self._path)
        try:
            await self._locks.take(self._lock)
        except BaseException as error:
            if self._required or not isinstance(error, OSError):
                self._locks.let_go(self._lock, self._path)
                raise
            _log.warning("lock_unusable", kind=self._kind, error=error.strerror)

    async def __aexit__(self, *_: object) -> None:
        self._locks.let_go(self._lock, self._path)
