"""Downloads under way: part files that one process fills and every process reads while they grow.

A part is locked (flock on the part itself) by whoever downloads; when the holder dies the lock falls free and a
reader takes over where the file ends. Mode 0440 is the mark that the digest agreed: from then on nothing is ever
appended, and whoever gets the lock only finishes the commit. All of this blocks and is for threads, apart from the
properties of an open part.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.errors import Corrupt
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.faults import noted
from mirror.store.layout import Layout

if TYPE_CHECKING:
    from hashlib import _Hash

_NOTE_LIMIT = 16 * 1024


@dataclass(frozen=True, slots=True)
class PartNote:
    """What is known of a download: `size` is the total in bytes (None unknown), `synced` what surely is on disk."""

    size: int | None
    upstream: str
    repository: str
    boot: str
    synced: int = 0
    who: str = ""

    def dump(self) -> bytes:
        """Return the note as it is kept beside its part."""
        return json.dumps({key: getattr(self, key) for key in self.__slots__}).encode()

    @classmethod
    def parse(cls, raw: bytes | None) -> PartNote | None:
        """Return the note that `raw` holds, None where there is none or it is not whole."""
        try:
            found = json.loads(raw or b"null")
            if not isinstance(found, dict) or not isinstance(found.get("size"), int | None):
                return None
            return cls(**{key: found[key] for key in cls.__slots__})
        except (ValueError, KeyError, RecursionError):
            return None


def boot_id() -> str:
    """Return what names this boot of the machine: after another one, unsynced bytes may be gone or zero."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
        return source.read().strip()


