"""Which content goes when room is needed: what was used longest ago of what an upstream can give again."""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from mirror import logs
from mirror.errors import StoreError, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store.hosted import Hosted
from mirror.store.index import Entry, Index
from mirror.store.layout import Layout
from mirror.store.sets import Pins, Sets
from mirror.store.walk import Found, find_blobs

_PAGE = 64  # rows asked for at a time: one eviction needs few
_OLDEST = 4096  # files remembered of a scan
_SCAN_LASTS = 10.0  # seconds; a million files take some four
_MOST_FAILURES = 16  # unlinks in a row: the file system does not let us, so it is left alone
# What is evicted between two looks whether it helps: a file system with snapshots, or one that somebody else fills as
# fast as it is emptied, takes no more of the cache than this.
_TRIAL_FILES = 64
_TRIAL_BYTES = 256 << 20
_HELPS = 4  # at least one part in so many of what was evicted must be free afterwards
_SETTLES = 0.5  # seconds in which a file system counts what was deleted as free (XFS, Btrfs and ZFS do it later)


class Room(NamedTuple):
    """What a file system has free: bytes and inodes."""

    bytes: int
    inodes: int


class _Trial:
    """Looks, now and then, whether evicting gives room."""

    def __init__(self, look: Callable[[], Room] | None) -> None:
        self._look = look
        self._begin()

    def _begin(self) -> None:
        self._before = self._look() if self._look is not None else Room(0, 0)
        self.files = self.bytes = 0

    def in_vain(self) -> bool:
        """Tell, when it is time to look, whether what was evicted since the last look gave next to no room."""
        if self._look is None or (self.files < _TRIAL_FILES and self.bytes < _TRIAL_BYTES):
            return False
        until = time.monotonic() + _SETTLES
        while not self._helped() and time.monotonic() < until:
            time.sleep(_SETTLES / 10)
        helped = self._helped()
        self._begin()
        return not helped

    def _helped(self) -> bool:
        assert self._look is not None
        now = self._look()
        counted = now.inodes or self._before.inodes  # Btrfs counts none
        return (now.bytes - self._before.bytes) * _HELPS >= self.bytes and (
            not counted or (now.inodes - self._before.inodes) * _HELPS >= self.files
        )


class _Scan:
    """What the files themselves say, for while the index cannot: their bytes, and the oldest of them."""

    def __init__(self, layout: Layout) -> None:
        self.total = 0
        self.made = time.monotonic()
        oldest = heapq.nsmallest(_OLDEST, self._counted(find_blobs(layout)), key=lambda found: found.used)
        self.oldest = iter(oldest)

    def _counted(self, blobs: Iterator[Found]) -> Iterator[Found]:
        for found in blobs:
            self.total += found.size
            yield found


