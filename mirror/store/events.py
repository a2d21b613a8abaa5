"""Events that wait for webhooks: a queue on disk for each, filled by every process and emptied by one.

    events/<queue>/<sequence>-<line>.json   one event; `sequence` orders the queue, a `line` is one repository's
    events/<queue>/last                     the sequence given out last, written in place under a lock

An event is on disk, content and name, before `append` returns. All of this blocks and is for threads.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Container, Sequence
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple

from mirror.errors import StoreError
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.lock import held

LARGEST = 16 * 1024  # bytes of one event
MOST = 10_000  # events that wait for one webhook, and their bytes: the oldest of what is over it are dropped
MOST_BYTES = 32 << 20
STALE = 7 * 86400.0  # seconds without a change, after which a queue goes that no configuration names

_OVER = 2  # times MOST: where `append` itself draws the line, for when nobody empties the queue
_LOOK_EVERY = 256  # events between two looks at that
_TEMPORARY_AGE = 3600.0  # seconds
_PATIENCE = 10.0  # seconds for a lock that is held for a few renames
_COUNTER = "last"
_LAST = 10**12 - 1
_NAME = re.compile(r"([0-9]{12})-([0-9a-f]{16})\.json")
_QUEUE = re.compile(r"[0-9a-f]{16}")


class Entry(NamedTuple):
    """A waiting event: its file's name, by which entries sort, the line that it stands in, its size in bytes."""

    name: str
    line: str
    size: int


class Events:
    """The files under `events/`. A queue is named by 16 hexadecimal digits. Any thread may call."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._root = str(layout.events)
        self._counted: set[str] = set()

    # -- filling ---------------------------------------------------------------------------------------------

    def append(self, queue: str, repository: str, events: Sequence[bytes]) -> int:
        """Put events at the end of a queue, durably; return how many of the oldest had to go for want of room.

        What is appended for one repository by calls one after the other, from any process, stays in that order. Raises
        StoreError, OSError: then none of the events waits.
        """
        folder = f"{self._root}/{queue}"
        line = hashlib.sha256(repository.encode()).hexdigest()[:16]
        written: list[str] = []
        named: list[str] = []
        try:
            for event in events:
                written.append(_write(folder, event))  # noqa: PERF401 - what is written is known when one fails
            with self._locked(queue):
                first = self._reserve(queue, folder, len(events))
                for sequence, path in enumerate(written, first):
                    named.append(f"{folder}/{sequence:012d}-{line}.json")
                    os.rename(path, named[-1])
            files.sync_folder(folder)
        except BaseException:
            for path in (*written, *named):
                with suppress(OSError):
                    files.remove(path)
            raise
        crossed = (first + len(events)) // _LOOK_EVERY != first // _LOOK_EVERY
        return _hold(folder) if crossed else 0

    def _reserve(self, queue: str, folder: str, count: int) -> int:
        """Return the first of `count` sequences that nobody else gets. Under the lock of the queue."""
        fd = os.open(f"{folder}/{_COUNTER}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            content = os.pread(fd, 16, 0).strip()
            last = int(content) if content.isdigit() else _LAST
            # The counter is not synced: after a crash of the host it may be behind the names. Then every process is a
            # new one, and looks.
            if queue not in self._counted or last + count > _LAST:
                behind = 0 if last + count > _LAST else last
                last = max((behind, *(int(entry.name[:12]) for entry in _entries(folder))))
                self._counted.add(queue)
            # Before any name: a sequence that is given out and not used is only a gap.
            os.pwrite(fd, b"%012d\n" % (last + count), 0)
        finally:
            os.close(fd)
        return last + 1

    def _locked(self, queue: str) -> AbstractContextManager[None]:
        error = StoreError("another process holds the queue of events", "see whether the disk answers")
        return held(self._layout.lock(f"events {queue}"), _PATIENCE, error)

    # -- emptying --------------------------------------------------------------------------------------------

    def scan(self, queue: str, known: Container[str]) -> tuple[set[str], list[Entry]]:
        """Return the names of all that waits, and in order what of it is not `known`. Raises OSError."""
        folder = f"{self._root}/{queue}"
        found = _entries(folder)
        fresh: list[Entry] = []
        for entry in sorted(entry for entry in found if entry.name not in known):
            with suppress(FileNotFoundError):
                fresh.append(entry._replace(size=os.lstat(f"{folder}/{entry.name}").st_size))
        return {entry.name for entry in found}, fresh

    def read(self, queue: str, names: Sequence[str]) -> list[bytes | None]:
        """Return the events of these names: None for one that is gone, b"" for what is too large. Raises OSError."""
        found: list[bytes | None] = []
        for name in names:
            try:
                found.append(files.read_small(f"{self._root}/{queue}/{name}", LARGEST))
            except OSError as error:
                if error.errno != errno.EFBIG:
                    raise
                found.append(b"")
        return found

    def remove(self, queue: str, names: Sequence[str]) -> None:
        """Take events out of the queue, those too that are gone already. Raises OSError."""
        for name in names:
            files.remove(f"{self._root}/{queue}/{name}")

    def tidy(self, keep: Container[str]) -> dict[str, int]:
        """Remove what writers left that were cut off, and stale queues that are not to `keep`. Raises OSError.

        Return of each queue that went how many events waited in it.
        """
        gone: dict[str, int] = {}
        for queue in files.names(self._root):
            folder = f"{self._root}/{queue}"
            if _QUEUE.fullmatch(queue) is None:
                continue
            if queue in keep:
                _remove_temporary(folder)
            elif _age(folder) > STALE:
                gone[queue] = len(_entries(folder))
                shutil.rmtree(folder, ignore_errors=True)
        return gone


def _write(folder: str, content: bytes) -> str:
    """Put `content` on disk under a name that no event has, and return its path."""
    path = f"{folder}/{os.getpid()}-{os.urandom(6).hex()}~"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        files.make_folders(folder)
        fd = os.open(path, flags, 0o600)
    try:
        files.write_all(fd, content)
        os.fsync(fd)
    except BaseException:
        files.remove(path)
        raise
    finally:
        os.close(fd)
    return path


def _hold(folder: str) -> int:
    """Drop the oldest events of a queue that is far too long, and return how many."""
    entries = sorted(_entries(folder))
    if len(entries) <= _OVER * MOST:
        return 0
    return sum(files.remove(f"{folder}/{entry.name}") for entry in entries[: len(entries) - MOST])


def _entries(folder: str) -> list[Entry]:
    """Return the events of a queue in the folder's order, without their sizes."""
    return [Entry(name, match[2], 0) for name in files.names(folder) if (match := _NAME.fullmatch(name)) is not None]


def _remove_temporary(folder: str) -> None:
    for name in files.names(folder):
        path = f"{folder}/{name}"
        if name.endswith("~") and _age(path) > _TEMPORARY_AGE:
            files.remove(path)


def _age(path: str) -> float:
    """Return the seconds since a file or folder changed; 0 where it is not there."""
    found = files.look(path)
    return 0.0 if found is None else time.time() - found.st_mtime
