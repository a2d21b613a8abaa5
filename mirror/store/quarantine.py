"""Bad content is moved out of the way with a note why; how much of it is kept is bounded, the oldest goes first.

Content that was pushed here, or that a set or a pin holds, is never deleted: it may be the only copy, and what read it
wrongly may have been the host's memory or a controller. What agrees with its name later is put back.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mirror import logs
from mirror.errors import DigestInvalid, StoreError
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.hosted import Hosted
from mirror.store.layout import Layout
from mirror.store.sets import Pins

FILES = 100  # kept at most, notes not counted
BYTES = 1 << 30  # kept at most, or a hundredth of the file system where that is less
_SHARE = 100
_AGAIN = 3600.0  # seconds between looks at the same content, but for a scrub
_ALGORITHMS = {64: "sha256", 128: "sha512"}  # by the length of the name


class Quarantine:
    """What was found bad, kept for the person who looks into it. For threads only."""

    def __init__(self, layout: Layout, count: int = FILES, size: int = BYTES) -> None:
        self._layout = layout
        self._folder = layout.quarantine
        self._count = count
        self._bytes = size
        self._pins = Pins(layout)
        self._hosted = Hosted(layout)
        self._looked: dict[str, float] = {}
        self._log = logs.get("quarantine")

    def take(self, path: Path | str, why: str, **facts: str | int | None) -> bool:
        """Move the file or folder `path` here and write `why` and `facts` beside it; say whether `path` is free now.

        What is too large to keep, or cannot be moved (no space, another file system), is deleted and only the note
        stays, unless it may be the only copy: then it stays where it is, and is hashed each time before it is served.
        Never raises OSError: the caller is already dealing with a fault.
        """
        path = Path(path)
        try:
            size = _size(path)
        except OSError:
            return not os.path.lexists(path)
        name = f"{time.time_ns():020d}-{path.name}"
        only = self._may_be_the_only_one(name)
        kept = (only or size <= self._limit()) and self._move(path, self._folder / name)
        if not kept and only:
            with suppress(OSError):
                path.chmod(0o600)  # without the seal it is not served as it is
        elif not kept:
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

    def put_back(self, *, all_of_it: bool = False) -> list[Digest]:
        """Bring back what is not here any more and agrees with its name now; return what that is.

        What was looked at within the last hour is passed by, unless `all_of_it` is looked at.
        """
        back = []
        for name, _ in self._entries():
            digest = _digest_of(name)
            if digest is None or (not all_of_it and time.monotonic() < self._looked.get(name, -_AGAIN) + _AGAIN):
                continue
            self._looked[name] = time.monotonic()
            try:
                if files.look(self._layout.blob(digest)) is None and self._restore(digest, self._folder / name):
                    back.append(digest)
            except (OSError, StoreError) as error:
                self._log.warning("not_put_back", name=name, why=str(error))
        self._looked = {name: when for name, when in self._looked.items() if os.path.lexists(self._folder / name)}
        return back

    def _restore(self, digest: Digest, path: Path) -> bool:
        fd = files.open_content(str(path))
        if fd is None:
            return False
        try:
            hasher = digest.hasher()
            size = files.hash_from_disk(fd, hasher.update)
            if hasher.hexdigest() != digest.hex:
                return False
            os.fsync(fd)
            os.fchmod(fd, files.SEALED_MODE)
            os.utime(fd, (time.time(), files.seal_time(size)))
        finally:
            os.close(fd)
        target = self._layout.blob(digest)
        files.make_folders(os.path.dirname(target))
        os.rename(path, target)
        files.sync_folder(os.path.dirname(target))
        files.remove(f"{path}.json")
        self._log.warning("put_back", digest=str(digest), remedy="check the host's memory and its disk")
        return True

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
        """Delete the oldest of what others can give again until count and bytes are within their bounds."""
        entries = self._entries()
        count, size = len(entries), sum(size for _, size in entries)
        limit = self._limit()
        for name, freed in entries:
            if count <= self._count and size <= limit:
                return
            if self._may_be_the_only_one(name):
                continue
            count -= 1
            self._delete(self._folder / name)
            self._delete(self._folder / f"{name}.json")
            size -= freed

    def _may_be_the_only_one(self, name: str) -> bool:
        """Tell whether what has this name here is content that was pushed, or that a set or a pin holds."""
        digest = _digest_of(name)
        if digest is None:
            return False
        try:
            return self._hosted.has(digest) or str(digest) in self._pins.digests()
        except (OSError, StoreError):
            return True  # it cannot be known now

    def _delete(self, path: Path) -> None:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            self._log.warning("quarantine_delete_failed", name=path.name, error=error.strerror)


def _digest_of(name: str) -> Digest | None:
    """Return the digest of the content that has a name here, None for what is no content."""
    encoded = name.rpartition("-")[2]
    try:
        return Digest.parse(f"{_ALGORITHMS.get(len(encoded), '')}:{encoded}")
    except DigestInvalid:
        return None


def _size(path: Path) -> int:
    """Return the bytes of a file, or of the files right inside a folder. Raises OSError if `path` is not there."""
    found = os.lstat(path)
    if not path.is_dir() or path.is_symlink():
        return found.st_size
    with os.scandir(path) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
