"""Faults of the disk: what could not be read or written, noted where it happens, until it works again.

What cannot be read is not bad, and what cannot be written is not lost: nothing is moved or removed for it. It is noted
here by whoever meets it, `mirror status` says it (Degraded=StoreUnreadable, StoreUnwritable), and it is forgotten when
another try works. One ledger a process, like its log; a worker inherits what its supervisor met.

A record that was read and makes no sense is noted here too (Degraded=RecordDamaged): it stays until it is written anew.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mirror import logs
from mirror.errors import RecordDamaged, StoreUnreadable

Operation = Literal["read", "write", "parse"]

# What says that the process, not the file, is at its end: never to be taken for "not here" (Bazel #6126).
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
ABSENT = (errno.ENOENT,)

_MOST = 256  # paths that are remembered
_DISK = "look at the disk (dmesg, SMART); nothing was moved or removed, and it is tried again by itself"
_MOUNT = "mount the store's file system again; nothing was moved or removed"
_GIVE_BACK = (
    "give it back to the store's owner (chown -R), let that user read it (chmod -R u+rX), and where SELinux labels"
    " files run restorecon -R"
)
_GONE = (
    "mount or restore this folder of the store, which is served again then; only if all that it held is lost for good,"
    " make an empty one for the store's owner (mkdir -m 700)"
)
_REMEDIES: Mapping[int, str] = {
    errno.EACCES: _GIVE_BACK,
    errno.EPERM: _GIVE_BACK,
    errno.ENOENT: _GONE,
    errno.ENOTDIR: "a file is in the place of a folder above it: move that away by hand, then put back the folder, or "
    "have what was in it pulled, pushed or loaded again",
    errno.ELOOP: "a symbolic link is in its place, or above it: put the file or the folder itself there",
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
# What may be where a file belongs, and what reading it is answered with.
_MISPLACED: Mapping[int, tuple[str, int]] = {
    stat.S_IFLNK: ("a symbolic link", errno.ELOOP),
    stat.S_IFDIR: ("a folder", errno.EISDIR),
    stat.S_IFIFO: ("a pipe", errno.ESPIPE),
    stat.S_IFSOCK: ("a socket", errno.ENXIO),
    stat.S_IFCHR: ("a device", errno.ENXIO),
    stat.S_IFBLK: ("a device", errno.ENXIO),
}
_MOVE = (
    "it does not belong to the store: move it away by hand, then a pull, a push or mirror scrub brings the file again"
)
_LINK = (
    "a store holds no symbolic links: put the file itself there, or move the link away by hand, then a pull, a push, "
    "or mirror scrub brings the file again"
)
# No room is no fault of the disk: space.py says what would help.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_FAULT = frozenset(
    (*NO_ROOM, *ABSENT, *EXHAUSTED, errno.EEXIST, errno.EWOULDBLOCK, errno.EINTR, errno.ENOTEMPTY, errno.ECANCELED)
)

_EVENTS: Mapping[Operation, str] = {
    "read": "store_unreadable",
    "write": "store_unwritable",
    "parse": "record_damaged",
}

_log = logs.get("store.faults")


def _words(path: str, number: int) -> tuple[str, str]:
    """Return what is wrong with `path`, which was answered with this errno, and what mends it."""
    try:
        kind = _misplaced(os.lstat(path).st_mode, number)
    except OSError:
        kind = ""
    if kind:
        return f"{kind} is in its place", _LINK if number == errno.ELOOP else _MOVE
    return os.strerror(number), _REMEDIES.get(number, _DISK)


def _misplaced(mode: int, number: int) -> str:
    """Return what is in the place of a file, empty where that is a file, or may be a folder that is meant."""
    kind, usual = _MISPLACED.get(stat.S_IFMT(mode), ("", 0))
    # Folders are read too, and may be reached by links: these say themselves when they are in the way.
    return "" if stat.S_IFMT(mode) in (stat.S_IFDIR, stat.S_IFLNK) and number != usual else kind


@dataclass(slots=True)
class _Fault:
    number: int  # errno, 0 for what was read and makes no sense
    error: str
    remedy: str
    count: int
    since: float
    works: Callable[[], bool] | None  # whether what failed can be done now; None: somebody else says when


class Faults:
    """What failed lately: for each path its errno, how often, and since when. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: dict[tuple[Operation, str], _Fault] = {}
        self._counts: Counter[str] = Counter()

    def note(
        self, operation: Operation, path: str, error: OSError, position: int = 0, *, retried: bool = True
    ) -> tuple[str, str]:
        """Note that `path` could not be read, or written; `position` (bytes) is where. Return why, and what mends it.

        What is not to be `retried` here stays until `over` is called: the database of the index, on which any other
        descriptor of the process that is closed takes SQLite's locks along.
        """
        number = error.errno or errno.EIO
        words, remedy = _words(path, number)
        works = partial(_reads, path, number, position) if operation == "read" else partial(_writes, path, number)
        self._note(operation, path, _Fault(number, words, remedy, 1, time.time(), works if retried else None))
        return words, remedy

    def note_damaged(self, path: str, what: str, remedy: str, works: Callable[[], bool]) -> None:
        """Note that a record was read and makes no sense; `works` tells whether it does, or is gone, later on."""
        self._note("parse", path, _Fault(0, what, remedy, 1, time.time(), works))

    def _note(self, operation: Operation, path: str, fault: _Fault) -> None:
        key = (operation, path)
        with self._lock:
            self._counts[f"{operation}_{_name(fault.number).lower()}"] += 1
            known = self._noted.get(key)
            if known is None and len(self._noted) >= _MOST:
                del self._noted[next(iter(self._noted))]
            if known is not None:
                fault.since, fault.count = known.since, known.count + 1
            self._noted[key] = fault
        if known is None:
            _log.error(_EVENTS[operation], path=path, error=fault.error, remedy=fault.remedy)

    def told(self) -> list[dict[str, Any]]:
        """Return what failed and was not seen to work since, most paths first: a row for what has the same remedy.

        A row has `operation`, `errno` (its name), `error` (in words), `remedy`, `path` (the last one), `paths` (how
        many), `count` (how often) and `since` (Unix time).
        """
        rows: dict[tuple[Operation, int, str], dict[str, Any]] = {}
        with self._lock:
            for (operation, path), fault in self._noted.items():
                row = rows.setdefault(
                    (operation, fault.number, fault.remedy),
                    {
                        "operation": operation,
                        "errno": _name(fault.number),
                        "error": fault.error,
                        "remedy": fault.remedy,
                        "paths": 0,
                        "count": 0,
                        "since": fault.since,
                    },
                )
                row |= {"path": path, "error": fault.error, "since": min(row["since"], fault.since)}
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
            if fault.works is None or not fault.works():
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
    words, remedy = DISK_FAULTS.note("read", path, error, position)
    return StoreUnreadable(f"{path} cannot be read ({words})", remedy, error.errno or errno.EIO, path)


