"""Are the markers of what was pushed all here? Noted, so that their loss is not taken for "was not pushed".

    run/marked      of each folder of markers its inode and how many it held, when that was written

Where a folder is another one, or holds fewer (somebody emptied it, or restored the store without it), markers are lost
until they are made anew (marking.py). For threads.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from mirror.errors import StoreUnreadable
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.lock import FileLock

_ALGORITHMS = ("sha256", "sha512")
_LIMIT = 4096
_FEW = 5000  # markers that may be counted at any time: some two milliseconds …
_SHARE = 20  # … and of more, at least so many times as long as it took passes before the next count

Counts = dict[str, list[int]]  # of each folder that is there: its inode, and how many it holds


class _Look(NamedTuple):
    """What was found, and what shows that it may have changed: () where nothing shows it."""

    stamps: tuple[object, ...]
    noted: Counts | None
    here: Counts
    until: float  # on the monotonic clock: it is not looked again before that, whatever comes into the same folders

    @property
    def whole(self) -> bool:
        return self.noted is not None and all(
            inode == self.here.get(name, [0])[0] and count <= self.here[name][1]
            for name, (inode, count) in self.noted.items()
            if count
        )

    def is_of(self, stamps: tuple[tuple[int, int, int] | None, ...]) -> bool:
        """Tell whether the folders with these stamps are those that were looked at, whatever is in them."""
        return [stamp and stamp[0] for stamp in stamps] == [self.here.get(name, (None,))[0] for name in _ALGORITHMS]


class Marked:
    """The note of one store."""

    def __init__(self, layout: Layout) -> None:
        self._hosted = layout.hosted
        self._path = str(layout.run / "marked")
        self._changing = layout.lock("marked")
        self._folders = {name: str(layout.hosted / name) for name in _ALGORITHMS}
        self._lock = threading.Lock()
        self._last = _Look((), None, {}, 0.0)

    def check(self) -> None:
        """Raise StoreUnreadable where markers are lost: then what has none may have been pushed all the same."""
        if not self.is_whole():
            raise StoreUnreadable(
                f"not all that was pushed has its marker in {self._hosted}",
                "a running service makes them anew within minutes, and so does mirror scrub",
                errno.ENOENT,
                str(self._hosted),
            )

    def is_whole(self) -> bool:
        """Tell whether no marker was lost, as far as that shows. Raises StoreUnreadable."""
        return self._look().whole

    def keep_up(self) -> None:
        """Note what has come, so that its loss will show; later, where markers are just being removed.

        Raises StoreUnreadable, OSError.
        """
        found = self._look()
        if not found.whole or found.noted == found.here:
            return
        lock = FileLock(self._changing)
        if not lock.try_acquire():
            return
        try:
            found = self._look(anew=True)  # what was found before may be of before a removal that has ended since
            if found.whole:
                self.write(found.here)
        finally:
            lock.release()

    @contextmanager
    def fewer(self, going: int) -> Iterator[None]:
        """Note that so many markers are removed while the block runs. Raises StoreUnreadable, OSError."""

        def fewer(raw: bytes) -> bytes | None:
            noted = _parse(raw)
            if noted is None:
                return None
            left = {name: [inode, max(0, count - going)] for name, (inode, count) in noted.items()}
            return json.dumps(left).encode().ljust(len(raw))

        with FileLock(self._changing):
            # In its place: what is going makes room, so this must need none.
            files.amend(self._path, _LIMIT, fewer)
            yield

    def count(self) -> Counts:
        """Return what is here. Raises StoreUnreadable."""
        statuses = ((name, files.look(folder), folder) for name, folder in self._folders.items())
        return {name: [one.st_ino, len(files.names(folder))] for name, one, folder in statuses if one is not None}

    def write(self, counts: Counts) -> None:
        """Note what was counted while all markers were here, once these are durable. Raises OSError.

        What is counted later may be fewer by what somebody is just removing.
        """
        for folder in self._folders.values():
            if os.path.isdir(folder):
                files.sync_folder(folder)
        files.write_atomically(self._path, json.dumps(counts).encode(), durable=False)

    def _look(self, *, anew: bool = False) -> _Look:
        began, looked = time.monotonic(), time.time_ns()
        stamps = tuple(files.modified(path) for path in (self._path, *self._folders.values()))
        with self._lock:
            last = self._last
        same = stamps == last.stamps or (last.whole and began < last.until and last.is_of(stamps[1:]))
        if same and not anew:
            return last
        noted, here = self._noted(), self.count()
        many = sum(count for _, count in here.values()) > _FEW
        newest = max((one[1] for one in stamps if one is not None), default=0)
        found = _Look(
            stamps if looked - newest > files.TICK else (),
            noted,
            here,
            began + (_SHARE * (time.monotonic() - began) if many else 0),
        )
        with self._lock:
            self._last = found
        return found

    def _noted(self) -> Counts | None:
        return _parse(files.read_record(self._path, _LIMIT) or b"")


def _parse(raw: bytes) -> Counts | None:
    try:
        found: Any = json.loads(raw)
        return {name: [int(inode), int(count)] for name, (inode, count) in found.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