class Eviction:
    """Frees bytes, one digest at a time: the file, then its row. For threads only.

    What image sets pin stays, and what was pushed here. While `offline` nothing goes, because nothing would come
    back. Removing a file that is being read is fine: whoever has it open reads it to its end.
    """

    def __init__(
        self,
        layout: Layout,
        index: Index,
        pins: Pins,
        hosted: Hosted,
        *,
        offline: bool = False,
    ) -> None:
        self._layout = layout
        self._index = index
        self._offline = offline
        self._pins = pins
        self._hosted = hosted
        self._sets = Sets(layout)
        self._scan: _Scan | None = None
        self._counting = threading.Lock()
        self._log = logs.get("eviction")
        self.in_vain = False  # whether the last eviction gave no room
        self.blobs = 0  # evicted by this process so far
        self.bytes = 0

    def cached(self) -> int:
        """Return the bytes of content that is neither pinned nor hosted."""
        kept = self._pins.size() + self._hosted.size(besides=self._pins.digests())
        try:
            if not self._index.needs_rebuild():
                return max(0, self._index.total() - kept)
        except StoreError:
            pass
        return max(0, self._files().total - kept)

    def evictable(self) -> int:
        """Return how many bytes eviction could free at most."""
        return 0 if self._offline else self.cached()

    def write_uses(self) -> None:
        """Write what this process noted, so that the rows say what there is and when it was used."""
        try:
            self._index.flush()
        except StoreError:
            self._log.debug("uses_not_written")

    def free(self, needed: int, files: int = 0, room: Callable[[], Room] | None = None) -> int:
        """Evict until `needed` bytes and `files` files are gone, or nothing that may go is left; return the bytes.

        It stops before that where the file system lets nothing go, where it cannot be read what must stay, and, with
        `room`, where evicting gives no room there: `in_vain` says so then.
        """
        self.in_vain = False
        if self._offline or (needed <= 0 and files <= 0):
            return 0
        self.write_uses()
        freed = gone = failures = 0
        trial = _Trial(room)
        try:
            for digest in self._candidates():
                if self._stays(digest) or os.path.lexists(self._layout.part(digest)):
                    continue
                removed = self._remove_unpinned(digest)
                failures = failures + 1 if removed is None else 0
                freed += removed or 0
                gone += bool(removed)
                trial.bytes += removed or 0
                trial.files += bool(removed)
                if freed >= needed and gone >= files:
                    break
                if failures >= _MOST_FAILURES:
                    self._log.error("eviction_stopped", why=f"{failures} files in a row cannot be removed")
                    break
                if trial.in_vain():
                    self.in_vain = True
                    self._log.error("eviction_in_vain", blobs=gone, bytes=freed)
                    break
        except StoreUnreadable as error:
            self._log.error("eviction_stopped", why=str(error))
        with self._counting:
            self.blobs += gone
            self.bytes += freed
        return freed

    def delete(self, digests: Iterable[Digest]) -> list[Digest]:
        """Delete what of `digests` nothing keeps, offline too; return those that are gone.

        Raises StoreUnreadable, and StoreError where nothing can be removed.
        """
        gone, failures = [], 0
        for digest in digests:
            removed = self._remove_unpinned(digest)
            failures = failures + 1 if removed is None else 0
            if removed:
                gone.append(digest)
            if failures >= _MOST_FAILURES:
                raise StoreError(f"{failures} files in a row cannot be removed", "look at the disk: mirror status")
        return gone

    def _remove_unpinned(self, digest: Digest) -> int | None:
        """Remove one digest unless it has just been pinned or pushed; while this looks, nobody can do that."""
        try:
            with self._sets.pinning():
                return 0 if self._stays(digest) else self._remove(digest)
        except OSError as error:
            self._log.warning("eviction_failed", digest=str(digest), error=error.strerror)
            return None

    def _stays(self, digest: Digest) -> bool:
        return str(digest) in self._pins.digests() or self._hosted.has(digest)

    def _remove(self, digest: Digest) -> int | None:
        """Remove one digest and return the bytes freed: 0 for a row whose file was gone, None where it cannot be."""
        path = self._layout.blob(digest)
        try:
            found = os.lstat(path)
            size = found.st_blocks * 512
            os.unlink(path)
        except FileNotFoundError:
            size = 0
            self._log.debug("phantom_row", digest=str(digest))
        except OSError as error:
            self._log.warning("eviction_failed", digest=str(digest), error=error.strerror)
            return None
        else:
            if self._scan is not None:
                self._scan.total -= found.st_size
            self._log.debug("evicted", digest=str(digest), bytes=size)
        try:
            self._index.forget((digest,))
        except StoreError:
            self._log.debug("row_left", digest=str(digest))  # housekeeping finds it
        return size

    def _candidates(self) -> Iterator[Digest]:
        """Yield digests, least recently used first.

        Where the index does not know all of them, the files say what is old: to a day's precision (see find_blobs),
        but for what this process has used and not written.
        """
        try:
            if not self._index.needs_rebuild():
                yield from self._rows()
                return
        except StoreError:
            self._log.debug("eviction_without_index")
        recent = set(self._index.noted())
        later = []
        for found in self._files().oldest:
            if found.digest in recent:
                later.append(found.digest)
            else:
                yield found.digest
        self._scan = None  # used up: the next one who asks looks again
        yield from later

    def _rows(self) -> Iterator[Digest]:
        last: Entry | None = None
        while page := self._index.oldest(_PAGE, last):
            last = page[-1]
            for entry in page:
                yield entry.digest

    def _files(self) -> _Scan:
        if self._scan is None or time.monotonic() - self._scan.made > _SCAN_LASTS:
            self._scan = _Scan(self._layout)
        return self._scan
