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
_SHORT = 0.002  # seconds
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
        self._trusted_until = 0.0  # whatever changes: where there are very many they are not counted all the time
        self._counted_as: tuple[object, ...] = ()  # what those were when their number was noted
        self._counted_until = 0.0
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
        now = self._stamps()
        with self._lock:
            if now == self._trusted or (self._trusted and time.monotonic() < self._trusted_until):
                return True
        noted = self._noted()
        began = time.monotonic()
        here = self._here() if noted is not None else {}
        if noted is None or not all(_is_whole(one, here[algorithm]) for algorithm, one in noted.items()):
            with self._lock:
                self._trusted = ()
            return False
        ended = time.monotonic()
        with self._lock:
            self._trusted, self._trusted_until = now, _rest(began, ended)
            if noted == here:
                self._counted_as = now
        return True

    def is_noted(self) -> bool:
        """Tell whether a marker that is lost from now on would be missed, as of just now. Raises StoreUnreadable."""
        now = self._stamps()
        if now == self._counted_as or time.monotonic() < self._counted_until:
            return True
        began = time.monotonic()
        if self._noted() != self._here():
            return False
        self._counted_as, self._counted_until = now, _rest(began, time.monotonic())
        return True

    def complete(self, going: int = 0) -> None:
        """Note that all that was pushed has its marker, once that is durable, and that so many are going to be removed.

        Raises StoreUnreadable, OSError.
        """
        for folder in self._folders.values():
            if os.path.isdir(folder):
                files.sync_folder(folder)
        here = {name: [one[0], max(0, one[1] - going)] if one else None for name, one in self._here().items()}
        files.write_atomically(self._complete, json.dumps(here).encode(), durable=False)

    def _stamps(self) -> tuple[object, ...]:
        return (files.modified(self._complete), *(files.modified(folder) for folder in self._folders.values()))

    def _noted(self) -> dict[str, list[int] | None] | None:
        try:
            found: Any = json.loads(files.read_record(self._complete, _COMPLETE_LIMIT) or b"")
            noted = {algorithm: found[algorithm] for algorithm in self._folders}
            return {name: [int(one[0]), int(one[1])] if one is not None else None for name, one in noted.items()}
        except (ValueError, LookupError, TypeError, RecursionError):
            return None

    def _here(self) -> dict[str, list[int] | None]:
        return {algorithm: self._count(algorithm) for algorithm in self._folders}

    def _count(self, algorithm: str) -> list[int] | None:
        """Return the inode of a folder of markers and how many it holds, None where there is none."""
        found = files.look(self._folders[algorithm])
        return None if found is None else [found.st_ino, len(files.names(self._folders[algorithm]))]

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


def _is_whole(noted: list[int] | None, here: list[int] | None) -> bool:
    return noted is None or not noted[1] or (here is not None and here[0] == noted[0] and here[1] >= noted[1])


def _rest(began: float, ended: float) -> float:
    """Return until when not to look again, after a look that took some time: not at all if that was short."""
    return ended + _LOOK_SHARE * (ended - began) if ended - began > _SHORT else 0.0
