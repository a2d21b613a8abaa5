"""The disposable index: one row a digest, holding its size and when it was last used, and nothing else.

It is a diskcache.Cache that never has a value or a file (DESIGN 5; faults.md E1-E5 say what goes wrong otherwise).
The files under blobs/ are the truth: this can be deleted at any time and is rebuilt from them.

Time of use is a sequence that looks like a clock: max(now, newest row + 1 µs), taken under the write lock. So the
order of eviction survives a clock that jumps back, for all processes together.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import diskcache

from mirror import logs
from mirror.errors import DigestInvalid, StoreError
from mirror.oci.digest import Digest
from mirror.store.deadline import OneThread
from mirror.store.index_folder import IndexFolder
from mirror.store.layout import Layout
from mirror.store.quarantine import Quarantine
from mirror.store.uses import CAPACITY, Uses

FORMAT = 1  # in PRAGMA user_version once the rows are complete; 0 while they are not
BATCH = 500  # rows in one transaction: it keeps other processes waiting for some 30 ms
_BUSY_WAIT = 0.25  # seconds that SQLite waits for a lock before we are asked whether to go on
_PAUSE = 0.01  # seconds between our own tries
_RETRY_AFTER = 1.0  # seconds without the index after a fault that may pass
_LARGEST = 2**63 - 1
_BUSY = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED))
_PASSING = frozenset((
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY,
))  # fmt: skip

T = TypeVar("T")


class Entry(NamedTuple):
    """A row: `used` is its time of use in seconds, `row` tells apart two of the same time."""

    digest: Digest
    size: int
    used: float
    row: int


class _ForeignError(Exception):
    """A row or a setting that this program never writes."""


class _SizesOnly(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Keys are text, the size is the size, and there is neither a value, nor a file, nor a pickle (CVE-2025-69872)."""

    def put(self, key: Any) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError("the index has text keys only")
        return key, True

    def get(self, key: Any, raw: bool) -> str:
        if type(key) is not str or not raw:
            raise _ForeignError("a key that is no text")
        return key

    def store(self, value: Any, read: bool, key: Any = None) -> tuple[int, int, None, None]:  # noqa: ARG002 - diskcache's signature
        if type(value) is not int or not 0 <= value <= _LARGEST or read:
            raise TypeError("the index holds sizes only")
        return value, diskcache.core.MODE_RAW, None, None

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> None:
        if mode != diskcache.core.MODE_RAW or filename is not None or value is not None or read:
            raise _ForeignError("a row with a value or a file")

    def remove(self, file_path: Any) -> None:  # noqa: ARG002 - diskcache's signature
        raise _ForeignError("a row with a file")


