"""What downloads leave behind in ingest/ when nobody goes on with them."""

from __future__ import annotations

import os
import time

from mirror import logs
from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.ingest import Part
from mirror.store.layout import Layout
from mirror.store.promises import allocated

AGE = 86400.0  # seconds since the last change; a download that came back within a day is resumed
_TEMPORARY = (".tmp", ".bad", "~")


class Leftovers:
    """Old parts, notes and temporary files. For threads only."""

    def __init__(self, layout: Layout, age: float = AGE) -> None:
        self._layout = layout
        self._age = age
        self._log = logs.get("leftovers")

    def remove(self) -> int:
        """Remove old parts that nobody has locked, and old temporary files; return the bytes freed."""
        freed = 0
        for name in self._names():
            path = str(self._layout.ingest / name)
            if not self._old(path):
                continue
            size = allocated(path)
            gone = files.remove(path) if name.endswith(_TEMPORARY) else self._remove_part(name)
            if gone:
                self._log.info("leftover_removed", name=name, bytes=size)
                freed += size
        return freed

    def remove_notes(self) -> int:
        """Remove old notes that have no part, and return how many.

        Under the lock that promises are made under: so nobody has put a note of his own there between the look and
        the removal.
        """
        count = 0
        for name in self._names():
            path = str(self._layout.ingest / name)
            if name.endswith(".json") and not os.path.lexists(f"{path.removesuffix('.json')}.part") and self._old(path):
                count += files.remove(path)
        return count

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._layout.ingest)
        except FileNotFoundError:
            return []

    def _old(self, path: str) -> bool:
        """Tell whether nothing happened to a file for long. The mtime alone may be a seal, which is always old."""
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return False
        return max(status.st_mtime, status.st_ctime) < time.time() - self._age

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
            files.remove(str(self._layout.part_note(digest)))
            return files.remove(str(self._layout.part(digest)))
        finally:
            part.close()
