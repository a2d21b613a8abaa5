"""What was pushed here, which nobody else could give again: a marker for each digest keeps it from eviction.

A marker is written before a push is acknowledged, and before the content gets its name; so one without content is
what a push left that was cut off, and garbage collection takes it. Its mtime says when it was pushed last.

Where markers are lost (marked.py), nothing may be taken for not pushed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Container, Iterator
from contextlib import suppress
from typing import NamedTuple

from mirror.errors import StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.marked import Marked
from mirror.store.sets import Sets
from mirror.store.walk import named_by_digest

_LOOK_AGAIN = 2.0  # seconds
_LOOK_SHARE = 20  # of the time that looking takes, at least this many times it passes before the next look


class Marker(NamedTuple):
    """A digest that was pushed here, and when it was pushed last (Unix time)."""

    digest: Digest
    pushed: float


class Hosted:
    """The markers. Everything blocks and is for threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sets = Sets(layout)
        self._lock = threading.Lock()
        self._counted = (0.0, 0)  # when to count again, and what was counted
        self._marked = Marked(layout)
        self._begun: set[str] = set()  # the algorithms of which it is noted that there are markers

    def has(self, digest: Digest) -> bool:
        """Tell whether `digest` was pushed here, by a few system calls. For threads.

        Raises StoreUnreadable where it has no marker, and may have lost it.
        """
        if files.modified(self._layout.marker(digest)) is not None:
            return True
        self._marked.check()
        return False

    def add(self, digest: Digest) -> None:
        """Mark `digest`, durably: whatever content has this name is not evicted from now on. Raises OSError."""
        with self._sets.pinning():
            self._mark(digest)
        self._sync(digest)

    def keep(self, digest: Digest) -> bool:
        """Mark content that is here, durably; False, and no mark, where it is not. Raises OSError."""
        with self._sets.pinning():
            if files.modified(self._layout.blob(digest)) is None:
                return False
            self._mark(digest)
        self._sync(digest)
        return True

    def mark_again(self, digest: Digest) -> bool:
        """Mark content that has no marker, and say whether it had none. Not durable before `Marked.write`.

        What is not here is marked as well, so that it stays when it comes again. Raises StoreUnreadable, OSError.
        """
        if files.modified(self._layout.marker(digest)) is not None:
            return False
        with self._sets.pinning():
            self._mark(digest)
        return True

    def remove(self, digest: Digest) -> bool:
        """Remove a marker and say whether there was one. The caller holds `Sets.pinning()`: nothing is marked then."""
        return files.remove(self._layout.marker(digest))

    def walk(self) -> Iterator[Marker]:
        """Yield the markers, in the folder's order."""
        for digest, status in named_by_digest(self._layout.hosted):
            yield Marker(digest, status.st_mtime)

    def size(self, besides: Container[str] = ()) -> int:
        """Return the bytes of what is marked and here, as of some seconds ago, without the digests of `besides`."""
        with self._lock:
            until, size = self._counted
            began = time.monotonic()
            if began >= until:
                size = sum(self._length(marker.digest) for marker in self.walk() if str(marker.digest) not in besides)
                ended = time.monotonic()
                self._counted = (ended + max(_LOOK_AGAIN, _LOOK_SHARE * (ended - began)), size)
            return size

    def _length(self, digest: Digest) -> int:
        found = files.modified(self._layout.blob(digest))
        return found[2] if found is not None else 0

    def _mark(self, digest: Digest) -> None:
        path = self._layout.marker(digest)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            files.make_folders(os.path.dirname(path))
            fd = os.open(path, flags, 0o600)
        try:
            os.utime(fd)
        finally:
            os.close(fd)

    def _sync(self, digest: Digest) -> None:
        # Not under the lock: that orders marks and evictions of running processes, and would make all pushes wait.
        files.sync_folder(os.path.dirname(self._layout.marker(digest)))
        if digest.algorithm not in self._begun:
            with suppress(OSError, StoreUnreadable):  # housekeeping notes it
                self._marked.keep_up()
            self._begun.add(digest.algorithm)