class _Rows(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """A Cache whose rows are stored at `moment` instead of at the clock's time."""

    moment = 0.0

    def _row_insert(self, key: Any, raw: Any, now: float, columns: Any) -> None:  # noqa: ARG002 - diskcache's signature
        super()._row_insert(key, raw, self.moment, columns)

    def _row_update(self, rowid: Any, now: float, columns: Any) -> None:  # noqa: ARG002 - diskcache's signature
        super()._row_update(rowid, self.moment, columns)


class _Database:
    """The open database; belongs to the one thread that opened it."""

    def __init__(self, folder: IndexFolder) -> None:
        """Open or make it. Raises sqlite3.Error, and anything at all for a database that is not ours."""
        directory = str(folder.path)
        if os.path.expandvars(os.path.expanduser(directory)) != directory:
            raise OSError("diskcache would expand this path")
        uri = f"file:{urllib.parse.quote(folder.database)}"
        # A value of its own for every setting that matters, so that nothing found in the file is taken over.
        # No mmap: a file truncated by someone else would kill the process.
        self.rows = _Rows(
            directory,
            timeout=_BUSY_WAIT,
            disk=_SizesOnly,
            eviction_policy="least-recently-stored",
            cull_limit=0,
            size_limit=_LARGEST,
            statistics=0,
            tag_index=0,
            sqlite_auto_vacuum=0,
            sqlite_cache_size=-2048,
            sqlite_mmap_size=0,
            disk_min_file_size=0,
        )
        try:
            self.reader = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=_BUSY_WAIT, isolation_level=None)
            try:
                self.reader.execute("PRAGMA trusted_schema = OFF")
                if self.version() > FORMAT:
                    raise _ForeignError(f"an index of format {self.version()}")
            except BaseException:
                self.reader.close()
                raise
        except BaseException:
            self.rows.close()
            raise
        self._uri = uri
        self.identity = folder.identity()

    def version(self) -> int:
        """0 while rows may be missing, else the format."""
        return int(self.reader.execute("PRAGMA user_version").fetchone()[0])

    def complete(self, identity: tuple[int, int] | None) -> bool:
        """Note that every file has its row, unless this is another database; say whether it was noted.

        In the log it stands after the rows, so that no power cut leaves it without them.
        """
        if identity != self.identity:
            return False
        writer = sqlite3.connect(f"{self._uri}?mode=rw", uri=True, timeout=_BUSY_WAIT, isolation_level=None)
        try:
            writer.execute(f"PRAGMA user_version = {FORMAT}")
        finally:
            writer.close()
        return True

    def use(self, batch: Sequence[tuple[Digest, int]]) -> None:
        """Write uses in their order, each later than every row there is."""
        with self.rows.transact():
            # The write lock is ours, so what the reader sees is the newest of all processes.
            newest = self.reader.execute("SELECT max(store_time) FROM Cache").fetchone()[0] or 0.0
            if not isinstance(newest, float) or not newest < _LARGEST:
                raise _ForeignError("a time of use that is no time")
            for digest, size in batch:
                newest = max(time.time(), newest + 1e-6)
                self.rows.moment = newest
                self.rows.set(str(digest), size)

    def add(self, batch: Sequence[tuple[Digest, int, float]]) -> int:
        """Add rows for files that have none, leaving the others as they are; return how many were added."""
        marks = ",".join("?" * len(batch))
        known = {
            key
            for (key,) in self.reader.execute(
                f"SELECT key FROM Cache WHERE raw = 1 AND key IN ({marks})",  # noqa: S608 - question marks only
                [str(digest) for digest, _, _ in batch],
            )
        }
        missing = [found for found in batch if str(found[0]) not in known]
        if not missing:
            return 0
        now = time.time()
        with self.rows.transact():
            for digest, size, used in missing:
                self.rows.moment = min(max(used, 0.0), now)
                self.rows.add(str(digest), size)
        return len(missing)

    def drop(self, digests: Sequence[Digest]) -> None:
        """Remove the rows of `digests`."""
        with self.rows.transact():
            for digest in digests:
                self.rows.delete(str(digest))

    def oldest(self, limit: int, after: Entry | None) -> list[Entry]:
        """Return up to `limit` rows, least recently used first, those after `after`."""
        found = self.reader.execute(
            "SELECT key, raw, size, store_time, mode, filename, value, rowid FROM Cache"
            " WHERE (store_time, rowid) > (?, ?) ORDER BY store_time, rowid LIMIT ?",
            (after.used, after.row, limit) if after else (-1.0, 0, limit),
        )
        return [_entry(*row) for row in found]

    def sums(self) -> tuple[int, int]:
        """Return (bytes, rows), which diskcache's triggers keep."""
        found = dict(self.reader.execute("SELECT key, value FROM Settings WHERE key IN ('size', 'count')"))
        size, count = found.get("size"), found.get("count")
        if type(size) is not int or type(count) is not int or size < 0 or count < 0:
            raise _ForeignError("sums that are no numbers")
        return size, count

    def close(self) -> None:
        """Close both connections; never raises."""
        for connection in (self.reader, self.rows):
            with suppress(sqlite3.Error, OSError):
                connection.close()


def _entry(
    key: Any, raw: Any, size: Any, used: Any, mode: Any, filename: Any, value: Any, row: int
) -> Entry:  # the columns as SQLite gives them, whatever was planted there
    if raw != 1 or mode != diskcache.core.MODE_RAW or filename is not None or value is not None:
        raise _ForeignError("a row with a value or a file")
    if type(key) is not str or type(size) is not int or type(used) is not float or size < 0:
        raise _ForeignError("a row of other types")
    try:
        return Entry(Digest.parse(key), size, used, row)
    except DigestInvalid as error:
        raise _ForeignError("a key that is no digest") from error


