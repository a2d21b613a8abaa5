"""The sum of what is promised, kept for all processes of a store, so that no reservation walks the notes.

    run/promised    one line: the last count of all notes, and what was promised since

The notes stay the truth, and the sum is derived: lost or damaged, it is counted anew. It is changed in place, under the
lock "space" and before the note that makes a promise known; so a process that is killed in between leaves it too high.
It is too high as well by what was written, given up or promised again since the last count.

It is too low, until the next count, by what changes notes or their files without it: what an older version of the
mirror promises, what is cut back or begun anew of content that had been counted as written, and for a download of
unknown size a unit, from the moment that it outgrows a promise to its next one. Nobody promises by a sum that was last
counted longer ago than twice its `period`.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import NamedTuple

from mirror.errors import StoreFull
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.promises import NOTHING, Promised, promises

PERIOD = 5.0  # seconds between counts, while one takes much less
_SHARE = 4  # a count is made anew after so many times what it took
_FEW = 32  # notes that may be counted in front of a client: about as many milliseconds of a slow disk's time
_STEP = 64  # notes at a time
_PATIENCE = 1.0  # seconds at least for the lock, to keep what was counted
_WIDTH = 256  # bytes of the line, so that each is written over the last


class Kept(NamedTuple):
    """A sum as it is kept. `added` is all that was ever promised since the file was made, by the name `epoch`.

    `counted` is when its last count began (Unix time, 0: not yet), `cost` the seconds and `notes` how many that took.
    """

    epoch: int
    sum: Promised
    added: Promised
    counted: float
    cost: float
    notes: int

    @property
    def age(self) -> float:
        """Seconds since the notes were counted; a time ahead of the clock is long ago."""
        age = time.time() - self.counted
        return age if age >= 0 else time.time()

    @property
    def period(self) -> float:
        """Seconds after which it is to be counted anew."""
        return max(PERIOD, _SHARE * self.cost)

    @property
    def is_old(self) -> bool:
        """Whether nobody keeps house who would have counted anew long since."""
        return self.age > 2 * self.period

    @property
    def is_fresh(self) -> bool:
        """Whether counting anew would take longer than this has been counted for."""
        return self.age < self.cost

    @property
    def is_doubtful(self) -> bool:
        """Whether to count first, before something is evicted by it: because that costs nothing, or nobody did."""
        return self.notes <= _FEW or self.is_old

    def dump(self) -> bytes:
        """Return the line as it is kept."""
        line = (
            f"{self.epoch} {' '.join(map(str, (*self.sum, *self.added)))} {self.counted!r} {self.cost!r} {self.notes}"
        )
        return f"{line} {zlib.crc32(line.encode()):08x}".ljust(_WIDTH - 1).encode() + b"\n"

    @classmethod
    def parse(cls, raw: bytes) -> Kept | None:
        """Return what a line holds, None where it is not whole."""
        line, _, check = raw.rstrip().rpartition(b" ")
        try:
            if int(check, 16) != zlib.crc32(line):
                return None
            epoch, owed, cached, more_owed, more_cached, counted, cost, notes = line.split()
            return cls(
                int(epoch),
                Promised(int(owed), int(cached)),
                Promised(int(more_owed), int(more_cached)),
                float(counted),
                float(cost),
                int(notes),
            )
        except ValueError:
            return None


class KeptSum:
    """The kept sum of one store. For threads only.

    `locked` takes the lock "space" until a time on the monotonic clock, or raises StoreFull.
    """

    def __init__(self, layout: Layout, locked: Callable[[float], AbstractContextManager[None]]) -> None:
        self._layout = layout
        self._path = str(layout.promised)
        self._locked = locked
        self._counting = threading.Lock()
        self._last: tuple[bytes, Kept | None] = (b"", None)  # the line of the last look or change, and what it holds

    def read(self) -> Kept | None:
        """Return what is kept; None where nothing is, or it was not counted yet. Needs no lock."""
        found = self._read()
        return found if found is not None and found.counted else None

    def add(self, more: Promised, found: Kept | None = None) -> None:
        """Add a promise that is about to be noted, holding the lock; `found` is what was read under it, if anything.

        Raises OSError: then nothing may be promised.
        """
        found = found or self._read()
        if found is None:
            return  # nothing is kept, so the next one counts
        try:
            self._write(found._replace(sum=found.sum.plus(more), added=found.added.plus(more)))
        except OSError:
            # A sum without this promise must not be believed.
            files.remove(self._path)

    def recount(self, pinned: Container[str], until: float) -> None:
        """Count all notes, unless somebody else began to after this was called, and has ended.

        Raises StoreFull where it is not our turn by `until`, StoreUnreadable, and OSError where nothing can be kept.
        """
        asked = time.time()
        if not self._counting.acquire(timeout=max(0.0, until - time.monotonic())):
            raise StoreFull("others did not count in time what is promised", "try again")
        try:
            found = self.read()
            if found is None or not asked < found.counted <= time.time():
                for _ in self.counting(pinned, until):
                    pass
        finally:
            self._counting.release()

    def counting(self, pinned: Container[str], until: float) -> Iterator[int]:
        """Count all notes in small steps, beside whoever promises; yield 0 after each. Raises as `recount`.

        What is promised meanwhile is added to what was counted, whether it is in that or not.
        """
        began = time.time()
        with self._locked(until):
            before = self._begin()
        total, cost, notes = NOTHING, 0.0, 0
        found = promises(self._layout, pinned)
        while True:
            start = time.monotonic()
            step = list(islice(found, _STEP))
            for one in step:
                total = total.plus(one)
            cost += time.monotonic() - start
            notes += len(step)
            if len(step) < _STEP:
                break
            yield 0
        with self._locked(max(until, time.monotonic() + _PATIENCE)):
            now = self._read()
            if now is not None and now.epoch == before.epoch:
                meanwhile = now.added.less(before.added)
                self._write(now._replace(sum=total.plus(meanwhile), counted=began, cost=cost, notes=notes))

    def _begin(self) -> Kept:
        found = self._read()
        if found is None:
            found = Kept(int.from_bytes(os.urandom(8)), NOTHING, NOTHING, 0.0, 0.0, 0)
            files.write_atomically(self._path, found.dump(), durable=False)
        return found

    def _read(self) -> Kept | None:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            raw = os.pread(fd, _WIDTH, 0)
        except OSError:
            return None
        finally:
            os.close(fd)
        last = self._last
        if last[0] != raw:
            self._last = last = (raw, Kept.parse(raw))
        return last[1]

    def _write(self, kept: Kept) -> None:
        raw = kept.dump()
        fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            files.write_all(fd, raw)
        finally:
            os.close(fd)
        self._last = (raw, kept)
