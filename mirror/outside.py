"""Files outside the store: opened by whoever may, used by the process that works in the store.

A command that root runs works in the store as the store's owner, in a child; what it needs outside, the parent opens
and hands over as a descriptor (SCM_RIGHTS, unix(7)). So nothing in the store ever belongs to root, and the owner needs
no rights on disks and home directories.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pwd
import select
import shlex
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from mirror.errors import StoreUnusable

_MESSAGE_LIMIT = 64 * 1024  # bytes of a request or an answer: at most two paths of PATH_MAX
_PATH_LIMIT = 4096
_TICK = 100  # milliseconds between looks for signals and for the child's end …
_LAST_TICK = 2  # … and when it has hung up, so that it is about to end
_FORWARDED = (signal.SIGTERM, signal.SIGINT)
_FROM_KERNEL = 0x80  # SI_KERNEL, sigaction(2): a terminal's Ctrl-C, which the child has got too
_PR_SET_PDEATHSIG = 1  # prctl(2)
_DESCRIPTOR = struct.Struct("i")
_WRITING = os.O_WRONLY | os.O_RDWR
# What may be asked of the parent. No mode beyond the nine bits: the child may not make a file run as root.
_FLAGS = (
    _WRITING | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_PATH
    | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOATIME
)  # fmt: skip
_SUDO_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class Outside(Protocol):
    """What commands do with files outside the store. Every call blocks and raises OSError."""

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        """Return a descriptor of `path`, closed on exec; the caller closes it."""
        ...

    def listdir(self, path: Path) -> list[str]:
        """Return the names in a folder, sorted."""
        ...

    def stat(self, path: Path) -> os.stat_result:
        """Return what `os.stat` says, links followed."""
        ...

    def mkdir(self, path: Path) -> None:
        """Make a folder and those above it that are missing; one that is there is fine."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file, replacing `new`."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file; one that is not there is fine."""
        ...

    def sync(self, path: Path) -> None:
        """Bring a folder's entries to disk."""
        ...

    def free(self, path: Path) -> int:
        """Return the bytes that may still be written to the file system of `path`."""
        ...


class _ByDescriptor:
    """What needs no more than a descriptor, however that is had."""

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        raise NotImplementedError

    def listdir(self, path: Path) -> list[str]:
        """Return the names in a folder, sorted."""
        folder = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return sorted(os.listdir(folder))
        finally:
            os.close(folder)

    def stat(self, path: Path) -> os.stat_result:
        """Return what `os.stat` says, links followed."""
        place = self.open(path, os.O_PATH)
        try:
            return os.fstat(place)
        finally:
            os.close(place)

    def sync(self, path: Path) -> None:
        """Bring a folder's entries to disk. A file system that knows no such thing (CIFS, FUSE) is fine."""
        folder = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(folder)

    def free(self, path: Path) -> int:
        """Return the bytes that may still be written to the file system of `path`, or of where it will be made."""
        try:
            place = self.open(path, os.O_PATH)
        except FileNotFoundError:
            if path.parent == path:
                raise
            return self.free(path.parent)
        try:
            found = os.fstatvfs(place)
        finally:
            os.close(place)
        return found.f_bavail * found.f_frsize


class Direct(_ByDescriptor):
    """The process's own rights are enough."""

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        """Return a descriptor of `path`, closed on exec; the caller closes it."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def mkdir(self, path: Path) -> None:
        """Make a folder and those above it that are missing; one that is there is fine."""
        os.makedirs(path, exist_ok=True)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file, replacing `new`."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """Remove a file; one that is not there is fine."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return


