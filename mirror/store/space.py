"""Room for what comes: promised before the first byte, made by eviction, never promised twice (DESIGN 2.8)."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

from mirror import logs
from mirror.config import Storage
from mirror.errors import RecordDamaged, StoreError, StoreFull
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.eviction import Eviction, Room
from mirror.store.faults import NO_ROOM
from mirror.store.hosted import Hosted
from mirror.store.index import Index
from mirror.store.kept_sum import Kept, KeptSum
from mirror.store.layout import Layout
from mirror.store.leftovers import Leftovers
from mirror.store.lock import FileLock
from mirror.store.promises import NOTHING, UNIT, Promised, allocated, owed, promise_of, promised
from mirror.store.sets import Pins

_WATCHED = 3600.0  # seconds in which others may take so much of what is evicted as is kept free for them
_REST = 600.0  # seconds in which nothing is evicted for the disk's sake, after that gave no room
_ROUNDS = 4  # of making room under the lock, before another process's growth is held responsible
_SETTLES = 0.5  # seconds in which a file system counts what was deleted as free (XFS, Btrfs and ZFS do it later)
_PATIENCE = 10.0  # seconds for the lock, beside whoever has it
_NOTES_AT_ONCE = 64
_LARGEST_BAND = 10 << 30
_BAND_SHARE = 100
_INODE_SHARE = 1000
_MOST_INODES_KEPT = 1024


class Disk(NamedTuple):
    """A file system: its size and what we may still write, in bytes; its inodes (0: it counts none), how many are free
    and how many are missing."""

    total: int
    free: int
    inodes_lacking: int
    inodes: int = 0
    inodes_free: int = 0


class Forecast(NamedTuple):
    """Room in bytes: `free` now, and what eviction could free besides."""

    free: int
    evictable: int


class _Coming(NamedTuple):
    """What room is asked for: what it is called, the file that it grows in, its digest where it becomes cache, and what
    of the kept sum is its own promise from before, as far as that is known."""

    what: str
    part: str
    cache: str = ""
    own: Promised = NOTHING

    @property
    def note(self) -> str:
        """The path of the note that promises its room."""
        return self.part.removesuffix(".part") + ".json"


class _Watched:
    """How much of what was evicted for the disk's sake others took, in bytes, since a time on the monotonic clock."""

    def __init__(self, began: float) -> None:
        self.began = began
        self._eaten = 0
        self._last: tuple[int, int, int] | None = None  # bytes evicted; then free on the disk; then our own there

    def evicted(self, freed: int, free: int, own: int) -> None:
        """Note what an eviction freed, and what was there after it."""
        self._last = (freed, free, own)

    def is_eaten(self, free: int, own: int, bearable: int) -> bool:
        """Tell whether others took more than `bearable` bytes of what was evicted since this began."""
        if self._last is not None:
            freed, before, ours = self._last
            taken = before - free - (own - ours)
            self._eaten += max(0, min(freed, taken))
            self._last = None
        return self._eaten > bearable


class Lack(NamedTuple):
    """What must be freed first: bytes, and files."""

    bytes: int
    inodes: int

    def __bool__(self) -> bool:
        return self.bytes > 0 or self.inodes > 0


