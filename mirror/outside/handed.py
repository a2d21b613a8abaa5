"""Files that a parent opens for its child: requests and answers over a SOCK_SEQPACKET socket, one message each.

A request is JSON `[what, [path…], [number…]]`, an answer `[errno or 0, filename, filename2]`, with a descriptor where
one was asked for. The parent is root, and the child reads archives of strangers: what is asked is held to what commands
need.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mirror.outside.files import ByDescriptor, Direct

_MESSAGE_LIMIT = 64 * 1024  # bytes of a request or an answer: at most two paths of PATH_MAX
_PATH_LIMIT = 4096
_DESCRIPTOR = struct.Struct("i")
# What may be asked of the parent. No mode beyond the nine bits: the child may not make a file that runs as root.
_FLAGS = (
    os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_DIRECTORY
    | os.O_PATH | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOATIME
)  # fmt: skip


class Handed(ByDescriptor):
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
                self._parent.sendall(encode([what, texts, list(numbers)]))
                # By hand: the library's recv_fds leaves the flag out, and descriptors would leak into programs run.
                raw, data, _, _ = self._parent.recvmsg(
                    _MESSAGE_LIMIT, socket.CMSG_LEN(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionError as error:
                raise OSError(errno.EPIPE, "the parent is gone", texts[0]) from error
        number, name, other = decode(raw) if raw else (errno.EPIPE, texts[0], None)
        if number:
            raise OSError(number, os.strerror(number), name, None, other)
        if not data:
            return None
        descriptor: int = _DESCRIPTOR.unpack(data[0][2])[0]
        return descriptor


def received(link: socket.socket) -> list[Any] | None:
    """Return the next request, None where the child has hung up."""
    try:
        request = decode(link.recv(_MESSAGE_LIMIT))
    except (ConnectionError, ValueError, TypeError, RecursionError):
        return None
    return request if len(request) == 3 else None


def answer(link: socket.socket, request: list[Any]) -> None:
    """Do what is asked and send what came of it: nothing, an error, or a descriptor."""
    handed: list[int] = []
    try:
        fd = _do(*request)
        if fd is not None:
            handed.append(fd)
        said: list[Any] = [0, None, None]
    except OSError as error:
        said = [error.errno or errno.EIO, error.filename, error.filename2]
    except (TypeError, ValueError, LookupError, OverflowError):
        said = [errno.EINVAL, None, None]
    try:
        socket.send_fds(link, [encode(said)], handed)
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


def encode(message: list[Any]) -> bytes:
    """Return a message as JSON; names that are not UTF-8 keep their bytes."""
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogateescape")


def decode(raw: bytes) -> list[Any]:
    """Return the message that `raw` spells; raise ValueError, TypeError, RecursionError."""
    message = json.loads(raw.decode("utf-8", "surrogateescape"))
    if not isinstance(message, list):
        raise TypeError("a message is a list")
    return message
