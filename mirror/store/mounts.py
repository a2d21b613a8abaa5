"""Which file system a path is on, as /proc/self/mountinfo tells (proc(5))."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """Where a file system is mounted, its type such as "xfs" or "nfs4", and what is mounted, such as "/dev/sda1"."""

    point: str
    type: str
    source: str

    def __str__(self) -> str:
        return f"{self.point} ({self.type}, {self.source})"


def file_system_type(path: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of the file system that `path` is on, such as "xfs" or "nfs4"; empty where it cannot be told."""
    found = find_mount(path, mounts)
    return found.type if found is not None else ""


def find_mount(path: Path, mounts: Path = _MOUNTS) -> Mount | None:
    """Return the mount that `path` is on; None where it cannot be told."""
    where = os.path.realpath(path)
    found: Mount | None = None
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        about = rest.split(" ")
        if len(words) < 5 or len(about) < 2:
            continue
        point = _unescaped(words[4])
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        # Of two mounts on one point the later one is seen.
        if inside and (found is None or len(point) >= len(found.point)):
            found = Mount(point, about[0], _unescaped(about[1]))
    return found


def _unescaped(word: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), word)
