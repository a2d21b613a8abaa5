"""Scrub: hash again what is here, a piece at a time, so that a disk that loses bits is found out before a client is.

In the order of the digests, so that a scrub which is stopped goes on where it was. What it reads does not push what
clients use out of the page cache, and leaves the time of access, which orders eviction where the index is lost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from mirror.errors import Corrupt, DigestInvalid, StoreError, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.blobs import Blobs
from mirror.store.layout import Layout

if TYPE_CHECKING:
    from hashlib import _Hash

UNREADABLE_IN_A_ROW = 8  # contents, after which it is the disk that is ill and a pass goes no further
TOO_MANY = "too_many"  # why a pass stops that would put away more than a run may
YOUNG = 600.0  # seconds since the last change, in which a file without a seal may still be written (rsync, tar)

_STEP = 1024 * 1024  # bytes
_SHARE = 50_000  # names remembered at a time; where there are more, the folder is read several times
_ALGORITHMS = ("sha256", "sha512")


class Bad(NamedTuple):
    """Content that is not what its name says: its digest, the bytes of the file, and what is wrong."""

    digest: Digest
    size: int
    why: str


class Unread(NamedTuple):
    """Content that could not be read, which stays where it is, why, and what mends it."""

    digest: Digest
    why: str
    remedy: str


class _Open(NamedTuple):
    digest: Digest
    fd: int
    status: os.stat_result
    hasher: _Hash


class Scrub:
    """One pass over all content that comes `after` a digest, or over `only` some. For threads, one at a time.

    Bad content is put into quarantine, but not in a `dry_run`, and not beyond `most_bad` contents: there the pass
    stops, with `stopped` set. What cannot be read stays, and many such in a row stop the pass too. `young` is in
    seconds.
    """

    def __init__(
        self,
        layout: Layout,
        blobs: Blobs,
        *,
        after: Digest | None = None,
        only: Collection[Digest] | None = None,
        dry_run: bool = False,
        young: float = YOUNG,
        most_bad: int | None = None,
    ) -> None:
        self.cursor = after  # the last digest that was looked at
        self.done = False
        self.stopped = ""  # why the pass goes no further
        self.again = 0  # contents that could not be read and that whoever goes on reads again
        self.contents = 0
        self.bytes = 0
        self._layout = layout
        self._blobs = blobs
        self._dry_run = dry_run
        self._young = young
        self._names = iter(sorted(only)) if only is not None else in_order(layout, after)
        self._open: _Open | None = None
        self._position = 0
        self._bad: list[Bad] = []
        self._left = most_bad
        self._unread: list[Unread] = []
        self._in_a_row = 0
        self._before: Digest | None = after
        self._cache = files.PageCache()

    def step(self, most: int) -> int:
        """Read some `most` bytes further and return how many were read; at the end of the pass `done` is set.

        Raises StoreUnreadable where it cannot be listed what there is.
        """
        read = 0
        while read < most and not self.done and not self.stopped:
            if self._open is None and not self._next():
                self.done = True
            elif self._open is not None:
                read += self._read(self._open, min(_STEP, max(1, most - read)))
        self.bytes += read
        return read

    def bad(self) -> list[Bad]:
        """Return what was found bad since this was asked last."""
        found, self._bad = self._bad, []
        return found

    def unread(self) -> list[Unread]:
        """Return what could not be read since this was asked last."""
        found, self._unread = self._unread, []
        return found

    def close(self) -> None:
        """Let go of the file at which it is; that one is begun anew by whoever goes on."""
        opened, self._open = self._open, None
        if opened is not None:
            os.close(opened.fd)

    def _next(self) -> bool:
        """Open the next file that is to be read; False at the end."""
        for digest in self._names:
            try:
                opened = self._opened(digest)
            except StoreUnreadable as error:
                self._miss(digest, error)
                if self.stopped:
                    return False
                continue
            if opened is None:
                continue
            fd, status = opened
            fresh = time.time() - max(status.st_mtime, status.st_ctime) < self._young
            if fresh and not files.is_sealed(status):
                os.close(fd)
                continue
            with suppress(OSError):
                # No reading ahead: what it brings would look as if somebody else had it read.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            self._open = _Open(digest, fd, status, digest.hasher())
            self._position = 0
            return True
        return False

    def _opened(self, digest: Digest) -> tuple[int, os.stat_result] | None:
        fd = files.open_unnoticed(self._layout.blob(digest))
        if fd is None:
            return None
        try:
            return fd, files.status(fd)
        except StoreUnreadable:
            os.close(fd)
            raise

    def _miss(self, digest: Digest, error: StoreUnreadable) -> None:
        """Pass over content that cannot be read: it says nothing of what it holds."""
        self._unread.append(Unread(digest, error.what, error.remedy))
        if not self._in_a_row:
            self._before = self.cursor
        self.cursor = digest
        self._in_a_row += 1
        if self._in_a_row >= UNREADABLE_IN_A_ROW:
            self.stopped = f"{self._in_a_row} contents in a row cannot be read: {error}"
            self.cursor, self.again = self._before, self._in_a_row

    def _read(self, opened: _Open, size: int) -> int:
        """Hash the next bytes of the open file; at its end judge it."""
        try:
            known = self._cache.resident(opened.fd, self._position, self._position + size)
            content = files.read_bytes(opened.fd, self._position, self._position + size)
        except StoreUnreadable as error:
            self.close()
            self._miss(opened.digest, error)
            return 0
        if not content:
            self._judge(opened)
            return 0
        opened.hasher.update(content)
        if not known:
            with suppress(OSError):
                os.posix_fadvise(opened.fd, self._position, len(content), os.POSIX_FADV_DONTNEED)
        self._position += len(content)
        return len(content)

    def _judge(self, opened: _Open) -> None:
        digest, before = opened.digest, opened.status
        found = opened.hasher.hexdigest()
        try:
            now = files.status(opened.fd)
            changed = (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)
            there = files.look(self._layout.blob(digest))
            # Evicted, replaced, or written to meanwhile: what was read says nothing of what is there now.
            if there is not None and there.st_ino == now.st_ino and not (changed and not files.is_sealed(now)):
                if found != digest.hex and not self._blobs.agrees(digest, opened.fd, self._position):
                    self._found(digest, now.st_size, f"hashes to {found}")
                elif not files.is_sealed(now) and not self._dry_run:
                    with suppress(StoreError, OSError):  # another user's: it is served, hashed each time
                        self._blobs.seal(digest, opened.fd)
        except StoreUnreadable as error:
            self._miss(digest, error)
            return
        except Corrupt:
            pass  # it is being written: the next pass looks again
        finally:
            self.close()
        if self.stopped:
            return
        self._in_a_row = 0
        self.contents += 1
        self.cursor = digest

    def _found(self, digest: Digest, size: int, why: str) -> None:
        if self._left is not None and not self._dry_run:
            if self._left <= 0:
                self.stopped = TOO_MANY
                return
            self._left -= 1
        self._bad.append(Bad(digest, size, why))
        if not self._dry_run:
            self._blobs.discard(digest, f"scrub: {why}")


def in_order(layout: Layout, after: Digest | None = None) -> Iterator[Digest]:
    """Yield the digests that have an entry under blobs/, in their order, those after `after`. For threads."""
    for algorithm in _ALGORITHMS:
        if after is not None and algorithm < after.algorithm:
            continue
        folder = str(layout.blobs / algorithm)
        shares = -(-sum(1 for _ in _names(folder)) // _SHARE)
        last = after.hex if after is not None and after.algorithm == algorithm else ""
        first = int(last[:8] or "0", 16) * shares >> 32
        for share in range(first, shares):
            found = []
            for name in _names(folder):
                try:
                    digest = Digest.parse(f"{algorithm}:{name}")
                except DigestInvalid:
                    continue
                if name > last and int(name[:8], 16) * shares >> 32 == share:
                    found.append(digest)
            yield from sorted(found)


def _names(folder: str) -> Iterator[str]:
    return (entry.name for entry in files.entries(folder))
