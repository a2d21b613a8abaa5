"""Bad content is moved out of the way with a note why; how much of it is kept is bounded, the oldest goes first."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from mirror import logs
from mirror.store.layout import Layout

FILES = 100  # kept at most, notes not counted
BYTES = 1 << 30  # kept at most, or a hundredth of the file system where that is less
_SHARE = 100


class Quarantine:
    """What was found bad, kept for the person who looks into it. Nothing reads it back. For threads only."""

    def __init__(self, layout: Layout, files: int = FILES, size: int = BYTES) -> None:
        self._folder = layout.quarantine
        self._files = files
        self._bytes = size
        self._log = logs.get("quarantine")

    def take(self, path: Path | str, why: str, **facts: str | int | None) -> bool:
        """Move the file or folder `path` here and write `why` and `facts` beside it; say whether `path` is free now.

        What is too large to keep, or cannot be moved (no space, another file system), is deleted and only the note
        stays. Never raises OSError: the caller is already dealing with a fault.
        """
        path = Path(path)
        try:
            size = _size(path)
        except OSError:
            return not os.path.lexists(path)
        name = f"{time.time_ns():020d}-{path.name}"
        kept = size <= self._limit() and self._move(path, self._folder / name)
        if not kept:
            self._delete(path)
        gone = not os.path.lexists(path)
        note = {"name": path.name, "why": why, "when": int(time.time()), "size": size, "kept": kept, **facts}
        self._note(name, note)
        self._bound()
        self._log.warning("quarantined", name=path.name, why=why, size=size, kept=kept, gone=gone)
        return gone

    def keeps(self, path: Path | str) -> bool:
        """Tell whether `take` would keep the content of `path`, and not only a note."""
        try:
            return _size(Path(path)) <= self._limit()
        except OSError:
            return False

    def held(self) -> tuple[int, int]:
        """Return how many notes are here and how many bytes of bad content."""
        entries = self._entries()
        return len(entries), sum(size for _, size in entries)

    def _limit(self) -> int:
        """Return how many bytes may be kept, less on a small file system."""
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return 0
        return min(self._bytes, found.f_blocks * found.f_frsize // _SHARE)

    def _move(self, path: Path, target: Path) -> bool:
        try:
            os.rename(path, target)
        except OSError as error:
            self._log.warning("quarantine_move_failed", name=path.name, error=error.strerror)
            return False
        return True

    def _note(self, name: str, note: dict[str, Any]) -> None:
        try:
            (self._folder / f"{name}.json").write_text(json.dumps(note, sort_keys=True) + "\n", encoding="utf-8")
        except OSError as error:
            self._log.warning("quarantine_note_failed", name=note["name"], error=error.strerror)

    def _entries(self) -> list[tuple[str, int]]:
        """Return (name without .json, bytes) of everything here, oldest first: names start with the time."""
        try:
            names = {name.removesuffix(".json") for name in os.listdir(self._folder)}
        except OSError:
            return []
        entries = []
        for name in sorted(names):
            try:
                entries.append((name, _size(self._folder / name)))
            except OSError:
                entries.append((name, 0))  # a note alone, or taken out by another process just now
        return entries

    def _bound(self) -> None:
        """Delete the oldest until count and bytes are within their bounds."""
        entries = self._entries()
        size = sum(size for _, size in entries)
        limit = self._limit()
        while entries and (len(entries) > self._files or size > limit):
            name, freed = entries.pop(0)
            self._delete(self._folder / name)
            self._delete(self._folder / f"{name}.json")
            size -= freed

    def _delete(self, path: Path) -> None:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            self._log.warning("quarantine_delete_failed", name=path.name, error=error.strerror)


def _size(path: Path) -> int:
    """Return the bytes of a file, or of the files right inside a folder. Raises OSError if `path` is not there."""
    found = os.lstat(path)
    if not path.is_dir() or path.is_symlink():
        return found.st_size
    with os.scandir(path) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
