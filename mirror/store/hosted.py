"""What was pushed here, which nobody else could give again: a marker for each digest keeps it from eviction.

A marker is written before a push is acknowledged, and before the content gets its name; so one without content is
what a push left that was cut off, and garbage collection takes it. Its mtime says when it was pushed last.

`run/marked` says that the markers are all here. Where that is not so (somebody emptied the folder, or restored the
store without it), nothing may be taken for not pushed until they are made anew (marking.py).
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Container, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from mirror.errors import StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.sets import Sets
from mirror.store.walk import named_by_digest

_LOOK_AGAIN = 2.0  # seconds
_LOOK_SHARE = 20  # of the time that looking takes, at least this many times it passes before the next look
_ALGORITHMS = ("sha256", "sha512")
_COMPLETE_LIMIT = 4096


class Marker(NamedTuple):
    """A digest that was pushed here, and when it was pushed last (Unix time)."""

    digest: Digest
    pushed: float


class Hosted:
    """The markers. Everything but `has` blocks and is for threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sets = Sets(layout)
        self._lock = threading.Lock()
        self._counted = (0.0, 0)  # when to count again, and what was counted
        self._complete = str(layout.run / "marked")
        self._folders = {algorithm: str(layout.hosted / algorithm) for algorithm in _ALGORITHMS}
        self._trusted: tuple[object, ...] = ()  # what those were when all markers were here
        self._begun: set[str] = set()  # the algorithms of which it is noted that there are markers

    def has(self, digest: Digest) -> bool:
        """Tell whether `digest` was pushed here: few system calls.

        Raises StoreUnreadable where it has no marker, and may have lost it.
        """
        if files.modified(self._layout.marker(digest)) is not None:
            return True
        self.check()
        return False

    def check(self) -> None:
        """Raise StoreUnreadable where markers are lost: then what has none may have been pushed all the same."""
        if not self.is_complete():
            raise StoreUnreadable(
                f"not all that was pushed has its marker in {self._layout.hosted}",
                "a running service makes them anew within minutes, and so does mirror scrub",
                errno.ENOENT,
                str(self._layout.hosted),
            )

    def is_complete(self) -> bool:
        """Tell whether no marker was lost, as far as that shows. Raises StoreUnreadable."""
        now = (files.modified(self._complete), *(files.modified(folder) for folder in self._folders.values()))
        if now == self._trusted:
            return True
        noted = self._noted()
        if noted is None:
            return False
        here = self._here()
        if any(one is not None and one != here[algorithm] for algorithm, one in noted.items()):
            return False
        self._trusted = now
        return True

    def is_noted(self) -> bool:
        """Tell whether a folder that is lost from now on would be missed. Raises StoreUnreadable."""
        return self._noted() == self._here()

    def complete(self) -> None:
        """Note that all that was pushed has its marker, once that is durable. Raises StoreUnreadable, OSError."""
        for folder in self._folders.values():
            if os.path.isdir(folder):
                files.sync_folder(folder)
        files.write_atomically(self._complete, json.dumps(self._here()).encode(), durable=False)

    def _noted(self) -> dict[str, int | None] | None:
        try:
            found: Any = json.loads(files.read_record(self._complete, _COMPLETE_LIMIT) or b"")
            return {algorithm: found[algorithm] for algorithm in self._folders}
        except (ValueError, LookupError, TypeError, RecursionError):
            return None

    def _here(self) -> dict[str, int | None]:
        """Return which folders hold markers: the inode of each, None for one that holds none."""
        here: dict[str, int | None] = {}
        for algorithm, folder in self._folders.items():
            found = files.look(folder)
            here[algorithm] = found.st_ino if found is not None and any(True for _ in files.entries(folder)) else None
        return here

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
        """Mark content that is here and has lost its marker, which `complete` makes durable; say whether it was so.

        Raises StoreUnreadable, OSError.
        """
        if files.modified(self._layout.marker(digest)) is not None:
            return False
        with self._sets.pinning():
            if files.modified(self._layout.blob(digest)) is None:
                return False
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
                if self.is_complete() and not self.is_noted():
                    self.complete()
            self._begun.add(digest.algorithm)
