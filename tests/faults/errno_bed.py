"""A service whose disk answers with an errno of the test's choice, by a preloaded library (errno_shim.c).

The fault is set and lifted by a file that the service maps: one service serves for hundreds of faults.
"""

from __future__ import annotations

import enum
import errno
import mmap
import os
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mirror.cli.asking import ask
from mirror.config import load
from tests.tools.mirror import Mirror

_SOURCE = Path(__file__).with_name("errno_shim.c")
_HEAD = struct.Struct("=iIi")  # errno, calls, hits: struct control in errno_shim.c
_SIZE = 2048

# What holds somebody's content or says something of it; run/ and index/ change by themselves.
KEPT = (
    "format", "blobs", "repositories", "sets", "pins", "tokens", "hosted", "brought", "quarantine", "signatures",
    "graph", "uploads",
)  # fmt: skip


class Call(enum.IntFlag):
    """The calls that may fail, as errno_shim.c numbers them."""

    OPEN = 1
    STAT = 2
    FSTAT = 4
    READ = 8
    SENDFILE = 16
    LIST = 32
    WRITE = 64
    SYNC = 128
    FLIP = 256  # no error, but a wrong bit of what the page cache holds


def build(folder: Path, compiler: str) -> Path:
    """Compile the library and return its path."""
    library = folder / "errno_shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


class Disk:
    """What steers the library in one service."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._file = folder / "control"
        self._file.write_bytes(bytes(_SIZE))
        fd = os.open(self._file, os.O_RDWR)
        self._map = mmap.mmap(fd, _SIZE)
        os.close(fd)
        self.environment = {"LD_PRELOAD": str(library), "ERRNO_SHIM": str(self._file)}

    @property
    def hits(self) -> int:
        """How many calls have failed since the last fault was set."""
        return int(_HEAD.unpack_from(self._map)[2])

    def fail(self, calls: Call, number: int, path: str) -> None:
        """From now on `calls` on paths that hold `path` fail with errno `number`."""
        self.heal()
        self._map[_HEAD.size : _HEAD.size + len(path) + 1] = path.encode() + b"\0"
        self._map[: _HEAD.size] = _HEAD.pack(number, calls, 0)

    def heal(self) -> None:
        """Let everything work again; `hits` stays."""
        self._map[:4] = bytes(4)

    @contextmanager
    def failing(self, calls: Call, number: int, path: str) -> Iterator[None]:
        """Let calls fail during the block."""
        self.fail(calls, number, path)
        try:
            yield
        finally:
            self.heal()


class Faulty(Mirror):
    """`mirror serve`, one worker, over a `disk` that can be made to fail."""

    def __init__(self, folder: Path, library: Path, document: Mapping[str, Any]) -> None:
        super().__init__(folder, {"workers": 1, **document})
        self.disk = Disk(folder, library)
        self._environment = self.disk.environment

    def status(self) -> dict[str, Any]:
        """What `mirror status --json` says."""
        return ask(load(self.configuration), "GET", "/status")[0]

    def troubles(self, code: str = "") -> list[dict[str, str]]:
        """The problems of the status, all or those of `code`."""
        return [one for one in self.status()["problems"] if code in ("", one["code"])]

    def kept(self) -> dict[str, tuple[int, ...]]:
        """Of every file that is not to move: size, inode, mode and time of change; of a folder that it is there."""
        return fingerprint(self.store)


def degraded(status: Mapping[str, Any]) -> str:
    """The reason for which a service is degraded, empty where it is not."""
    found = next(one for one in status["conditions"] if one["type"] == "Degraded")
    return str(found["reason"]) if found["status"] else ""


def fingerprint(store: Path) -> dict[str, tuple[int, ...]]:
    """Of every file that is not to move: size, inode, mode and time of change; of a folder that it is there."""
    found: dict[str, tuple[int, ...]] = {}
    for name in KEPT:
        _look(str(store / name), found)
    found.pop(str(store / "brought"), None)  # made by whoever takes over what earlier releases noted
    return found


def _look(path: str, found: dict[str, tuple[int, ...]]) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if path.endswith((".used", "~", "/brought/complete")):
        return
    if not os.path.isdir(path):
        found[path] = (status.st_size, status.st_ino, status.st_mode, status.st_mtime_ns)
        return
    found[path] = ()
    for entry in os.scandir(path):
        _look(entry.path, found)


def numbers(*names: str) -> list[int]:
    """Return errnos by their names."""
    return [getattr(errno, name) for name in names]