class Index:
    """Sizes and times of use. Every call but `note` blocks, for at most `deadline` seconds, and is for threads.

    A call that cannot be done raises StoreError; what was noted stays in memory, and nobody who reads content ever
    waits. Made after a fork, one a process.
    """

    def __init__(
        self, layout: Layout, quarantine: Quarantine, *, deadline: float = 5.0, capacity: int = CAPACITY
    ) -> None:
        self._folder = IndexFolder(layout, quarantine)
        self._deadline = deadline
        self._uses = Uses(capacity)
        self.note = self._uses.note  # the hot path saves a call
        self._flushing = threading.Lock()
        # SQLite may hang for 10 s on a failing disk whatever its timeout says (E1).
        self._thread = OneThread("index")
        self._database: _Database | None = None
        self._away_until = 0.0
        self._away = ""
        self._log = logs.get("index")

    def noted(self) -> list[Digest]:
        """Return what is noted and not written yet, least recently used first."""
        return self._uses.order()

    def flush(self) -> int:
        """Write what was noted, in its order, and return how many uses that were."""
        written = 0
        with self._flushing:
            uses = self._uses.take()
            try:
                while uses:
                    batch = list(islice(uses.items(), BATCH))
                    self._call(_Database.use, batch)
                    for digest, _ in batch:
                        del uses[digest]
                    written += len(batch)
            finally:
                if uses:
                    self._uses.put_back(uses)
        return written

    def forget(self, digests: Iterable[Digest]) -> None:
        """Remove the rows of content that is no longer here."""
        gone = list(digests)
        for digest in gone:
            self._uses.drop(digest)
        for start in range(0, len(gone), BATCH):
            self._call(_Database.drop, gone[start : start + BATCH])

    def oldest(self, limit: int, after: Entry | None = None) -> list[Entry]:
        """Return up to `limit` rows, least recently used first; `after` is the last one of the page before."""
        return self._call(_Database.oldest, limit, after)

    def total(self) -> int:
        """Return the bytes of all rows."""
        return self._call(_Database.sums)[0]

    def count(self) -> int:
        """Return the number of rows."""
        return self._call(_Database.sums)[1]

    def needs_rebuild(self) -> bool:
        """Tell whether rows may be missing: the index is new, or its rebuild did not come to its end."""
        return self._call(_Database.version) < FORMAT

    def adopt(self, found: Sequence[tuple[Digest, int, float]]) -> int:
        """Add rows (digest, bytes, time of use) for files that have none and return how many; at most BATCH."""
        return self._call(_Database.add, found) if found else 0

    def identity(self) -> tuple[int, int] | None:
        """Return what tells this database from one that replaces it."""
        found: tuple[int, int] | None = self._call(lambda database: database.identity)
        return found

    def rebuilt(self, identity: tuple[int, int] | None) -> None:
        """Note that every file has its row, in the database of that identity; StoreError if it was replaced since."""
        if not self._call(_Database.complete, identity):
            raise StoreError("the index was replaced while it was rebuilt", "it is rebuilt again")

    def close(self) -> None:
        """Close the database; does not flush and does not wait for a call that hangs."""
        with suppress(TimeoutError):
            self._thread.call(self._shut, self._deadline)
        self._thread.close()

    def _call(self, work: Callable[..., T], *arguments: object) -> T:
        give_up = time.monotonic() + self._deadline - 2 * _BUSY_WAIT
        try:
            return self._thread.call(lambda: self._attempt(work, arguments, give_up), self._deadline)
        except TimeoutError as error:
            raise StoreError("the index does not answer") from error

    def _attempt(self, work: Callable[..., T], arguments: tuple[object, ...], give_up: float) -> T:
        """Do `work` on the database, again while it is busy; on the index's thread."""
        while True:
            try:
                result = work(self._open(), *arguments)
            except (diskcache.Timeout, sqlite3.OperationalError) as error:
                # diskcache says Timeout for every fault of BEGIN (E1); the error behind it says what it was.
                cause = error.__context__ if isinstance(error, diskcache.Timeout) else error
                code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_BUSY) & 0xFF
                if code not in _BUSY:
                    self._give_up(str(cause), damaged=code not in _PASSING)
                    raise StoreError("the index cannot be used now") from error
                if time.monotonic() > give_up:
                    raise StoreError("the index is busy") from error
                time.sleep(_PAUSE)  # some kinds of busy do not wait by themselves
            except (sqlite3.Error, _ForeignError, OSError) as error:
                self._give_up(str(error), damaged=not isinstance(error, OSError))
                raise StoreError("the index cannot be used now") from error
            else:
                if self._away:
                    self._log.info("index_back")
                    self._away = ""
                    self._folder.note_readable()
                return result

    def _open(self) -> _Database:
        """Return the database, opened if it is not, or if another process has put another in its place."""
        if self._database is not None:
            if self._database.identity == self._folder.identity():
                return self._database
            self._shut()
        if time.monotonic() < self._away_until:
            raise StoreError("the index cannot be used now")
        # One process at a time makes the tables; SQLite's own locking gets there too, in up to 60 s.
        with self._folder.locked():
            self._folder.make()
            self._database = self._open_or_replace()
        return self._database

    def _open_or_replace(self) -> _Database:
        try:
            return _Database(self._folder)
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode & 0xFF
            if code in _BUSY or (code in _PASSING and not self._folder.never_usable()):
                raise
            why = str(error)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - what a planted setting makes diskcache raise is open-ended
            why = f"{type(error).__name__}: {error}"
        self._folder.replace(why)
        return _Database(self._folder)

    def _give_up(self, why: str, *, damaged: bool) -> None:
        """Close the database; replace a damaged one, unless another process has by now.

        Without a damage the reason may pass: the index is left alone for a few seconds.
        """
        seen = self._database.identity if self._database is not None else None
        self._shut()
        if damaged:
            with suppress(OSError), self._folder.locked():
                if seen is not None and self._folder.identity() == seen:
                    self._folder.replace(why)
        else:
            self._folder.note_unreadable()
            self._away_until = time.monotonic() + _RETRY_AFTER
        if not self._away:
            self._log.warning("index_unavailable", why=why, damaged=damaged)
        self._away = why

    def _shut(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()
