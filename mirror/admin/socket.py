"""The unix socket by which commands reach a running service: where it is, who holds it, what is left of others."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mirror import logs
from mirror.config import Config
from mirror.errors import ConfigurationError, Problem
from mirror.store.faults import NO_ROOM
from mirror.store.lock import FileLock

_log = logs.get("admin.socket")

_BACKLOG = 64
_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own there, whose owner is looked at
_LONGEST = 107  # bytes of a path in an address (unix(7))
_OURS_ONLY = 0o117  # umask: the owner and its group may connect


class AdminSocket:
    """The listening socket of one service. Must be closed by the process that opened it, after all workers.

    The first service on a store holds a lock beside its socket and replaces one that is left there, whoever left it.
    Any further one listens beside it, under a name with its process number.
    """

    def __init__(self, listener: socket.socket, path: Path, lock: FileLock | None) -> None:
        self.listener = listener
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, config: Config) -> AdminSocket | None:
        """Listen where the configuration says; in memory where the store's file system is read-only or full; None, and
        a line in the log, where it has no sockets. Raises ConfigurationError for a stated path that cannot be
        listened at.
        """
        try:
            return cls._open(config.admin_socket)
        except OSError as error:
            if error.errno in (errno.EROFS, *NO_ROOM) and config.admin.socket is None:
                with suppress(OSError):
                    return cls._open(_in_memory(config))
            what = f"cannot listen on {config.admin_socket}: {error.strerror or error}"
            if config.admin.socket is not None:
                where = config.source.where("admin", "socket")
                raise ConfigurationError([Problem("admin-socket", what, where, "name another path")]) from error
            _log.warning("admin_socket_unusable", what=what, remedy="state another admin.socket for `mirror status`")
            return None

    @classmethod
    def _open(cls, path: Path) -> AdminSocket:
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        first = lock.try_acquire()
        own = path if first else _beside(path, os.getpid())
        try:
            if first:
                _remove_stale(path)
            _remove(own)
            listener = _listen(own)
        except BaseException:
            lock.release()
            raise
        if not first:
            _log.info("further_service", path=str(own), first=str(path))
        return cls(listener, own, lock if first else None)

    @property
    def private(self) -> tuple[int, ...]:
        """Descriptors that no worker may keep: the lock must end with the process that took it."""
        return (self._lock.fileno(),) if self._lock is not None else ()

    def close(self) -> None:
        """Stop listening, remove the socket, give the lock back. Safe to call twice."""
        if self.listener.fileno() >= 0 or self._lock is not None:
            with suppress(OSError):
                _remove(self.path)
        self.listener.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def second(config: Config) -> Path | None:
    """Return where the service listens whose store is read-only or full; None where nobody of ours made that folder."""
    path = _memory_path(config)
    try:
        folder, store = os.lstat(path.parent), os.stat(config.storage.path)
    except OSError:
        return None
    return path if stat.S_ISDIR(folder.st_mode) and folder.st_uid in (0, store.st_uid) else None


def _memory_path(config: Config) -> Path:
    name = hashlib.sha256(os.fsencode(config.admin_socket)).hexdigest()[:16]
    return _MEMORY / f"mirror-{name}" / "serve.sock"


def _in_memory(config: Config) -> Path:
    """Make the folder of the socket of a store that takes none, and return its path. Raises OSError."""
    path = _memory_path(config)
    with suppress(FileExistsError):
        path.parent.mkdir(0o700)
    if os.lstat(path.parent).st_uid != os.geteuid():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))
    return path


def others(path: Path) -> list[Path]:
    """Return the sockets of further services beside that of the first one, at `path`."""
    pattern = re.compile(rf"{re.escape(path.stem)}-[0-9]+{re.escape(path.suffix)}")
    try:
        return sorted(entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name))
    except OSError:
        return []


def connect(path: Path, timeout: float) -> socket.socket:
    """Return a connection to the socket at `path`. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        with _address(path) as address:
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def listening_process(sock: socket.socket) -> int:
    """Return the process that began to listen at the other end of a connection, 0 where it cannot be told (unix(7))."""
    size = struct.calcsize("3i")
    return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0])


def _beside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(_OURS_ONLY)
    try:
        with _address(path) as address:
            sock.bind(address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _remove_stale(path: Path) -> None:
    """Remove the sockets of further services that are not there any more."""
    for one in others(path):
        try:
            connect(one, 1.0).close()
        except ConnectionRefusedError:
            _remove(one)
        except OSError:
            continue


def _remove(path: Path) -> None:
    """Remove a socket that is left at `path`; raise FileExistsError where something else is there."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(17, "there is a file of that name, which is not a socket")
        path.unlink()
    except FileNotFoundError:
        return


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """Give an address for `path`, however long it is: by a descriptor of its folder where it does not fit."""
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
