"""Files to be sent: one that is whole, and one that grows while it is read. Both are `answers.Readable`."""

from __future__ import annotations

import os
import time

from mirror.content.fill import Fill
from mirror.errors import StoreUnreadable
from mirror.store import files
from mirror.store.faults import path_of, unreadable
from mirror.store.files import PageCache
from mirror.store.threads import Threads


class WholeFile:
    """A verified file; closes its descriptor with itself. Reading it raises StoreUnreadable."""

    __slots__ = ("_cache", "_loaded", "_size", "_threads", "fd")

    def __init__(self, fd: int, size: int, cache: PageCache, threads: Threads) -> None:
        self.fd = fd
        self._size = size
        self._loaded = (0, 0)  # from and to which byte
        self._cache = cache
        self._threads = threads

    def ready(self) -> int:
        """Return the file's size in bytes."""
        return self._size

    async def more(self, position: int) -> int:  # noqa: ARG002 - Readable's signature
        """Return the file's size in bytes."""
        return self._size

    async def load(self, start: int, stop: int) -> None:
        """Make sure that the bytes are in the page cache; those that this loaded last are."""
        if self._loaded[0] <= start and stop <= self._loaded[1]:
            return
        if not self._cache.resident(self.fd, start, stop):
            await self._threads.complete(files.read_ahead, self.fd, start, stop)
        self._loaded = (start, stop)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes start..stop."""
        return files.read_bytes(self.fd, start, stop)

    def failed(self, error: OSError, position: int) -> StoreUnreadable:
        """Return the error of a descriptor that could not be read at `position` (bytes)."""
        return unreadable(path_of(self.fd), error, position)

    def close(self) -> None:
        """Close the descriptor."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class GrowingFile:
    """A download under way, read at the client's own pace; holds the fill's file open until it is closed.

    `held`: its last 64 KiB are not ready before the digest agrees, as for an answer that becomes the whole blob.
    `elsewhere`: the reader has a source of its own, to which it turns where this one is slow.
    """

    __slots__ = ("_cache", "_fill", "_held", "_since", "_threads", "fd")

    def __init__(
        self, fill: Fill, cache: PageCache, threads: Threads, *, held: bool = True, elsewhere: bool = False
    ) -> None:
        self._fill = fill
        self._held = held
        self._since = time.monotonic() if elsewhere else 0.0
        self._cache = cache
        self._threads = threads
        self.fd = fill.attach()

    def ready(self) -> int:
        """Return how many bytes may be sent."""
        return self._fill.visible if self._held else self._fill.written

    async def more(self, position: int) -> int:
        """Wait for more than `position` bytes; raise what ended the download, or NotYet after two idle minutes.

        Raises StoreFull where another source's download is too slow for this reader.
        """
        if self._since:
            return await self._fill.more_for_another(position, time.monotonic() - self._since)
        return await self._fill.more(position, held=self._held)

    async def load(self, start: int, stop: int) -> None:
        """Make sure that the bytes are in the page cache."""
        if not self._cache.resident(self.fd, start, stop):
            await self._threads.complete(files.read_ahead, self.fd, start, stop)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes start..stop."""
        return files.read_bytes(self.fd, start, stop)

    def failed(self, error: OSError, position: int) -> StoreUnreadable:
        """Return the error of a descriptor that could not be read at `position` (bytes)."""
        return unreadable(path_of(self.fd), error, position)

    def close(self) -> None:
        """Let go of the fill's file."""
        if self.fd >= 0:
            self.fd = -1
            self._fill.detach()
