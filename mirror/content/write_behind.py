"""Bytes on their way to an upload's file: queued in their order, hashed and written by one thread at a time.

A thread that finds the next bytes waiting need not be woken for them; that is a fifth of the time that a fast push
would take. What waits is bounded, so that no client sends faster than the disk takes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from mirror.store.threads import Threads, settle
from mirror.store.upload import Upload

if TYPE_CHECKING:
    from hashlib import _Hash

_DEPTH = 3  # pieces that wait


class WriteBehind:
    """Appends pieces to an open upload and feeds them to `hasher`."""

    def __init__(self, upload: Upload, hasher: _Hash, threads: Threads) -> None:
        self._upload = upload
        self._hasher = hasher
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[int, bytearray]] = deque()
        self._job: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    async def put(self, position: int, content: bytearray) -> None:
        """Queue a piece that belongs at `position`, once there is room for it. Raises what writing raised."""
        while len(self._queue) >= _DEPTH:
            self._work()
            self._room = self._loop.create_future()
            await self._room
        self._queue.append((position, content))
        self._work()

    async def settle(self) -> None:
        """Wait until all is written that was queued. Raises what writing raised; then the rest is not written."""
        while self._queue or self._job is not None:
            self._work()
            job = self._job
            if job is not None:
                await settle(job)
                if self._job is job:
                    self._job = None

    def discard(self) -> None:
        """Let what waits not be written."""
        self._queue.clear()

    def _work(self) -> None:
        """Let a thread work if none does; raise what ended the last one."""
        if self._job is not None and self._job.done():
            job, self._job = self._job, None
            job.result()
        if self._job is None and self._queue:
            self._job = self._threads.run(self._append)
            self._job.add_done_callback(lambda _: self._wake())

    def _append(self) -> None:
        """Write what waits, and what comes to wait meanwhile. In a thread."""
        try:
            while True:
                try:
                    position, content = self._queue.popleft()
                except IndexError:  # not asked before: the queue may be cleared between the two
                    return
                if self._room is not None:
                    self._loop.call_soon_threadsafe(self._wake)
                self._upload.append(position, content, self._hasher)
        except BaseException:
            self._queue.clear()
            raise

    def _wake(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)