class Space:
    """The store's room. Any number of processes use one store; the lock "space" keeps their promises apart.

    What is promised is a kept sum that is never too low but for what KeptSum names: what has room beside it gets its
    promise at once. The notes are counted before anybody is refused, or, where it costs nothing, before something goes.
    Everything here blocks and is for threads. See Eviction for `offline`.
    """

    def __init__(
        self,
        layout: Layout,
        index: Index,
        storage: Storage,
        *,
        offline: bool = False,
    ) -> None:
        self._layout = layout
        self._cache_size = storage.cache_size
        self._keep_free = storage.keep_free
        self._offline = offline
        self._lock = layout.lock("space")
        self._turn = threading.Lock()  # threads of one process need not look at the lock's file again and again
        self._kept = KeptSum(layout, self._locked)
        self._leftovers = Leftovers(layout)
        self._log = logs.get("space")
        self._pins = Pins(layout)
        self._hosted = Hosted(layout)
        self._index = index
        self._vain = str(layout.run / "eviction_in_vain")  # its mtime says when; for all processes of the store
        self._watched: _Watched | None = None
        self.eviction = Eviction(layout, index, self._pins, self._hosted, offline=offline)

    def disk(self) -> Disk:
        """Return the file system's size and room. One that counts no inodes (Btrfs) never lacks any."""
        found = os.statvfs(self._layout.root)
        kept = min(_MOST_INODES_KEPT, found.f_files // _INODE_SHARE)
        return Disk(
            found.f_blocks * found.f_frsize,
            found.f_bavail * found.f_frsize,
            max(0, kept + 1 - found.f_favail) if found.f_files else 0,
            found.f_files,
            found.f_favail if found.f_files else 0,
        )

    def forecast(self, needed: Mapping[Digest, int] = MappingProxyType({})) -> Forecast:
        """Return what could be written now: what is free beyond keep_free and promises, and what eviction could add.

        Of what can be evicted, `needed` (digests that are here, with their sizes) is meant to stay.
        """
        disk = self.disk()
        free = max(0, disk.free - self._keep_free.of(disk.total) - self.promised())
        try:
            pinned = self._pins.digests()
            evictable = self.eviction.evictable()
        except RecordDamaged:  # where it is not known what must stay, eviction takes nothing
            return Forecast(free, 0)
        kept = sum(
            size for digest, size in needed.items() if str(digest) not in pinned and not self._hosted.has(digest)
        )
        return Forecast(free, 0 if self.in_vain else max(0, evictable - kept))

    @property
    def in_vain(self) -> bool:
        """Whether evicting gave no room lately: the file system keeps it, or somebody else takes it."""
        found = files.look(self._vain)
        return found is not None and 0 <= time.time() - found.st_mtime < _REST

    def _give_up(self, why: str) -> None:
        self._log.error(
            "eviction_rests", why=why, seconds=int(_REST), remedy="see what else is on this file system: du"
        )
        with suppress(OSError):
            files.write_atomically(self._vain, b"", durable=False)

    def _room(self) -> Room:
        disk = self.disk()
        return Room(disk.free, disk.inodes_free)

    def promised(self) -> int:
        """Return the bytes that downloads and uploads under way will still write, or somewhat more."""
        self._recount_if_doubtful(time.monotonic() + _PATIENCE)
        return self._waiting().owed

    def promised_age(self) -> float | None:
        """Return how many seconds ago it was counted what is promised; None where that is not kept."""
        kept = self._kept.read()
        return kept.age if kept is not None else None

    def counting(self) -> Iterator[int]:
        """Count anew, in steps, what is promised, where that is due; yield 0 after each. For housekeeping.

        Raises StoreFull where the lock does not come free, StoreUnreadable, OSError.
        """
        kept = self._kept.read()
        if kept is None or kept.age >= kept.period:
            yield from self._kept.counting(self._known_pinned(), time.monotonic() + _PATIENCE)

    def _recount(self, until: float) -> None:
        """Count what is promised; where nothing can be kept, whoever promises walks the notes himself."""
        with suppress(OSError, StoreFull):
            self._kept.recount(self._known_pinned(), until)

    def recount_if_old(self) -> None:
        """Count what is promised where nobody did for long, so that no client waits for it. Raises StoreUnreadable."""
        kept = self._kept.read()
        if kept is None or kept.is_old:
            self._recount(time.monotonic() + _PATIENCE)

    def _recount_if_doubtful(self, until: float) -> bool:
        kept = self._kept.read()
        if kept is not None and not kept.is_doubtful:
            return False
        self._recount(until)
        return True

    def _waiting(self) -> Promised:
        """Return what is promised, by the kept sum; of a store that cannot keep one, by its notes."""
        kept = self._kept.read()
        return kept.sum if kept is not None else promised(self._layout, self._known_pinned())

    def reserve(
        self,
        digest: Digest,
        size: int | None,
        commit: Callable[[], None] = lambda: None,
        timeout: float = 10.0,
    ) -> None:
        """Promise room for `digest` of `size` bytes (None: unknown, up to 64 MiB more), or raise StoreFull.

        `commit` makes the promise known by writing the note that holds the size. It is called once, while no other
        process can promise anything; so it should be short. Content is evicted only where that is enough.
        """
        self._reserve(_Coming(str(digest), self._layout.part(digest), str(digest)), size, commit, timeout)

    def reserve_upload(
        self,
        identity: str,
        name: str,
        size: int | None,
        commit: Callable[[], None] = lambda: None,
        timeout: float = 10.0,
    ) -> None:
        """Promise room for an upload to repository `name` that comes to `size` bytes, as `reserve` does.

        What is pushed is no cache: cache_size does not bound it.
        """
        self._reserve(_Coming(f"a push to {name}", self._layout.upload(identity)), size, commit, timeout)

    def _reserve(self, coming: _Coming, size: int | None, commit: Callable[[], None], timeout: float) -> None:
        until = time.monotonic() + timeout
        if self._cache_size is not None:
            self.eviction.write_uses()
        asked = time.time()
        with self._locked(until):
            kept = self._kept.read()
            if kept is not None and not kept.is_old and not self._lack(coming, size, kept.sum):
                self._commit(coming, size, commit, kept)
                return
        # Counting may take long where there is much: then housekeeping does it, and only who is refused waits for it.
        counts = self._recount_if_doubtful(until)
        try:
            self._promise_by_making_room(self._with_own(coming) if counts else coming, size, commit, until, counts)
        except StoreFull:
            kept = self._kept.read()
            if counts or time.monotonic() > until or (kept is not None and (asked < kept.counted or kept.is_fresh)):
                raise
            self._recount(until)
            self._promise_by_making_room(self._with_own(coming), size, commit, until, leftovers=True)

    def _with_own(self, coming: _Coming) -> _Coming:
        """Return what is coming with what it promised itself: in a sum that was counted just now it is."""
        return coming._replace(own=promise_of(self._layout, coming.note, self._known_pinned()))

    def _promise_by_making_room(
        self, coming: _Coming, size: int | None, commit: Callable[[], None], until: float, leftovers: bool
    ) -> None:
        with self._locked(until):
            lack = self._lack(coming, size)
            if not lack:
                self._commit(coming, size, commit)
                return
        # Outside of the lock, because it may take long; somebody else may be quicker and take what it frees.
        freed = self._leftovers.remove() if leftovers else 0
        if freed:
            self._recount(until)
        self._make_room(lack, coming, size, freed)
        with self._locked(until):
            for _ in range(_ROUNDS):
                lack = self._settled_lack(coming, size)
                if not lack:
                    self._commit(coming, size, commit)
                    return
                if time.monotonic() > until or not self._make_room(lack, coming, size):
                    break
        raise self._full(coming, size)

    def trim(self) -> int:
        """Evict ahead of need, so that a miss seldom waits for it; return the bytes freed.

        Content goes down to cache_size if it is over it; and what is free goes up to keep_free and a hundredth of the
        disk when half of that is used.
        """
        self._pinned()  # raises where that is not known
        self._recount_if_doubtful(time.monotonic() + _PATIENCE)
        waiting = self._waiting()
        disk = self.disk()
        band = min(disk.total // _BAND_SHARE, _LARGEST_BAND)
        spare = disk.free - waiting.owed - self._keep_free.of(disk.total)
        lack = Lack(band - spare if spare < band // 2 else 0, disk.inodes_lacking)
        freed = 0
        if lack and not self.in_vain and not self._is_eaten(disk, self._keep_free.of(disk.total) + band):
            freed = self._evict(lack)
            if self._watched is not None:
                self._watched.evicted(freed, self.disk().free, self._own())
        if self._cache_size is not None:
            over = self.eviction.cached() + waiting.cached - self._cache_size
            freed += self.eviction.free(over)
        if freed:
            self._log.info("trimmed", bytes=freed)
        return freed

    def _evict(self, lack: Lack) -> int:
        """Evict for the file system's sake; where that gives no room there, leave the rest of the cache alone."""
        freed = self.eviction.free(lack.bytes, lack.inodes, self._room)
        if self.eviction.in_vain:
            self._give_up("evicting gave no room: snapshots keep it, or somebody else takes it")
        return freed

    def _is_eaten(self, disk: Disk, bearable: int) -> bool:
        """Tell whether others on this file system take what eviction frees, beyond what `bearable` bytes leave them."""
        now = time.monotonic()
        if self._watched is None or now - self._watched.began > _WATCHED:
            self._watched = _Watched(now)
        if not self._watched.is_eaten(disk.free, self._own(), bearable):
            return False
        self._watched = None
        self._give_up("what eviction frees is taken by something else on this file system")
        return True

    def _own(self) -> int:
        """Return the bytes that the store itself has on the disk, as far as is known."""
        try:
            return self._index.total() + promised(self._layout).cached
        except StoreError:
            return 0

    def remove_leftovers(self) -> int:
        """Remove what downloads left behind more than a day ago, and uploads a week; return the bytes freed."""
        freed = self._leftovers.remove()
        # Found outside of the lock and a few at a time, so that no client waits for a look at all of them.
        old = iter(self._leftovers.old_notes())
        while some := list(islice(old, _NOTES_AT_ONCE)):
            with self._locked(time.monotonic() + _PATIENCE):
                self._leftovers.remove_notes(some)
        return freed

    def _lack(self, coming: _Coming, size: int | None, waiting: Promised | None = None) -> Lack:
        """Return what is missing for what is coming, `waiting` being all that is promised, if it was just read."""
        written = allocated(coming.part)
        wanted = owed(size, written)
        # Promises before free space: a part that grows in between is then counted twice and never not at all.
        pinned = self._pinned() if coming.cache else ()
        waiting = (waiting or self._waiting()).less(coming.own)
        disk = self.disk()
        lack = wanted + waiting.owed + self._keep_free.of(disk.total) - disk.free
        if self._cache_size is not None and coming.cache and coming.cache not in pinned:
            cached = self.eviction.cached() + waiting.cached + written
            lack = max(lack, cached + wanted - self._cache_size)
        return Lack(lack, disk.inodes_lacking)

    def _pinned(self) -> Container[str]:
        """Return what does not count for cache_size; where there is none nobody has to know it. Raises StoreError."""
        return self._pins.digests() if self._cache_size is not None else ()

    def _known_pinned(self) -> Container[str]:
        """Return `_pinned`; where that is not known all counts for cache_size (and nothing is evicted)."""
        try:
            return self._pinned()
        except StoreError:
            return ()

    def _settled_lack(self, coming: _Coming, size: int | None) -> Lack:
        """Return `_lack` once the file system has counted what was deleted, so that no more goes than must."""
        until = time.monotonic() + _SETTLES
        while (lack := self._lack(coming, size)) and time.monotonic() < until:
            time.sleep(_SETTLES / 10)
        return lack

    def _make_room(self, lack: Lack, coming: _Coming, size: int | None, freed: int = 0) -> int:
        """Free what is lacking beyond the bytes that are `freed`; return how many are then.

        Raises StoreFull and evicts nothing where that could not be enough.
        """
        missing = lack.bytes - freed
        if missing <= 0 and not lack.inodes:
            return freed
        by_disk = self._cache_size is None or lack.inodes > 0 or self._disk_lacks(coming, size)
        if missing > self.eviction.evictable() or (by_disk and self.in_vain):
            raise self._full(coming, size)
        if by_disk:
            return freed + self._evict(Lack(missing, lack.inodes))
        return freed + self.eviction.free(missing)

    def _disk_lacks(self, coming: _Coming, size: int | None) -> bool:
        """Tell whether it is the disk that has no room for what is coming, and not cache_size alone."""
        waiting = self._waiting().less(coming.own)
        disk = self.disk()
        wanted = owed(size, allocated(coming.part))
        return wanted + waiting.owed + self._keep_free.of(disk.total) > disk.free

    def _commit(self, coming: _Coming, size: int | None, commit: Callable[[], None], kept: Kept | None = None) -> None:
        """Keep the promise in the sum and make it known by its note, holding the lock. Raises StoreFull, OSError.

        `kept` is the sum as it was read under this lock, if it was.
        """
        written = allocated(coming.part)
        more = owed(size, written)
        cache = bool(coming.cache) and coming.cache not in self._known_pinned()
        promise = Promised(more, written + more if cache else 0)
        try:
            self._kept.add(promise, kept)
            try:
                commit()
            except Exception:
                self._kept.add(Promised(-promise.owed, -promise.cached))
                raise
        except OSError as error:
            if error.errno in NO_ROOM:
                raise StoreFull(
                    f"there is no room for {coming.what} ({error.strerror})", self._remedy(coming)
                ) from error
            if error.errno == errno.EROFS:
                raise StoreFull(f"the store cannot be written ({error.strerror})", "mount it writable") from error
            raise

    def _full(self, coming: _Coming, size: int | None) -> StoreFull:
        """Return the error that says what is missing and what would help."""
        waiting = self._waiting().less(coming.own)
        disk = self.disk()
        bound = (
            "" if self._cache_size is None or not coming.cache else f" storage.cache_size is {_text(self._cache_size)},"
        )
        inodes = " the file system is out of inodes," if disk.inodes_lacking else ""
        evictable = (
            "nothing is evicted while offline"
            if self._offline
            else "nothing is evicted for a while, as that gave no room (snapshots keep it, or somebody else takes it)"
            if self.in_vain
            else (f"{_text(self.eviction.evictable())} can be evicted")
        )
        unit = (
            f" (its size is not known before its end, so room is taken {_text(UNIT)} at a time)" if size is None else ""
        )
        return StoreFull(
            f"no room for {_text(owed(size, 0))} of {coming.what}{unit}:{bound}{inodes} {_text(disk.free)} are free of"
            f" {_text(disk.total)}, {_text(self._keep_free.of(disk.total))} of them are kept free,"
            f" {_text(waiting.owed)} are promised to downloads under way, and {evictable}",
            self._remedy(coming),
        )

    def _remedy(self, coming: _Coming) -> str:
        own = "raise storage.cache_size, " if self._cache_size is not None and coming.cache else ""
        online = "unpin --now what is not needed" if self._offline else "unpin what is not needed"
        kept = "lower storage.keep_free, " if self._keep_free.percent or self._keep_free.bytes else ""
        return f"{own}{kept}give the store's file system more room, or {online}"

    @contextmanager
    def _locked(self, until: float) -> Iterator[None]:
        if not self._turn.acquire(timeout=max(0.0, until - time.monotonic())):
            raise StoreFull("others did not make room in time", "try again")
        lock = FileLock(self._lock)
        try:
            try:
                taken = lock.acquire(max(0.0, until - time.monotonic()))
            except OSError as error:
                raise StoreFull(f"the store cannot be written ({error.strerror})") from error
            if not taken:
                raise StoreFull("another process did not make room in time", "try again")
            yield
        finally:
            lock.release()
            self._turn.release()


def _text(size: int) -> str:
    """Return `size` bytes as a person reads them."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
