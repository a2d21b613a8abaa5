"""A file in ingest/ that content from files grows in, and the note beside it (see intake)."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mirror.errors import StoreError, StoreFull
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.faults import NO_ROOM, noted
from mirror.store.layout import Layout

_NOTE_LIMIT = 1024 * 1024


class Waiting(NamedTuple):
    """A content of `size` bytes of which `spans` (start, stop) are here: sorted, neither empty nor touching."""

    size: int
    spans: tuple[tuple[int, int], ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return self.spans == ((0, self.size),)

    def covers(self, start: int, stop: int) -> bool:
        """Tell whether bytes start..stop are all here."""
        return any(first <= start and stop <= last for first, last in self.spans)

    def with_span(self, start: int, stop: int) -> Waiting:
        """Return this with bytes start..stop here too."""
        found: list[tuple[int, int]] = []
        for first, last in sorted((*self.spans, (start, stop))):
            if found and first <= found[-1][1]:
                found[-1] = (found[-1][0], max(last, found[-1][1]))
            else:
                found.append((first, last))
        return Waiting(self.size, tuple(found))


class Growing:
    """A file that content grows in, and its note. Closing it gives the lock back."""

    def __init__(self, layout: Layout, digest: Digest, path: Path, fd: int) -> None:
        self.digest = digest
        self.fd = fd
        self._layout = layout
        self._path = str(path)
        self._note_path = f"{path}.json"

    @classmethod
    def open(cls, layout: Layout, digest: Digest, kind: str, *, create: bool) -> Growing | None:
        """Open the file; without `create`, None where there is none. Raises OSError."""
        path = layout.ingest / f"{digest.algorithm}-{digest.hex}{kind}"
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        while True:
            try:
                return cls(layout, digest, path, os.open(path, flags, 0o600))
            except FileNotFoundError:
                if create:
                    raise
                return None
            except PermissionError:
                if not files.unseal(str(path)):
                    raise

    def lock(self) -> bool:
        """Take the file if nobody has it and its path still leads here; say whether it was taken."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        there, here = files.look(self._path), files.status(self.fd)
        return there is not None and (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)

    @property
    def stamp(self) -> tuple[int, int]:
        """What changes while somebody writes."""
        found = files.status(self.fd)
        return found.st_mtime_ns, found.st_blocks

    def note(self) -> Waiting | None:
        """Return what is noted, None where there is no note of this file."""
        return read_note(self._note_path, files.status(self.fd))

    def write_note(self, note: Waiting, *, durable: bool) -> None:
        """Note what surely is on disk; the room that it promises counts from now on."""
        content = json.dumps({"size": note.size, "spans": note.spans}).encode()
        with writing(self.digest), noted("write", self._path):
            files.write_atomically(self._note_path, content, durable=durable)

    def forget_note(self) -> None:
        """Count nothing of what is here."""
        files.remove(self._note_path)

    def write(self, content: bytes, position: int) -> None:
        """Write all of `content` at `position`."""
        view = memoryview(content)
        with writing(self.digest), noted("write", self._path):
            while view:
                done = os.pwrite(self.fd, view, position)
                view, position = view[done:], position + done

    def truncate(self, size: int) -> None:
        """Cut the file back, or lengthen it, to `size` bytes."""
        with writing(self.digest), noted("write", self._path):
            os.ftruncate(self.fd, size)

    def sync(self) -> None:
        """Wait until what was written is on disk."""
        with writing(self.digest), noted("write", self._path):
            os.fdatasync(self.fd)

    def commit(self) -> None:
        """Bring verified content under its digest: fsync, seal, rename, fsync of the folder."""
        target = self._layout.blob(self.digest)
        with writing(self.digest), noted("write", self._path):
            os.fsync(self.fd)
            os.fchmod(self.fd, files.SEALED_MODE)
            os.utime(self.fd, (time.time(), files.seal_time(os.fstat(self.fd).st_size)))
            files.make_folders(os.path.dirname(target))
            os.rename(self._path, target)
            files.sync_folder(os.path.dirname(target))
        self.forget_note()

    def drop(self) -> None:
        """Remove file and note, holding the lock. The note first: once the path is free a newcomer may write one."""
        if self.lock():
            self.forget_note()
            files.remove(self._path)

    def close(self) -> None:
        """Close the file, once."""
        os.close(self.fd)


def read_note(path: str, file: os.stat_result | None) -> Waiting | None:
    """Return what a note says of its file, None where there is none or it is not whole: then all comes again.

    A note outlives its file where a process died between the rename and the note's removal.
    """
    raw = files.read_record(path, _NOTE_LIMIT)
    try:
        found = json.loads(raw or b"null")
        note = Waiting(int(found["size"]), tuple((int(start), int(stop)) for start, stop in found["spans"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    end = -1
    for start, stop in note.spans:
        if not end < start < stop <= note.size:
            return None
        end = stop
    return note if file is not None and end <= file.st_size else None


@contextmanager
def writing(digest: Digest) -> Iterator[None]:
    """Turn what the store's disk answers into words; what reading the source raises passes by."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StoreFull(
                f"the store's disk ran out of room while {digest} came ({error.strerror})",
                "make room (see df, df -i), then run it again",
            ) from error
        raise StoreError(f"the store's disk failed while {digest} came ({error.strerror})") from error
