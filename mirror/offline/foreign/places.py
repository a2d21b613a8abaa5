"""Where the bytes of a foreign archive lie: in a tar, in a file of a folder, or in memory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mirror.offline.tar import ArchiveInvalid, Member, Tar
from mirror.outside import Outside

Read = Callable[[int], bytes]

_STEP = 1024 * 1024
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class Place(Protocol):
    """Some bytes that can be read, from their first to their last, any number of times and in any thread."""

    @property
    def size(self) -> int:
        """How many bytes there are."""
        ...

    @property
    def order(self) -> tuple[str, int]:
        """What sorts places as they lie on their medium."""
        ...

    def open(self) -> AbstractContextManager[Read]:
        """Give a function that returns the next bytes, at most as many as asked; none at their end."""
        ...

    def read(self, limit: int) -> bytes:
        """Return all of it; raise ArchiveInvalid where that is more than `limit` bytes, or cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class InTar:
    """A member of an archive, which stays open as long as its places are used."""

    tar: Tar
    member: Member

    @property
    def size(self) -> int:
        return self.member.size

    @property
    def order(self) -> tuple[str, int]:
        return (self.tar.label, self.member.offset)

    @contextmanager
    def open(self) -> Iterator[Read]:
        yield self.tar.reader(self.member)

    def read(self, limit: int) -> bytes:
        return self.tar.read(self.member, limit)


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A file of a folder: opened when it is read, and never through a link, which could lead anywhere."""

    outside: Outside
    path: Path
    size: int

    @classmethod
    def find(cls, outside: Outside, path: Path) -> OnDisk | None:
        """Return the file at `path`, None where there is none; raise ArchiveInvalid where there is something else."""
        try:
            fd = _open(outside, path)
        except FileNotFoundError:
            return None
        try:
            return cls(outside, path, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    @property
    def order(self) -> tuple[str, int]:
        return (str(self.path), 0)

    @contextmanager
    def open(self) -> Iterator[Read]:
        try:
            fd = _open(self.outside, self.path)
        except FileNotFoundError:
            raise ArchiveInvalid(f"{self.path} disappeared while the archive was being read") from None
        try:
            yield lambda count: self._next(fd, count)
        finally:
            os.close(fd)

    def read(self, limit: int) -> bytes:
        if self.size > limit:
            raise ArchiveInvalid(f"{self.path} has {self.size} bytes, more than {limit}")
        found = bytearray()
        with self.open() as read:
            while content := read(limit + 1 - len(found)):
                found += content
        if len(found) != self.size:
            raise ArchiveInvalid(f"{self.path} changed while it was being read")
        return bytes(found)

    def _next(self, fd: int, count: int) -> bytes:
        try:
            return os.read(fd, min(count, _STEP))
        except OSError as error:
            raise ArchiveInvalid(f"{self.path} cannot be read ({error.strerror})", "look at the medium") from error


@dataclass(frozen=True, slots=True)
class InMemory:
    """A manifest that no archive holds and that was made from one."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def order(self) -> tuple[str, int]:
        return ("", 0)

    @contextmanager
    def open(self) -> Iterator[Read]:
        position = 0

        def read(count: int) -> bytes:
            nonlocal position
            found = self.content[position : position + count]
            position += len(found)
            return found

        yield read

    def read(self, limit: int) -> bytes:
        if self.size > limit:
            raise ArchiveInvalid(f"a manifest has {self.size} bytes, more than {limit}")
        return self.content


def _open(outside: Outside, path: Path) -> int:
    """Return a descriptor of a regular file; raise FileNotFoundError, ArchiveInvalid."""
    try:
        fd = outside.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _ABSENT:
            raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
        if error.errno == errno.ELOOP:
            raise ArchiveInvalid(f"{path} is a link", "copy the files themselves") from error
        raise ArchiveInvalid(f"{path} cannot be opened ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ArchiveInvalid(f"{path} is not a regular file")
    return fd
