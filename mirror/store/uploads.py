"""Uploads under way: what clients push grows here, one request after the other, until its digest is told.

    uploads/<uuid>.part     the bytes; whoever changes them holds a flock on it
    uploads/<uuid>.json     whose it is, the room that it promises, and what of it surely is on disk

An upload's size is its offset: where the next bytes belong. It outlives the process; after another boot it is cut
back to what surely was on disk. All of this blocks and is for threads, apart from the properties of an open upload.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mirror import logs
from mirror.errors import NotYet, StoreError, StoreFull, UploadUnknown
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.promises import allocated, owed

if TYPE_CHECKING:
    from hashlib import _Hash

AGE = 7 * 86400.0  # seconds without a change, after which nobody comes back to an upload

_NOTE_LIMIT = 16 * 1024
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_IDENTITY = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_IDLE = 0  # the size that promises nothing

_log = logs.get("store.uploads")


@dataclass(frozen=True, slots=True)
class UploadNote:
    """What is known of an upload of repository `name`.

    `size` is what the request under way will bring it to, in bytes: None unknown, 0 where none is. `synced` bytes
    surely are on disk; after another `boot` only those count. `algorithm` is that of the digest to come, as far as
    one can tell.
    """

    name: str
    algorithm: str
    who: str
    started: float
    size: int | None
    boot: str
    synced: int = 0

    def dump(self) -> bytes:
        """Return the note as it is kept beside the upload."""
        return json.dumps({key: getattr(self, key) for key in self.__slots__}).encode()

    @classmethod
    def parse(cls, raw: bytes | None) -> UploadNote | None:
        """Return the note that `raw` holds, None where there is none or it is not whole."""
        try:
            found: Any = json.loads(raw or b"null")
            kinds = {"name": str, "algorithm": str, "who": str, "size": int | None, "boot": str, "synced": int}
            sound = all(isinstance(found[key], kind) for key, kind in kinds.items())
            return cls(**{key: found[key] for key in cls.__slots__}) if sound else None
        except (ValueError, LookupError, TypeError, RecursionError):
            return None


class Upload:
    """One upload that nobody else can change while this is open. Closing it lets others go on."""

    def __init__(self, layout: Layout, identity: str, note: UploadNote, fd: int) -> None:
        self.identity = identity
        self.note = note
        self._layout = layout
        self._fd = fd
        self._path = layout.upload(identity)

    @property
    def size(self) -> int:
        """How many bytes there are: the offset of the next one."""
        return files.status(self._fd).st_size

    def promise(self, size: int | None) -> None:
        """Note how large the request under way will make it (None: unknown): that much room counts as taken."""
        if size != self.note.size:
            self._write_note(replace(self.note, size=size))

    def append(self, position: int, content: bytes | bytearray, hasher: _Hash) -> int:
        """Write `content` at `position`, feed it to `hasher` and return the new size. Raises StoreFull, StoreError."""
        view = memoryview(content)
        with writing(self.note.name):
            while view:
                written = os.pwrite(self._fd, view, position)
                view, position = view[written:], position + written
        hasher.update(content)
        return position

    def hash(self, hasher: _Hash, start: int, stop: int) -> None:
        """Feed bytes start..stop to `hasher`. Raises StoreError."""
        with writing(self.note.name):
            if files.hash_file(self._fd, hasher.update, start, stop) != stop - start:
                raise StoreError(f"an upload to {self.note.name} is shorter than it was")

    def sync(self) -> None:
        """Bring what is written to disk. Raises StoreFull, StoreError."""
        with writing(self.note.name):
            os.fdatasync(self._fd)

    def rest(self) -> None:
        """Bring all to disk, note it, and promise no more room: the request is at its end."""
        self.sync()
        self._write_note(replace(self.note, size=_IDLE, synced=self.size))

    def cut(self, size: int) -> None:
        """Take back what came after the first `size` bytes, and promise no more room."""
        with writing(self.note.name):
            os.ftruncate(self._fd, size)
        self.promise(_IDLE)

    def commit(self, digest: Digest) -> None:
        """Bring the bytes, which hash to `digest` and are on disk, under its name: the last step of a push.

        Seal, rename, fsync of the folder (DESIGN, 2.5). Raises StoreFull, StoreError: the upload is still there.
        """
        target = self._layout.blob(digest)
        with writing(self.note.name):
            os.fchmod(self._fd, files.SEALED_MODE)
            # The time of access is left true: it orders eviction where the index is lost.
            os.utime(self._fd, (time.time(), files.seal_time(self.size)))
            files.make_folders(os.path.dirname(target))
            os.rename(self._path, target)
            files.sync_folder(os.path.dirname(target))
            files.remove(self._layout.upload_note(self.identity))

    def drop(self) -> None:
        """Remove the upload."""
        with writing(self.note.name):
            files.remove(self._layout.upload_note(self.identity))
            files.remove(self._path)

    def close(self) -> None:
        """Close the file, which gives the lock back. Safe to call twice; may run on the loop."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _write_note(self, note: UploadNote) -> None:
        with writing(self.note.name):
            files.write_atomically(self._layout.upload_note(self.identity), note.dump(), durable=False)
        self.note = note


