"""Files outside the store: opened by whoever may, used by the process that works in the store."""

from __future__ import annotations

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