def check_file(path: str, found: os.stat_result) -> None:
    """Raise StoreUnreadable where `path`, of which this is the status, is a folder, a link, a pipe: never a file."""
    if not stat.S_ISREG(found.st_mode):
        _, number = _MISPLACED.get(stat.S_IFMT(found.st_mode), ("", errno.ENXIO))
        raise unreadable(path, OSError(number, os.strerror(number)))


def damaged(path: str, what: str, remedy: str, works: Callable[[], bool]) -> RecordDamaged:
    """Note that the record at `path` makes no sense (Faults.note_damaged) and return the error to raise."""
    DISK_FAULTS.note_damaged(path, what, remedy, works)
    return RecordDamaged(what, remedy, path=path)


def path_of(fd: int) -> str:
    """Return the path that an open file has now, as far as it has one."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"descriptor {fd}"


class noted:  # noqa: N801 - it reads as what it does, and is no generator because each write passes it
    """Note what the disk answers to the block, but want of room or of the file, and let it pass."""

    __slots__ = ("_operation", "_path")

    def __init__(self, operation: Operation, path: str) -> None:
        self._operation: Operation = operation
        self._path = path

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Note the error, if there is one."""
        if isinstance(error, OSError) and error.errno not in _NO_FAULT:
            DISK_FAULTS.note(self._operation, self._path, error)


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number)) if number else "damaged"


def _reads(path: str, number: int, position: int) -> bool:
    """Tell whether what was answered with errno `number` can be read now, at `position`, or is gone and may be."""
    if number == errno.ENOENT:
        return os.path.isdir(path)  # a folder that every store has
    try:
        mode = os.lstat(path).st_mode
        if _misplaced(mode, number):
            return False
        if not stat.S_ISREG(mode):
            with os.scandir(path) as entries:
                next(entries, None)
            return True
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.fstat(fd)
            os.pread(fd, 1, position)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno in ABSENT
    return True


def is_read_only(folder: str | os.PathLike[str]) -> bool:
    """Tell whether the file system of a folder takes nothing; False where that cannot be said. For threads only.

    The kernel's word is not enough: since Linux 6.15 ext4 keeps its mount's flag when it stops writing at an error. So
    a file without a name is begun too, which leaves nothing behind.
    """
    with suppress(OSError):
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return True
        try:
            os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as error:
            return error.errno == errno.EROFS
    return False


def _writes(path: str, number: int) -> bool:
    """Tell whether the folder of `path` (or the folder that it is) takes a file and brings it to disk."""
    with suppress(OSError):
        if _misplaced(os.lstat(path).st_mode, number):
            return False
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
    except FileNotFoundError:
        # A write makes the folders that it needs.
        nearest = next((one for one in Path(folder).absolute().parents if one.is_dir()), Path("/"))
        return not is_read_only(nearest)
    except OSError as error:
        return error.errno in NO_ROOM
    return True