class Uploads:
    """The uploads of a store. `boot` names this boot of the machine (ingest.boot_id)."""

    def __init__(self, layout: Layout, boot: str) -> None:
        self._layout = layout
        self._boot = boot

    def begin(self, name: str, algorithm: str, who: str) -> Upload:
        """Begin an upload to repository `name` and return it, open. Raises StoreFull, StoreError."""
        identity = str(uuid.uuid4())
        note = UploadNote(name, algorithm, who, time.time(), _IDLE, self._boot)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with writing(name):
            fd = os.open(self._layout.upload(identity), flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)  # at most tidy() is looking at it
                files.write_atomically(self._layout.upload_note(identity), note.dump(), durable=False)
            except BaseException:
                os.close(fd)
                files.remove(self._layout.upload(identity))
                raise
        return Upload(self._layout, identity, note, fd)

    def offset(self, identity: str, name: str) -> int:
        """Return how many bytes of an upload are here, whoever is writing it. Raises UploadUnknown."""
        self._note(identity, name)
        found = files.look(self._layout.upload(identity))
        if found is None:
            raise _unknown(identity, name)
        return found.st_size

    def take(self, identity: str, name: str) -> Upload | None:
        """Return an upload of repository `name`, None while somebody else has it. Raises UploadUnknown, StoreError."""
        self._note(identity, name)
        with writing(name):
            fd = self._open(identity)
        if fd is None:
            raise _unknown(identity, name)
        try:
            if not _lock(fd):
                os.close(fd)
                return None
            there, here = files.look(self._layout.upload(identity)), files.status(fd)
            if there is None or there.st_ino != here.st_ino:
                raise _unknown(identity, name)
            # Only now is the note what the last holder left.
            upload = Upload(self._layout, identity, self._note(identity, name), fd)
            if upload.note.boot != self._boot:
                self._recover(upload)
        except BaseException:
            os.close(fd)
            raise
        return upload

    def held(self, belongs: Callable[[str], bool]) -> int:
        """Return how many bytes of uploads there are in the repositories that `belongs` takes by their names."""
        size = 0
        for name in self._names():
            if name.endswith(".json"):
                note = UploadNote.parse(files.read_record(str(self._layout.uploads / name), _NOTE_LIMIT))
                found = files.look(self._layout.upload(name.removesuffix(".json")))
                size += found.st_size if note is not None and found is not None and belongs(note.name) else 0
        return size

    def tidy(self, age: float = AGE) -> int:
        """Remove uploads that nobody has changed for `age` seconds; take back what cut off requests promised.

        Return the bytes of room that this gives. Leaves alone what somebody is writing.
        """
        freed = 0
        for name in self._names():
            identity = name.rpartition(".")[0]
            if _IDENTITY.fullmatch(identity) is None:
                continue
            if name.endswith(".part"):
                freed += self._tidy(identity, age)
            elif name.endswith(".json") and files.look(self._layout.upload(identity)) is None:
                path = self._layout.upload_note(identity)
                if _idle_for(path, age):
                    files.remove(path)
        return freed

    def _tidy(self, identity: str, age: float) -> int:
        path, note_path = self._layout.upload(identity), self._layout.upload_note(identity)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return 0
        try:
            if not _lock(fd):
                return 0
            note = UploadNote.parse(files.read_record(note_path, _NOTE_LIMIT))
            held = allocated(path)
            promised = owed(note.size, held) if note is not None else 0
            if _idle_for(path, age):
                files.remove(note_path)
                files.remove(path)
                _log.info("upload_abandoned", name=note.name if note is not None else "", bytes=held)
                return held + promised
            if note is not None and note.size != _IDLE:
                files.write_atomically(note_path, replace(note, size=_IDLE).dump(), durable=False)
        except OSError as error:
            _log.warning("upload_not_tidied", upload=identity, error=error.strerror)
            return 0
        else:
            return promised
        finally:
            os.close(fd)

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._layout.uploads)
        except FileNotFoundError:
            return []

    def _note(self, identity: str, name: str) -> UploadNote:
        """Return the note of an upload of repository `name`; another one's is as good as none."""
        if _IDENTITY.fullmatch(identity) is None:
            raise _unknown(identity, name)
        note = UploadNote.parse(files.read_record(self._layout.upload_note(identity), _NOTE_LIMIT))
        if note is None or note.name != name:
            raise _unknown(identity, name)
        return note

    def _open(self, identity: str) -> int | None:
        path = self._layout.upload(identity)
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            return None
        except PermissionError:
            if not _unseal(path):
                raise
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            return None

    def _recover(self, upload: Upload) -> None:
        """Make an upload of another boot fit to go on with: what was not synced may be gone, or zeros."""
        kept = min(upload.size, upload.note.synced)
        upload.cut(kept)
        upload.note = replace(upload.note, boot=self._boot, synced=0)
        upload.rest()


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unseal(path: str) -> bool:
    """Make an upload writable that was sealed and never renamed; say whether opening it again may help."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        # Whoever seals it holds the lock until it is renamed: then it is not here any more.
        fcntl.flock(fd, fcntl.LOCK_EX)
        there, here = files.look(path), files.status(fd)
        if there is not None and there.st_ino == here.st_ino:
            os.fchmod(fd, 0o600)
    except PermissionError:
        return False
    finally:
        os.close(fd)
    return True


def _idle_for(path: str, age: float) -> bool:
    """Tell whether nothing happened to a file for `age` seconds. The mtime alone may be a seal: always old."""
    found = files.look(path)
    return found is not None and max(found.st_mtime, found.st_ctime) < time.time() - age


def _unknown(identity: str, name: str) -> UploadUnknown:
    return UploadUnknown(f"{name} has no upload {identity[:36]}", "begin a new one")


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turn what the disk answers while `name` is pushed to into StoreFull, NotYet or StoreError."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StoreFull(
                f"the store's disk became full during a push to {name} ({error.strerror})", "make room, then push again"
            ) from error
        if error.errno in files.EXHAUSTED:
            raise NotYet(*files.NO_DESCRIPTORS) from error
        raise StoreError(f"the store's disk failed during a push to {name} ({error.strerror})") from error
