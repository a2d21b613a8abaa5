"""Faults of the disk: what could not be read or written, noted where it happens, until it works again.

What cannot be read is not bad, and what cannot be written is not lost: nothing is moved or removed for it. It is noted
here by whoever meets it, `mirror status` says it (Degraded=StoreUnreadable, StoreUnwritable), and it is forgotten when
another try works. One ledger a process, like its log; a worker inherits what its supervisor met.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from mirror import logs
from mirror.errors import StoreUnreadable

Operation = Literal["read", "write"]

# What says that the process, not the file, is at its end: never to be taken for "not here" (Bazel #6126).
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
ABSENT = (errno.ENOENT, errno.ENOTDIR)

_MOST = 256  # paths that are remembered
_DISK = "look at the disk (dmesg, SMART); nothing was moved or removed, and it is tried again by itself"
_MOUNT = "mount the store's file system again; nothing was moved or removed"
_GONE = (
    "mount or restore this folder of the store, which is served again then; only if all that it held is lost for good,"
    " make an empty one for the store's owner (mkdir -m 700)"
)
_REMEDIES: Mapping[int, str] = {
    errno.EACCES: "give it back to the store's owner (chown -R), and where SELinux labels files run restorecon -R",
    errno.EPERM: "give it back to the store's owner (chown -R), and where SELinux labels files run restorecon -R",
    **dict.fromkeys(ABSENT, _GONE),
    errno.ELOOP: "a symbolic link is in its place: put the file itself there",
    errno.EMFILE: "raise LimitNOFILE",
    errno.ENFILE: "raise fs.file-max",
    errno.ENOMEM: "give the host more memory",
    errno.ESTALE: _MOUNT,
    errno.ENOTCONN: _MOUNT,
    errno.ENODEV: _MOUNT,
    errno.ENXIO: _MOUNT,
    errno.EROFS: "see why the file system became read-only (dmesg), and mount it writable; "
    "a unit of systemd needs it in ReadWritePaths=",
}
# No room is no fault of the disk: space.py says what would help.
_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_FAULT = frozenset(
    (*_ROOM, *ABSENT, *EXHAUSTED, errno.EEXIST, errno.EWOULDBLOCK, errno.EINTR, errno.ENOTEMPTY, errno.ECANCELED)
)

_log = logs.get("store.faults")


def remedy_of(number: int) -> str:
    """Return what mends a fault of this errno."""
    return _REMEDIES.get(number, _DISK)


@dataclass(slots=True)
class _Fault:
    number: int  # errno
    position: int  # in bytes, where reading failed
    count: int
    since: float
    retried: bool


class Faults:
    """What failed lately: for each path its errno, how often, and since when. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: dict[tuple[Operation, str], _Fault] = {}
        self._counts: Counter[str] = Counter()

    def note(self, operation: Operation, path: str, error: OSError, position: int = 0, *, retried: bool = True) -> None:
        """Note that `path` could not be read, or written; `position` (bytes) is where. Does not wait.

        What is not to be `retried` here stays until `over` is called: the database of the index, on which any other
        descriptor of the process that is closed takes SQLite's locks along.
        """
        number = error.errno or errno.EIO
        key = (operation, path)
        with self._lock:
            self._counts[f"{operation}_{errno.errorcode.get(number, 'EIO').lower()}"] += 1
            known = self._noted.get(key)
            if known is None and len(self._noted) >= _MOST:
                del self._noted[next(iter(self._noted))]
            since = known.since if known is not None else time.time()
            count = known.count + 1 if known is not None else 1
            self._noted[key] = _Fault(number, position, count, since, retried)
        if known is None:
            _log.error(
                "store_unreadable" if operation == "read" else "store_unwritable",
                path=path,
                error=os.strerror(number),
                remedy=remedy_of(number),
            )

    def told(self) -> list[dict[str, Any]]:
        """Return what failed and was not seen to work since, a row for each operation and errno, most paths first.

        A row has `operation`, `errno` (its name), `error` (in words), `path` (the last one), `paths` (how many),
        `count` (how often) and `since` (Unix time).
        """
        rows: dict[tuple[Operation, int], dict[str, Any]] = {}
        with self._lock:
            for (operation, path), fault in self._noted.items():
                row = rows.setdefault(
                    (operation, fault.number),
                    {
                        "operation": operation,
                        "errno": errno.errorcode.get(fault.number, str(fault.number)),
                        "error": os.strerror(fault.number),
                        "remedy": remedy_of(fault.number),
                        "paths": 0,
                        "count": 0,
                        "since": fault.since,
                    },
                )
                row |= {"path": path, "since": min(row["since"], fault.since)}
                row["paths"] += 1
                row["count"] += fault.count
        return sorted(rows.values(), key=lambda row: (row["operation"], -row["paths"], row["errno"]))

    def take_counts(self) -> Counter[str]:
        """Return how many faults of each kind (`read_eio`) there were since this was asked last."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return counts

    def retry(self) -> None:
        """Try again what failed, and forget what works now. Blocks: for threads."""
        with self._lock:
            noted = [(*key, fault) for key, fault in self._noted.items()]
        for operation, path, fault in noted:
            if not fault.retried or not (_reads(path, fault) if operation == "read" else _writes(path)):
                continue
            with self._lock:
                if self._noted.get((operation, path)) is fault:  # it has not failed again meanwhile
                    del self._noted[(operation, path)]
            _log.info("store_works_again", operation=operation, path=path)

    def over(self, operation: Operation, path: str) -> None:
        """Forget what failed with `path`, which works now."""
        with self._lock:
            known = self._noted.pop((operation, path), None)
        if known is not None:
            _log.info("store_works_again", operation=operation, path=path)

    def __bool__(self) -> bool:
        """Whether anything failed and was not seen to work since."""
        return bool(self._noted)


DISK_FAULTS = Faults()


def unreadable(path: str, error: OSError, position: int = 0) -> StoreUnreadable:
    """Note that `path` could not be read and return the error to raise."""
    DISK_FAULTS.note("read", path, error, position)
    number = error.errno or errno.EIO
    return StoreUnreadable(f"{path} cannot be read ({os.strerror(number)})", remedy_of(number), number, path)


def path_of(fd: int) -> str:
    """Return the path that an open file has now, as far as it has one."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"descriptor {fd}"


@contextmanager
def noted(operation: Operation, path: str) -> Iterator[None]:
    """Note what the disk answers to the block, but want of room or of the file, and let it pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_FAULT:
            DISK_FAULTS.note(operation, path, error)
        raise


def _reads(path: str, fault: _Fault) -> bool:
    try:
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(path) as entries:
                next(entries, None)
            return True
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.fstat(fd)
            os.pread(fd, 1, fault.position)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno in ABSENT and fault.number not in ABSENT
    return True


def _writes(path: str) -> bool:
    """Tell whether the folder of `path` (or the folder that it is) takes a file and brings it to disk."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    # The name of a write under way: what a kill leaves of it is removed like one (strays.py, leftovers.py).
    probe = f"{folder}/probe.{os.getpid()}-{os.urandom(4).hex()}~"
    try:
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, b"0")
            os.fsync(fd)
        finally:
            os.close(fd)
            with suppress(OSError):
                os.unlink(probe)
    except OSError as error:
        return error.errno in (*ABSENT, *_ROOM)
    return True
