"""Locks between processes: flock on a file that is never renamed or deleted while anything runs.

flock belongs to the open file, so it falls free when its process dies, kill -9 included, and two descriptors of
one process exclude each other too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

_POLL = 0.005  # seconds between tries while waiting; short, because what is done under these locks is short


class FileLock:
    """A lock on `path`, which is created if it is missing (its folder must be there).

    Exclusive, or `shared` with others that are.
    """

    def __init__(self, path: str | os.PathLike[str], *, shared: bool = False) -> None:
        self._path = os.fspath(path)
        self._how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._fd = -1

    def try_acquire(self) -> bool:
        """Take the lock if it is free and say whether it was. Does not wait; costs two system calls."""
        fd = self._open()
        try:
            fcntl.flock(fd, self._how | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            self._make_folders()
            return os.open(self._path, flags, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
        try:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            # Where nothing can change, nobody has to be kept from changing it.
            return os.memfd_create("lock", os.MFD_CLOEXEC)

    def _make_folders(self) -> None:
        # run/ holds nothing that must last, and somebody may have removed it under a running service. Nothing above
        # it is made: where the store itself is gone (not mounted, say), another one must not come up in its place.
        folders = list(Path(self._path).parents)
        run = next((place for place, folder in enumerate(folders) if folder.name == "run"), -1)
        for folder in reversed(folders[: run + 1]):
            folder.mkdir(0o700, exist_ok=True)

    def open(self) -> None:
        """Open the file, so that `retry` need not. Blocks: for threads."""
        if self._fd < 0:
            self._fd = self._open()

    def retry(self) -> bool:
        """Take the lock, whose file is open, if it is free and say whether it was: one system call that never waits."""
        try:
            fcntl.flock(self._fd, self._how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def acquire(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the lock and say whether it was taken. Blocks: for threads only."""
        deadline = time.monotonic() + timeout
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True

    def release(self) -> None:
        """Give the lock back. Safe to call when it is not held."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def fileno(self) -> int:
        """Return the descriptor that holds the lock, -1 where it is not held."""
        return self._fd

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd >= 0

    def __enter__(self) -> FileLock:
        if not self.acquire(30):
            raise TimeoutError(f"{os.path.basename(self._path)} was not free within 30 s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@contextmanager
def held(path: str, patience: float, otherwise: Exception) -> Iterator[None]:
    """Hold the lock on `path`; raise `otherwise` where it does not come free within `patience` seconds. For threads."""
    lock = FileLock(path)
    if not lock.acquire(patience):
        raise otherwise
    try:
        yield
    finally:
        lock.release()


def locked_files() -> frozenset[int]:
    """Return the inodes of all files that some process of this host has flocked exclusively, as far as we may know.

    Unlike a try to take the lock, a look at it (proc(5), locks) is in nobody's way. Blocks: for threads.
    """
    found = set()
    try:
        with open("/proc/locks", encoding="ascii") as source:
            for line in source:
                fields = line.split()
                if len(fields) > 5 and fields[1] == "FLOCK" and fields[3] == "WRITE":
                    found.add(int(fields[5].rpartition(":")[2]))
    except (OSError, ValueError):
        return frozenset(found)
    return frozenset(found)


def inode(path: str | os.PathLike[str]) -> int:
    """Return the inode of a file, 0 where there is none."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