class Part:
    """One open part file. Whoever opened it closes it; closing gives the lock back."""

    def __init__(self, layout: Layout, digest: Digest, fd: int) -> None:
        self.digest = digest
        self.fd = fd
        self.locked = False
        self._layout = layout
        self._path = layout.part(digest)
        self._note_path = layout.part_note(digest)

    @classmethod
    def open(cls, layout: Layout, digest: Digest, *, create: bool) -> Part | None:
        """Open the part of `digest`; without `create`, None where there is none. Raises OSError."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        path = layout.part(digest)
        try:
            return cls(layout, digest, os.open(path, flags, 0o600))
        except FileNotFoundError:
            return None
        except PermissionError:
            # A marked part is read-only; its owner may still read it, and whoever locks it only commits.
            return cls(layout, digest, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        fd, self.fd = self.fd, -1
        self.locked = False
        if fd >= 0:
            os.close(fd)

    def try_lock(self) -> bool:
        """Take the download over if nobody has it; say whether it was taken. Asks `moved` only after that."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.locked = True
        return True

    def unlock(self) -> None:
        """Give the download up so that somebody else may go on; the file stays open for reading."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        self.locked = False

    @property
    def moved(self) -> bool:
        """Whether the part's path no longer leads to this file: it was committed, or rejected."""
        there, here = files.look(self._path), files.status(self.fd)
        return there is None or (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev)

    @property
    def dropped(self) -> bool:
        """Whether whoever downloaded has removed it: what it held was not refused, but could not be kept."""
        return files.status(self.fd).st_nlink == 0

    @property
    def status(self) -> tuple[int, bool, float]:
        """The part's size in bytes, whether it is marked as verified, and when it last grew (Unix time)."""
        found = files.status(self.fd)
        return found.st_size, stat.S_IMODE(found.st_mode) == files.SEALED_MODE, found.st_mtime

    @property
    def fresh(self) -> bool:
        """Whether nothing came yet and nothing is known: there is nothing to recover. Two system calls."""
        size, marked, _ = self.status
        return not size and not marked and not files.is_there(self._note_path)

    def note(self) -> PartNote | None:
        """Return what is known of this download."""
        return PartNote.parse(files.read_small(self._note_path, _NOTE_LIMIT))

    def write_note(self, note: PartNote) -> None:
        """Keep what is known of this download; the space that it promises counts from now on."""
        files.write_atomically(self._note_path, note.dump(), durable=False)

    def recover(self, boot: str) -> tuple[int, bool, PartNote | None]:
        """Make a part that was left behind fit to go on with, holding its lock; return its size, its mark and its note.

        One of another boot loses its mark and is cut back to what surely was on disk: the only truncation there is.
        """
        size, marked, _ = self.status
        note = self.note()
        if note is not None and note.boot == boot:
            return size, marked, note
        if note is None and size == 0 and not marked:
            return 0, False, None
        os.fchmod(self.fd, 0o600)
        self._reopen()
        kept = min(size, note.synced) if note is not None else 0
        os.ftruncate(self.fd, kept)
        if note is not None:
            note = PartNote(note.size, note.upstream, note.repository, boot, kept, note.who)
            self.write_note(note)
        return kept, False, note

    def _reopen(self) -> None:
        """Get a descriptor that writes, where the part was opened while it was marked; the lock moves with it."""
        if fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
            return
        fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)
        old, self.fd = self.fd, fd
        os.close(old)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def hash_existing(self, hasher: _Hash, size: int) -> None:
        """Feed the first `size` bytes to `hasher`; raise Corrupt if they cannot all be read."""
        if files.hash_file(self.fd, hasher.update, 0, size) != size:
            raise Corrupt(f"the download of {self.digest} is shorter than it was")

    def append(self, position: int, chunks: Sequence[bytes], hasher: _Hash) -> int:
        """Write `chunks` at `position`, feed them to `hasher` and return the new size."""
        with noted("write", self._path):
            os.lseek(self.fd, position, os.SEEK_SET)
            for chunk in chunks:
                files.write_all(self.fd, chunk)
                hasher.update(chunk)
                position += len(chunk)
        return position

    def sync(self, position: int, note: PartNote) -> None:
        """Bring the first `position` bytes to disk and note it, so that a power cut does not cost them."""
        with noted("write", self._path):
            os.fdatasync(self.fd)
        self.write_note(PartNote(note.size, note.upstream, note.repository, note.boot, position, note.who))

    def mark(self) -> None:
        """Mark the part as verified: the held-back end may be read now, by every process that has it open."""
        os.fchmod(self.fd, files.SEALED_MODE)

    def commit(self) -> None:
        """Bring a marked part under its digest: fsync, seal, rename, fsync of the folder. Raises OSError."""
        target = self._layout.blob(self.digest)
        with noted("write", self._path):
            os.fsync(self.fd)
            # The time of access is left true: it orders eviction where the index is lost.
            os.utime(self.fd, (time.time(), files.seal_time(os.fstat(self.fd).st_size)))
            files.make_folders(os.path.dirname(target))
            os.rename(self._path, target)
        files.sync_folder(os.path.dirname(target))
        files.remove(self._note_path)

    def drop(self) -> None:
        """Remove part and note, holding the lock. Readers that have it open are cut, unless it is marked."""
        # The note first: once the path is free, a newcomer may write a note of its own.
        files.remove(self._note_path)
        files.remove(self._path)

    def give_away(self) -> str:
        """Rename a part that turned out bad so that nobody goes on with it; return its new path."""
        target = f"{self._path}.{os.urandom(4).hex()}.bad"
        files.remove(self._note_path)
        os.rename(self._path, target)
        return target


def store_bytes(layout: Layout, digest: Digest, content: bytes) -> None:
    """Commit a whole small content (a manifest) whose digest has been checked. Raises OSError. For threads only."""
    target = layout.blob(digest)
    temporary = f"{layout.ingest}/{digest.algorithm}-{digest.hex}.{os.urandom(6).hex()}.tmp"
    with noted("write", target):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                files.write_all(fd, content)
                os.fsync(fd)
                os.fchmod(fd, files.SEALED_MODE)
                os.utime(fd, (time.time(), files.seal_time(len(content))))
            finally:
                os.close(fd)
            files.make_folders(os.path.dirname(target))
            os.rename(temporary, target)
        except BaseException:
            with suppress(OSError):
                files.remove(temporary)
            raise
    files.sync_folder(os.path.dirname(target))
