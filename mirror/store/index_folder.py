"""The folder of the index: who may open or replace what is in it, and when."""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager

from mirror.store import files
from mirror.store.faults import ABSENT, DISK_FAULTS
from mirror.store.layout import Layout
from mirror.store.lock import held
from mirror.store.quarantine import Quarantine

_DATABASE = "cache.db"  # diskcache's name for it
_PATIENCE = 1.0  # seconds for another process that is opening the index


class IndexFolder:
    """Where the database is. A damaged one leaves with its whole folder, so that no half of it stays behind."""

    def __init__(self, layout: Layout, quarantine: Quarantine) -> None:
        self.path = layout.index
        self.database = str(layout.index / _DATABASE)
        self._lock = layout.lock("index")
        self._quarantine = quarantine

    def identity(self) -> tuple[int, int] | None:
        """Return (device, inode) of the database, None where there is none: another one was put in its place."""
        try:
            found = os.lstat(self.database)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def make(self) -> None:
        """Make the folder, for its owner alone whatever it was before. Raises OSError."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        os.chmod(self.path, 0o700)

    def note_unreadable(self) -> None:
        """Note why the database cannot be read, if that is what is wrong with it.

        Only while this process has it not open: closing the descriptor takes away the locks that SQLite has there.
        """
        for path in self._files():
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    os.fstat(fd)
                    os.pread(fd, 1, 0)
                finally:
                    os.close(fd)
            except OSError as error:
                if error.errno not in ABSENT:
                    DISK_FAULTS.note("read", path, error, retried=False)

    def note_readable(self) -> None:
        """Note that the database can be read again."""
        for path in self._files():
            DISK_FAULTS.over("read", path)

    def _files(self) -> tuple[str, ...]:
        return (self.database, f"{self.database}-wal", f"{self.database}-shm")

    def never_usable(self) -> bool:
        """Tell whether what is at the database's path (a folder, a link) can never be one that we write.

        One that is not ours to read or write stays: it may be given back to us.
        """
        found = files.look(self.database)
        if found is None:
            return False
        return not stat.S_ISREG(found.st_mode)

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes from opening or replacing the database. Raises OSError if one does for too long."""
        return held(self._lock, _PATIENCE, OSError("another process is opening the index"))

    def replace(self, why: str) -> None:
        """Move everything into quarantine and make an empty folder; under the lock. Raises OSError."""
        if not self._quarantine.take(self.path, f"not a usable index: {why}"):
            raise OSError("what is in the index's place cannot be moved away")
        self.make()
