"""One upload, open: its bytes, its note, and the way to become a blob (see uploads)."""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mirror.errors import MirrorError, NotYet, StoreError, StoreFull, StoreReadOnly
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.faults import NO_ROOM, noted
from mirror.store.layout import Layout

if TYPE_CHECKING:
    from hashlib import _Hash

IDLE = 0  # the size that promises nothing


@dataclass(frozen=True, slots=True)
class UploadNote:
    """What is known of an upload of repository `name`.

    `size` is what the request under way will bring it to, in bytes: None unknown, 0 where none is. `synced` bytes
    surely are on disk; after another `boot` only those count. `algorithm` is that of the digest to come, as far as
    one can tell. `counted`: who holds it is making a blob of it, which quotas have counted.
    """

    name: str
    algorithm: str
    who: str
    started: float
    size: int | None
    boot: str
    synced: int = 0
    counted: bool = False

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
            return cls(**{key: found[key] for key in cls.__slots__ if key in found}) if sound else None
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
        if size != self.note.size or self.note.counted:
            self._write_note(replace(self.note, size=size, counted=False))

    def count(self) -> None:
        """Note that quotas count it as a blob from now on, and not as an upload too, as long as this is open."""
        if not self.note.counted:
            self._write_note(replace(self.note, counted=True))

    def append(self, position: int, content: bytes | bytearray, hasher: _Hash) -> int:
        """Write `content` at `position`, feed it to `hasher` and return the new size. Raises StoreFull, StoreError."""
        view = memoryview(content)
        with writing(self.note.name), noted("write", self._path):
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
        with writing(self.note.name), noted("write", self._path):
            os.fdatasync(self._fd)

    def rest(self) -> None:
        """Bring all to disk, note it, and promise no more room: the request is at its end."""
        self.sync()
        self._write_note(replace(self.note, size=IDLE, synced=self.size))

    def cut(self, size: int) -> None:
        """Take back what came after the first `size` bytes, and promise no more room."""
        with writing(self.note.name), noted("write", self._path):
            os.ftruncate(self._fd, size)
        self.promise(IDLE)

    def commit(self, digest: Digest) -> None:
        """Bring the bytes, which hash to `digest` and are on disk, under its name: the last step of a push.

        Seal, rename, fsync of the folder (DESIGN, 2.5). Raises StoreFull, StoreError: the upload is still there.
        """
        target = self._layout.blob(digest)
        with writing(self.note.name):
            with noted("write", self._path):
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


class writing:  # noqa: N801 - it reads as what it does, and is no generator because each piece of a push passes it
    """Turn what the disk answers while `name` is pushed to into StoreFull, StoreReadOnly, NotYet or StoreError."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Raise what the error means, if there is one."""
        if isinstance(error, OSError):
            raise _refusal(self._name, error) from error


def _refusal(name: str, error: OSError) -> MirrorError:
    if error.errno in NO_ROOM:
        return StoreFull(
            f"the store's disk ran out of room during a push to {name} ({error.strerror})",
            "make room (see df, df -i), then push again",
        )
    if error.errno == errno.EROFS:
        return StoreReadOnly(
            f"nothing can be pushed to {name} now: the store is on a read-only file system",
            "its operator has to mount it writable; what is there can be pulled",
        )
    if error.errno in files.EXHAUSTED:
        return NotYet(*files.NO_DESCRIPTORS)
    return StoreError(f"the store's disk failed during a push to {name} ({error.strerror})")
