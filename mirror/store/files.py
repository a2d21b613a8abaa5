"""The few file calls that may run on the event loop: metadata and reads of what is in the page cache.

Everything else (writes, fsync, rename, directory listings, long hashes) runs in threads. `ON_LOOP` is what the
tests' blocking-call detector is told to let through from here.

What cannot be read is StoreUnreadable and nothing else: neither "not here" nor "damaged" may be concluded from it. It
and what cannot be written is noted (faults.py). So it is where a folder is gone that a store always has: whatever was
in it may be on a disk that is not mounted.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from mirror import logs
from mirror.errors import StoreUnreadable
from mirror.store.faults import EXHAUSTED as EXHAUSTED
from mirror.store.faults import check_file, damaged, noted, path_of, unreadable
from mirror.store.faults import is_read_only as is_read_only

ON_LOOP = ("open_content", "status", "look", "modified", "stamp", "is_there", "resident", "read_bytes", "read_small")

NO_DESCRIPTORS = ("the mirror has no file descriptors left", "raise LimitNOFILE", 2)

SEALED_MODE = 0o440
_SEAL_EPOCH = 1_000_000_000
_PROBE_STEP = 256 * 1024
_THREAD_STEP = 1024 * 1024

_Record = TypeVar("_Record")

# Nanoseconds, several times the longest tick of a kernel's clock: two changes within a tick leave one time, so a look
# that soon after a change says nothing of the next one.
TICK = 50_000_000

_log = logs.get("store.files")

# The folders that each store of this process must have, a slash behind each, the inner ones first: one store, but in
# tests.
_folders: dict[str, tuple[str, ...]] = {}
_MOST_STORES = 8


def expect(root: str | os.PathLike[str], folders: Iterable[str | os.PathLike[str]]) -> None:
    """Have nothing under these folders of the store `root` be taken for absent, or made, while the folder is gone."""
    _folders.pop(os.fspath(root), None)
    while len(_folders) >= _MOST_STORES:
        del _folders[next(iter(_folders))]
    expect_also(root, folders)


def expect_also(root: str | os.PathLike[str], folders: Iterable[str | os.PathLike[str]]) -> bool:
    """Do that for these folders as well; tell whether there is one among them that was not expected."""
    known = _folders.get(os.fspath(root), ())
    new = {f"{os.fspath(folder)}/" for folder in folders}.difference(known)
    if new or not known:
        _folders[os.fspath(root)] = tuple(sorted((*known, *new), key=len, reverse=True))
    return bool(new)


def missing(root: str | os.PathLike[str]) -> list[str]:
    """Return the folders that a store must have and has not."""
    return [folder[:-1] for folder in _folders.get(os.fspath(root), ()) if not is_there(folder)]


def _expected(path: str) -> str:
    """Return the innermost folder that a store must have for anybody to look for `path`, empty where there is none.

    With a slash behind it: `is_there` says of such a path whether it is a folder.
    """
    for folders in _folders.values():
        for folder in folders:
            if path.startswith(folder):
                return folder
    return ""


def _check_absence(path: str, error: OSError) -> None:
    """Raise StoreUnreadable where nobody can tell whether there is anything at `path`; `error` found nothing."""
    folder = _expected(path)
    if not folder:
        return
    if not is_there(folder):
        raise unreadable(folder[:-1], error) from error
    # Something else may be in the place of a folder; but in sets/ there are files beside the folders.
    if error.errno == errno.ENOTDIR and not folder.endswith("/sets/"):
        raise unreadable(path, error) from error


def _check_place(path: str) -> None:
    """Raise FileNotFoundError where `path` may not be made: a store, or a part of it, has to come back first."""
    at_top = _folders.get(os.path.dirname(path), ())  # nothing is made there while anything else is gone
    store = f"{path}/" if path in _folders else ""
    for folder in (store, _expected(f"{path}/"), *at_top):
        if folder and not is_there(folder):
            error = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder[:-1])
            unreadable(folder[:-1], error)
            raise error


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

    Raises StoreUnreadable for every other fault; a symbolic link is not followed and is one (ELOOP).
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        _check_absence(path, error)
        return None
    except OSError as error:
        raise unreadable(path, error) from error


def open_unnoticed(path: str) -> int | None:
    """Open `path` as `open_content` does, leaving its time of access: that orders eviction where the index is lost."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME)
    except OSError:
        return open_content(path)  # another user's file does not let us, and what else it is this says


def status(fd: int) -> os.stat_result:
    """Return the status of an open file. Raises StoreUnreadable, also where it is a folder, a pipe or the like."""
    try:
        found = os.fstat(fd)
    except OSError as error:
        raise unreadable(path_of(fd), error) from error
    if not stat.S_ISREG(found.st_mode):
        check_file(path_of(fd), found)
    return found