class Handed(_ByDescriptor):
    """Asks the parent over `parent`, a SOCK_SEQPACKET socket. For all threads of one process: one asks at a time."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._lock = threading.Lock()

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        """Return a descriptor of `path`, closed on exec; the caller closes it."""
        found = self._ask("open", [path], flags, mode)
        if found is None:
            # The kernel drops what a process that has no descriptors left is handed.
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return found

    def mkdir(self, path: Path) -> None:
        """Make a folder and those above it that are missing; one that is there is fine."""
        self._ask("mkdir", [path])

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file, replacing `new`."""
        self._ask("rename", [old, new])

    def remove(self, path: Path) -> None:
        """Remove a file; one that is not there is fine."""
        self._ask("remove", [path])

    def _ask(self, what: str, paths: Sequence[Path], *numbers: int) -> int | None:
        """Return the descriptor that the parent hands over, if any; raise the OSError that it met."""
        texts = [str(path) for path in paths]
        for text in texts:
            if "\0" in text:
                raise ValueError("embedded null byte")
            if len(os.fsencode(text)) >= _PATH_LIMIT:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), text)
        with self._lock:
            try:
                self._parent.sendall(_encode([what, texts, list(numbers)]))
                # By hand: the library's recv_fds leaves the flag out, and descriptors would leak into programs run.
                raw, data, _, _ = self._parent.recvmsg(
                    _MESSAGE_LIMIT, socket.CMSG_LEN(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionError as error:
                raise OSError(errno.EPIPE, "the parent is gone", texts[0]) from error
        number, name, other = _decode(raw) if raw else (errno.EPIPE, texts[0], None)
        if number:
            raise OSError(number, os.strerror(number), name, None, other)
        if not data:
            return None
        descriptor: int = _DESCRIPTOR.unpack(data[0][2])[0]
        return descriptor


def run_as_owner(store: Path, work: Callable[[Outside], int]) -> int:
    """Run `work` with the rights of the owner of `store` and return its exit code.

    That is here where we are the owner, or where the store is not there yet and may be made; else, for root, in a
    child that works with what this process hands it. The caller has one thread and no event loop. `work` answers for
    its own errors: in a child, what it lets through is written to stderr and the code is 1. SIGTERM and SIGINT reach
    the child; where a signal ended it, the code is 128 + signal. Raises StoreUnusable, which says the command to run
    instead, for every other user.
    """
    user = os.geteuid()
    owner = _owner(store)
    if owner is None:
        if user == 0 or _may_make(store):
            return work(Direct())
        raise StoreUnusable(
            f"{store} is not there yet, and {_called(user)} may not make it", f"run: {_command('sudo')}"
        )
    if owner.st_uid == user:
        return work(Direct())
    if user != 0:
        raise StoreUnusable(
            f"{store} belongs to {_called(owner.st_uid)}, not to {_called(user)}",
            f"run: {_command('sudo', '-u', _named(owner.st_uid))}",
        )
    return _run_in_child(owner, work)


def _owner(store: Path) -> os.stat_result | None:
    """Return the status of the store, or of the folder that hides it from us; None where there is nothing."""
    for place in (store, *store.absolute().parents):
        try:
            return os.stat(place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            continue
    return None


def _may_make(store: Path) -> bool:
    for place in store.absolute().parents:
        if os.path.lexists(place):
            return os.access(place, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
    return False


def _called(user: int) -> str:
    """Return a user as people know them: by name, else by number."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _named(user: int) -> str:
    """Return a user as sudo takes them."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"


def _command(*before: str) -> str:
    """Return this command line, to be pasted into a shell, behind `before`."""
    program, *arguments = sys.argv or ["mirror"]
    if os.path.basename(program) == "__main__.py":
        return shlex.join([*before, sys.executable, "-m", "mirror", *arguments])
    # sudo looks in a path of its own, where a virtual environment is not.
    if os.path.dirname(program) in _SUDO_PATH:
        program = os.path.basename(program)
    return shlex.join([*before, program, *arguments])


def _run_in_child(owner: os.stat_result, work: Callable[[Outside], int]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    # Blocked around the fork and read one by one here: where a signal came from decides whether it is passed on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    try:
        with ours, theirs:
            child = os.fork()
            if child == 0:
                ours.close()
                _become(owner, parent, theirs, before, work)
            theirs.close()
            return _serve(child, ours)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become(
    owner: os.stat_result,
    parent: int,
    link: socket.socket,
    mask: Iterable[int],
    work: Callable[[Outside], int],
) -> None:
    """Be the child, and never return."""
    code = 1
    try:
        try:
            _drop_to(owner)
            # After the change of user, which clears it.
            _die_with(parent)
        except OSError as error:
            link.sendall(_encode(["failed", [error.strerror or str(error)], []]))
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = work(Handed(link)) or 0
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            sys.stderr.write(f"{leaving.code}\n")
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001 - nothing may unwind into what the parent was doing
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _drop_to(owner: os.stat_result) -> None:
    """Become the owner for good: user, group and further groups. Raises OSError."""
    try:
        known = pwd.getpwuid(owner.st_uid)
    except KeyError:
        group = owner.st_gid
        os.setgroups([])
    else:
        group = known.pw_gid
        os.initgroups(known.pw_name, group)
    os.setresgid(group, group, group)
    os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)


def _die_with(parent: int) -> None:
    """Have the kernel send SIGTERM when `parent` ends. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(1)  # it ended before we asked to be told


def _serve(child: int, link: socket.socket) -> int:
    """Answer the child until it ends; return its exit code. Raises StoreUnusable where it could not begin."""
    failed = ""
    poll = select.poll()
    poll.register(link, select.POLLIN)
    tick = _TICK
    while True:
        if poll.poll(tick):
            request = _received(link)
            if request is None:
                poll.unregister(link)
                tick = _LAST_TICK
            elif request[0] == "failed":
                failed = str(request[1][0])
            else:
                _answer(link, request)
        while (caught := signal.sigtimedwait(_FORWARDED, 0)) is not None:
            if caught.si_code != _FROM_KERNEL:
                os.kill(child, caught.si_signo)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
    if failed:
        raise StoreUnusable(f"the rights of the store's owner cannot be taken ({failed})", "run this as the owner")
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _received(link: socket.socket) -> list[Any] | None:
    """Return the next request, None where the child has hung up."""
    try:
        request = _decode(link.recv(_MESSAGE_LIMIT))
    except (ConnectionError, ValueError, TypeError, RecursionError):
        return None
    return request if len(request) == 3 else None


def _answer(link: socket.socket, request: list[Any]) -> None:
    """Do what is asked and send what came of it: nothing, an error, or a descriptor."""
    handed: list[int] = []
    try:
        fd = _do(*request)
        if fd is not None:
            handed.append(fd)
        answer: list[Any] = [0, None, None]
    except OSError as error:
        answer = [error.errno or errno.EIO, error.filename, error.filename2]
    except (TypeError, ValueError, OverflowError):
        answer = [errno.EINVAL, None, None]
    try:
        socket.send_fds(link, [_encode(answer)], handed)
    except ConnectionError:
        return  # it ended meanwhile; the next look says so
    finally:
        for one in handed:
            os.close(one)


def _do(what: str, paths: list[str], numbers: list[int]) -> int | None:
    """Do one request with our own rights; return the descriptor that it asked for. Raises OSError, ValueError."""
    here = Direct()
    if what == "open":
        flags, mode = numbers
        if flags & ~(_FLAGS | os.O_RDONLY) or mode & ~0o777:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), paths[0])
        # A named pipe must not keep us from seeing the child end.
        fd = here.open(Path(paths[0]), flags | os.O_NONBLOCK, mode)
        if not flags & (os.O_NONBLOCK | os.O_PATH):
            os.set_blocking(fd, True)
        return fd
    if what == "mkdir":
        here.mkdir(Path(paths[0]))
    elif what == "rename":
        here.rename(Path(paths[0]), Path(paths[1]))
    elif what == "remove":
        here.remove(Path(paths[0]))
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return None


def _encode(message: list[Any]) -> bytes:
    """Return a message as JSON; names that are not UTF-8 keep their bytes."""
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _decode(raw: bytes) -> list[Any]:
    message = json.loads(raw.decode("utf-8", "surrogateescape"))
    if not isinstance(message, list):
        raise TypeError("a message is a list")
    return message
