"""What commands do with files outside the store, and how a process does it by its own rights."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol


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


class ByDescriptor:
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
        """Return the bytes that may still be written to the file system of `path`."""
        place = self.open(path, os.O_PATH)
        try:
            found = os.fstatvfs(place)
        finally:
            os.close(place)
        return found.f_bavail * found.f_frsize


class Direct(ByDescriptor):
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