def look(path: str) -> os.stat_result | None:
    """Return the status of what `path` leads to, a symbolic link not followed, or None where there is nothing.

    Raises StoreUnreadable where neither can be said.
    """
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        _check_absence(path, error)
        return None
    except OSError as error:
        raise unreadable(path, error) from error


def may_read(path: str, found: os.stat_result) -> bool:
    """Tell whether a sealed file, of which `look` found this, is ours to read: another owner's may be closed to us."""
    if found.st_uid == os.geteuid() or os.access(path, os.R_OK, effective_ids=True):
        return True
    unreadable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return False


def modified(path: str) -> tuple[int, int, int] | None:
    """Return (inode, mtime in ns, size) of `path`, or None where there is nothing: two equal ones are one content.

    Every write in the store is a rename, so a changed file has another inode.
    """
    found = look(path)
    return None if found is None else (found.st_ino, found.st_mtime_ns, found.st_size)


def stamp(path: str) -> tuple[int, int, int] | None:
    """Return what `modified` does, for what each request asks of a file that is read when this changes.

    Where there is nothing it does not look why: whoever reads it then does. Raises StoreUnreadable.
    """
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def is_there(path: str) -> bool:
    """Tell whether there is something at `path`, as cheaply as can be where there usually is not; not why."""
    return os.access(path, os.F_OK)


def read_bytes(fd: int, start: int, stop: int) -> bytes:
    """Return bytes start..stop of an open file, fewer at its end. Raises StoreUnreadable."""
    try:
        return os.pread(fd, stop - start, start)
    except OSError as error:
        raise unreadable(path_of(fd), error, start) from error


def read_small(path: str, limit: int) -> bytes | None:
    """Return the content of a small file, or None where there is none.

    Raises StoreUnreadable, and OSError (EFBIG) above `limit` bytes.
    """
    fd = open_content(path)
    if fd is None:
        return None
    try:
        found = os.fstat(fd)
        check_file(path, found)
        # As much memory as the file takes: limits are far above what most files have.
        content = os.pread(fd, min(found.st_size, limit) + 1, 0)
    except OSError as error:
        raise unreadable(path, error) from error
    finally:
        os.close(fd)
    if len(content) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return content


def read_record(path: str, limit: int) -> bytes | None:
    """Return the content of a small file, or None where it is not there, or is larger than any record (damaged).

    Raises StoreUnreadable.
    """
    try:
        return read_small(path, limit)
    except OSError as error:
        _log.warning("record_too_large", path=path, error=error.strerror)
        return None


def read_whole(
    path: str, limit: int, parse: Callable[[bytes], _Record | None], what: str, remedy: str
) -> _Record | None:
    """Return what a record of at most `limit` bytes says, or None where there is none.

    Raises StoreUnreadable; RecordDamaged, with `what` it is and the `remedy`, where `parse` makes nothing of it.
    """
    try:
        raw = read_small(path, limit)
        if raw is None:
            return None
        found = parse(raw)
    except OSError:  # larger than any record
        found = None
    if found is None:
        raise damaged(path, f"{what} is damaged", remedy, lambda: _is_whole(path, limit, parse))
    return found


def _is_whole(path: str, limit: int, parse: Callable[[bytes], object | None]) -> bool:
    """Tell whether a record is one again, or gone."""
    try:
        raw = read_small(path, limit)
    except (OSError, StoreUnreadable):
        return False
    return raw is None or parse(raw) is not None


def names(folder: str | os.PathLike[str]) -> list[str]:
    """Return the names in a folder, in no order; none where there is no folder. Raises StoreUnreadable."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        _check_absence(f"{os.fspath(folder)}/", error)
        return []
    except OSError as error:
        raise unreadable(os.fspath(folder), error) from error


def entries(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder, lazily and in its order; nothing where there is no folder. Raises StoreUnreadable."""
    with reading(os.fspath(folder)):
        try:
            found = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            _check_absence(f"{os.fspath(folder)}/", error)
            return
        with found:
            yield from found


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what the disk answers to the block, which only reads, into StoreUnreadable of `path`."""
    try:
        yield
    except OSError as error:
        raise unreadable(error.filename if isinstance(error.filename, str) else path, error) from error


class PageCache:
    """Knows whether reading would wait for the disk. One a process and file system."""

    def __init__(self) -> None:
        self._probes = hasattr(os, "RWF_NOWAIT")
        self._byte = bytearray(1)

    def resident(self, fd: int, start: int, stop: int) -> bool:
        """Tell whether bytes start..stop are in the page cache, asked at steps of 256 KiB. Raises StoreUnreadable.

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
                raise unreadable(path_of(fd), error, start) from error
            self._probes = False
            return False
        return True


