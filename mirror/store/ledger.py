"""What was pushed lately, by whichever process of this store: so that each adds it to what it counted before."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

from mirror.store import files
from mirror.store.layout import Layout

_LONGEST = 1024 * 1024  # bytes, after which it is begun anew: whoever counts then starts from nothing too


class Place(NamedTuple):
    """How far somebody has read: the file, by its inode, and where in it. A file that is not there is (0, 0)."""

    inode: int
    offset: int


class Ledger:
    """Lines of a size and a repository, only ever appended. It is derived: lost, it costs a count of what is here."""

    def __init__(self, layout: Layout) -> None:
        self._path = str(layout.ledger)

    def add(self, name: str, size: int) -> None:
        """Write down that a repository has `size` bytes more, or less; blocks for a moment.

        What cannot be written down is found when somebody counts anew.
        """
        with suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, f"{size} {name}\n".encode("ascii"))
                if os.fstat(fd).st_size > _LONGEST:
                    # Kept beside, so that the next one has another inode.
                    os.replace(self._path, f"{self._path}~")
            finally:
                os.close(fd)

    def end(self) -> Place:
        """Return where the next line will be: one system call. Raises OSError."""
        found = files.look(self._path)
        return Place(0, 0) if found is None else Place(found.st_ino, found.st_size)

    def since(self, place: Place) -> tuple[list[tuple[str, int]], Place] | None:
        """Return the (repository, bytes) behind a place, and the place behind them; None where it is gone.

        Raises OSError.
        """
        fd = files.open_content(self._path)
        if fd is None:
            return ([], place) if place == Place(0, 0) else None
        try:
            inode = os.fstat(fd).st_ino
            if place.inode not in (0, inode):
                return None
            content = os.pread(fd, 2 * _LONGEST, place.offset)
        finally:
            os.close(fd)
        whole = content[: content.rfind(b"\n") + 1]
        lines = (line.partition(" ") for line in whole.decode("ascii").splitlines())
        return [(name, int(size)) for size, _, name in lines], Place(inode, place.offset + len(whole))
