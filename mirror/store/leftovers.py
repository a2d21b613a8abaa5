"""What downloads, loads from files and pushes leave behind when nobody goes on with them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable

from mirror import logs
from mirror.errors import DigestInvalid, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.ingest import Part, boot_id
from mirror.store.layout import Layout
from mirror.store.promises import SPANS, WHOLE, allocated, grows_in
from mirror.store.uploads import Uploads

AGE = 86400.0  # seconds since the last change; a download that came back within a day is resumed
SPANS_AGE = 30 * 86400.0  # of what came from one disk and waits for the rest, which somebody has yet to carry here
_TEMPORARY = (".tmp", ".bad", "~")


class Leftovers:
    """Old parts, notes and temporary files. For threads only."""

    def __init__(self, layout: Layout, age: float = AGE) -> None:
        self._layout = layout
        self._age = age
        self._uploads = Uploads(layout, boot_id())
        self._log = logs.get("leftovers")

    def remove(self) -> int:
        """Remove old parts and uploads that nobody has locked, and old temporary files.

        Return the bytes freed, with the promises of uploads that were cut off.
        """
        freed = self._uploads.tidy() + self._remove_temporary_notes()
        for name in self._names():
            try:
                freed += self._remove_old(name)
            except (OSError, StoreUnreadable) as error:
                self._log.debug("leftover_stays", name=name, why=str(error))
        return freed

    def _remove_old(self, name: str) -> int:
        """Remove one file of ingest/ if it is old; return the bytes freed. Raises OSError, StoreUnreadable."""
        path = str(self._layout.ingest / name)
        if not files.idle_for(path, SPANS_AGE if name.endswith(SPANS) else self._age):
            return 0
        size = allocated(path)
        if name.endswith(_TEMPORARY):
            gone = files.remove(path)
        elif name.endswith((WHOLE, SPANS)):
            gone = _remove_unless_locked(path)
        else:
            gone = self._remove_part(name)
        if not gone:
            return 0
        self._log.info("leftover_removed", name=name, bytes=size)
        return size

    def old_notes(self) -> list[str]:
        """Return the names of old notes that have no part."""
        return [name for name in self._names() if name.endswith(".json") and self._is_old_note(name)]

    def remove_notes(self, names: Iterable[str]) -> int:
        """Remove those of `names` that still are old notes that have no part, and return how many.

        Under the lock that promises are made under: so nobody has put a note of his own there between the look and
        the removal.
        """
        return sum(files.remove(str(self._layout.ingest / name)) for name in names if self._is_old_note(name))

    def _is_old_note(self, name: str) -> bool:
        path = str(self._layout.ingest / name)
        return not os.path.lexists(grows_in(path)) and files.idle_for(path, self._age)

    def _remove_temporary_notes(self) -> int:
        freed = 0
        for entry in files.names(self._layout.uploads):
            path = str(self._layout.uploads / entry)
            if entry.endswith("~") and files.idle_for(path, self._age):
                freed += allocated(path) if files.remove(path) else 0
        return freed

    def _names(self) -> list[str]:
        return files.names(self._layout.ingest)

    def _remove_part(self, name: str) -> bool:
        algorithm, _, encoded = name.removesuffix(".part").partition("-")
        try:
            digest = Digest.parse(f"{algorithm}:{encoded}")
        except DigestInvalid:
            return False
        part = Part.open(self._layout, digest, create=False) if name.endswith(".part") else None
        if part is None:
            return False
        try:
            if not part.try_lock() or part.moved:
                return False
            # The note first: once the part is gone another process may begin anew and write a note of its own.
            files.remove(self._layout.part_note(digest))
            return files.remove(self._layout.part(digest))
        finally:
            part.close()


def _remove_unless_locked(path: str) -> bool:
    """Remove what came from a file, and its note, unless somebody is at it; say whether it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = files.look(path)
        if there is None or there.st_ino != os.fstat(fd).st_ino:
            return False
        files.remove(f"{path}.json")
        return files.remove(path)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