def read_ahead(fd: int, start: int, stop: int) -> None:
    """Bring bytes start..stop into the page cache. Waits for the disk: for threads only. Raises StoreUnreadable."""
    os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_WILLNEED)
    position = start
    while position < stop:
        got = len(read_bytes(fd, position, min(position + _THREAD_STEP, stop)))
        if not got:
            return
        position += got


def write_atomically(path: str, content: bytes, *, durable: bool, mode: int = 0o600) -> None:
    """Put `content` at `path` by a rename, so that nobody ever sees half of it. For threads only.

    `durable` waits until content and name are on disk. Missing folders are made. Raises OSError.
    """
    temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}~"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with noted("write", path):
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
            with suppress(OSError):
                remove(temporary)
            raise
    if durable:
        sync_folder(os.path.dirname(path))


def write_once(path: str, content: bytes, *, durable: bool) -> bool:
    """Put `content` at `path` unless something is there; say whether that was so. Whole at once, for threads only.

    Unlike a rename it replaces nothing: of two that come together the first one wins. Raises OSError.
    """
    temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}~"
    write_atomically(temporary, content, durable=durable)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        remove(temporary)
    if durable:
        sync_folder(os.path.dirname(path))
    return True


def begin(path: str, content: bytes) -> bool:
    """Write a new file that can be made anew; False where there is one. For threads only. Raises OSError.

    Whoever reads at that moment, or after a crash, may find less of it: for records that say so when they are parsed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with noted("write", path):
        try:
            fd = os.open(path, flags, 0o600)
        except FileExistsError:
            return False
        except FileNotFoundError:
            make_folders(os.path.dirname(path))
            return begin(path, content)
        try:
            write_all(fd, content)
        finally:
            os.close(fd)
    return True


def amend(path: str, limit: int, change: Callable[[bytes], bytes | None]) -> bytes | None:
    """Write over a small file what `change` makes of its content, of the same length, if it makes anything of it.

    Return what was there, None where there is no file. Readers find the old or the new: it is for a record of a few
    bytes, which one write changes whole, and which can be made anew. For threads only. Raises StoreUnreadable, OSError.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        _check_absence(path, error)
        return None
    except OSError as error:
        if error.errno == errno.EROFS:
            raise
        raise unreadable(path, error) from error
    try:
        content = read_bytes(fd, 0, limit)
        changed = change(content)
        if changed is not None:
            with noted("write", path):
                os.pwrite(fd, changed, 0)
    finally:
        os.close(fd)
    return content


def write_all(fd: int, content: bytes | memoryview) -> None:
    """Write all of `content` at the descriptor's position."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def make_folders(path: str) -> None:
    """Make `path` and its parents durable, 0700 each: what is put into a folder is only as safe as its name.

    Raises OSError: FileNotFoundError at the top of a store of which folders are gone that it must have.
    """
    if os.path.isdir(path):
        return
    _check_place(path)
    parent = os.path.dirname(path)
    make_folders(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    sync_folder(parent)


def sync_folder(path: str) -> None:
    """Wait until the names in `path` are on disk. Raises OSError."""
    with noted("write", path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def lacks_inodes(folder: str | os.PathLike[str]) -> bool:
    """Tell whether the file system of a folder takes no file more, but bytes; False where that cannot be said."""
    with suppress(OSError):
        found = os.statvfs(folder)
        return found.f_files > 0 and found.f_favail == 0 and found.f_bavail > 0
    return False


def remove(path: str) -> bool:
    """Remove a file and say whether it was there."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def hash_file(fd: int, update: Callable[[bytes], object], start: int = 0, stop: int | None = None) -> int:
    """Feed bytes start..stop (the end) of an open file to `update` and return how many there were. For threads only.

    Raises StoreUnreadable.
    """
    position = start
    while stop is None or position < stop:
        step = _THREAD_STEP if stop is None else min(_THREAD_STEP, stop - position)
        content = read_bytes(fd, position, position + step)
        if not content:
            break
        update(content)
        position += len(content)
    return position - start


def hash_from_disk(fd: int, update: Callable[[memoryview], object]) -> int:
    """Feed an open file to `update` as the disk has it, not the page cache, and return its bytes. For threads only.

    Raises StoreUnreadable. A file system without direct reads (tmpfs, some network ones) has its cache dropped first,
    as far as it lets us.
    """
    path = path_of(fd)
    direct = -1
    with suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    with suppress(OSError):
        direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    position = 0
    # Direct reads want memory that begins at a page.
    with mmap.mmap(-1, _THREAD_STEP) as buffer, memoryview(buffer) as view:
        try:
            while True:
                try:
                    got = os.preadv(fd if direct < 0 else direct, [buffer], position)
                except OSError as error:
                    if direct >= 0 and error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                        os.close(direct)
                        direct = -1
                        continue
                    raise unreadable(path, error, position) from error
                if not got:
                    return position
                update(view[:got])
                position += got
        finally:
            if direct >= 0:
                os.close(direct)


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
