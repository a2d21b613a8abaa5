"""The few file calls that may run on the event loop: metadata and reads of what is in the page cache.

Everything else (writes, fsync, rename, directory listings, long hashes) runs in threads. `ON_LOOP` is what the
tests' blocking-call detector is told to let through from here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable

from mirror import logs
from mirror.errors import NotYet

ON_LOOP = ("open_content", "status", "look", "modified", "resident", "read_bytes", "read_small")

# What says that the process, not the file, is at its end: never to be taken for "not here" (Bazel #6126).
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

NO_DESCRIPTORS = ("the mirror has no file descriptors left", "raise LimitNOFILE", 2)

SEALED_MODE = 0o440
_SEAL_EPOCH = 1_000_000_000
_PROBE_STEP = 256 * 1024
_THREAD_STEP = 1024 * 1024

_log = logs.get("store.files")


def seal_time(size: int) -> int:
    """Return the mtime, in whole seconds, that seals a verified file of `size` bytes (DESIGN, the store on disk)."""
    return _SEAL_EPOCH + size % _SEAL_EPOCH


def is_sealed(status: os.stat_result) -> bool:
    """Tell whether a file is marked as complete and verified: its mode and an mtime that agrees with its size."""
    return (
        stat.S_IMODE(status.st_mode) == SEALED_MODE and status.st_mtime_ns == seal_time(status.st_size) * 1_000_000_000
    )


def open_content(path: str) -> int | None:
    """Open `path` for reading and return the descriptor, or None where there is no file.

    A symbolic link is not followed and raises OSError (ELOOP), as does every other fault.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None


def status(fd: int) -> os.stat_result:
    """Return the status of an open file."""
    return os.fstat(fd)


def look(path: str) -> os.stat_result | None:
    """Return the status of what `path` leads to, a symbolic link not followed, or None where there is nothing."""
    try:
        return os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def may_read(path: str, found: os.stat_result) -> bool:
    """Tell whether a sealed file, of which `look` found this, is ours to read: another owner's is closed to us."""
    return found.st_uid == os.geteuid() or os.access(path, os.R_OK)


def is_here(path: str) -> bool:
    """Tell whether `path` leads to something that is ours to read."""
    found = look(path)
    return found is not None and may_read(path, found)


def modified(path: str) -> tuple[int, int, int] | None:
    """Return (inode, mtime in ns, size) of `path`, or None where there is nothing: two equal ones are one content.

    Every write in the store is a rename, so a changed file has another inode.
    """
    found = look(path)
    return None if found is None else (found.st_ino, found.st_mtime_ns, found.st_size)


def read_bytes(fd: int, start: int, stop: int) -> bytes:
    """Return bytes start..stop of an open file, fewer at its end."""
    return os.pread(fd, stop - start, start)


def read_small(path: str, limit: int) -> bytes | None:
    """Return the content of a small file, or None where there is none; raise OSError (EFBIG) above `limit` bytes."""
    fd = open_content(path)
    if fd is None:
        return None
    try:
        # As much memory as the file takes: limits are far above what most files have.
        content = os.pread(fd, min(os.fstat(fd).st_size, limit) + 1, 0)
    finally:
        os.close(fd)
    if len(content) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return content


def read_record(path: str, limit: int) -> bytes | None:
    """Return the content of a small file that can be made anew, or None where it is not there or cannot be read.

    Raises NotYet when descriptors have run out.
    """
    try:
        return read_small(path, limit)
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise NotYet(*NO_DESCRIPTORS) from error
        _log.warning("record_unreadable", path=path, error=error.strerror)
        return None


class PageCache:
    """Knows whether reading would wait for the disk. One a process and file system."""

    def __init__(self) -> None:
        self._probes = hasattr(os, "RWF_NOWAIT")
        self._byte = bytearray(1)

    def resident(self, fd: int, start: int, stop: int) -> bool:
        """Tell whether bytes start..stop are in the page cache, asked at steps of 256 KiB.

        A file system that cannot say (tmpfs: EOPNOTSUPP) answers no from then on, so that threads read it.
        """
        if not self._probes:
            return False
        buffers = [self._byte]
        try:
            position = start
            while position < stop:
                os.preadv(fd, buffers, position, os.RWF_NOWAIT)
                position += _PROBE_STEP
            os.preadv(fd, buffers, max(start, stop - 1), os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            self._probes = False
            return False
        return True


def read_ahead(fd: int, start: int, stop: int) -> None:
    """Bring bytes start..stop into the page cache. Waits for the disk: for threads only."""
    os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_WILLNEED)
    position = start
    while position < stop:
        got = len(os.pread(fd, min(_THREAD_STEP, stop - position), position))
        if not got:
            return
        position += got


def write_atomically(path: str, content: bytes, *, durable: bool, mode: int = 0o600) -> None:
    """Put `content` at `path` by a rename, so that nobody ever sees half of it. For threads only.

    `durable` waits until content and name are on disk. Missing folders are made.
    """
    temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}~"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(temporary, flags, mode)
    except FileNotFoundError:
        make_folders(os.path.dirname(path))
        fd = os.open(temporary, flags, mode)
    try:
        try:
            write_all(fd, content)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        remove(temporary)
        raise
    if durable:
        sync_folder(os.path.dirname(path))


def write_all(fd: int, content: bytes | memoryview) -> None:
    """Write all of `content` at the descriptor's position."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def make_folders(path: str) -> None:
    """Make `path` and its parents durable, 0700 each: what is put into a folder is only as safe as its name."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_folders(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    sync_folder(parent)


def sync_folder(path: str) -> None:
    """Wait until the names in `path` are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str) -> bool:
    """Remove a file and say whether it was there."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def hash_file(fd: int, update: Callable[[bytes], object], start: int = 0, stop: int | None = None) -> int:
    """Feed bytes start..stop (the end) of an open file to `update` and return how many there were. For threads only."""
    position = start
    while stop is None or position < stop:
        step = _THREAD_STEP if stop is None else min(_THREAD_STEP, stop - position)
        content = os.pread(fd, step, position)
        if not content:
            break
        update(content)
        position += len(content)
    return position - start


def idle_for(path: str, age: float) -> bool:
    """Tell whether a file is there and untouched for `age` seconds. The mtime alone may be a seal: always old."""
    found = look(path)
    return found is not None and max(found.st_mtime, found.st_ctime) < time.time() - age


def unseal(path: str) -> bool:
    """Make a file writable that was sealed and never renamed; say whether opening it again may help."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        # Whoever seals it holds the lock until it is renamed: then it is not here any more.
        fcntl.flock(fd, fcntl.LOCK_EX)
        there, here = look(path), status(fd)
        if there is not None and there.st_ino == here.st_ino:
            os.fchmod(fd, 0o600)
    except PermissionError:
        return False
    finally:
        os.close(fd)
    return True
