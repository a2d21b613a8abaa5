"""Content by its digest: what is sealed may be served, what is not is hashed first.

Content leaves its place only where it was read whole and its bytes are others than its name says, twice: as the page
cache has it, and as the disk has it. What cannot be read stays (StoreUnreadable).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from mirror import logs
from mirror.errors import Corrupt, StoreError
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.faults import noted
from mirror.store.layout import Layout

_log = logs.get("store.blobs")


class OpenBlob(NamedTuple):
    """An open file of content, its size in bytes, and whether it is known to be what its name says."""

    fd: int
    size: int
    sealed: bool


class Blobs:
    """The files under `blobs/`. `discard(path, why)` is how bad content leaves."""

    def __init__(self, layout: Layout, discard: Callable[[str, str], None]) -> None:
        self._layout = layout
        self._discard = discard

    def open(self, digest: Digest) -> OpenBlob | None:
        """Open the content of `digest`, None where it is not here. The caller closes `fd`. May run on the loop.

        Raises StoreUnreadable.
        """
        fd = files.open_content(self._layout.blob(digest))
        if fd is None:
            return None
        try:
            status = files.status(fd)
        except StoreError:
            os.close(fd)
            raise
        return OpenBlob(fd, status.st_size, files.is_sealed(status))

    def modified(self, digest: Digest) -> tuple[int, int, int] | None:
        """Return what changes when the file of `digest` does, None where there is none. May run on the loop."""
        return files.modified(self._layout.blob(digest))

    def verify(self, digest: Digest, fd: int) -> None:
        """Hash an unsealed file, which may be served then, and seal it. For threads only.

        Raises Corrupt, with the file in quarantine, if it is another content; StoreUnreadable.
        """
        hasher = digest.hasher()
        size = files.hash_file(fd, hasher.update)
        if hasher.hexdigest() != digest.hex and not self.agrees(digest, fd, size):
            self._discard(self._layout.blob(digest), f"hashes to {hasher.hexdigest()}")
            raise Corrupt(f"the stored content of {digest} has other bytes")
        try:
            self.seal(digest, fd)
        except (StoreError, OSError) as error:
            # Another user's file, a disk that takes nothing: it is as good as it is, and hashed each time.
            _log.debug("not_sealed", digest=str(digest), why=str(error))

    def agrees(self, digest: Digest, fd: int, size: int) -> bool:
        """Tell whether an open file, of which `size` bytes were read and did not agree, is good all the same.

        It is read once more, past the page cache. For threads only. Raises StoreUnreadable, Corrupt where it is being
        written meanwhile: nothing can be said of it then, and it stays.
        """
        hasher = digest.hasher()
        again = files.hash_from_disk(fd, hasher.update)
        if again != size or again != files.status(fd).st_size:
            raise Corrupt(f"the stored content of {digest} changes while it is read")
        good = hasher.hexdigest() == digest.hex
        if good:
            _log.warning("read_differently", digest=str(digest), remedy="check the host's memory and its disk")
        return good

    def seal(self, digest: Digest, fd: int) -> None:
        """Mark an open file as verified, which it just was. Raises StoreError where it is another user's, OSError."""
        size = files.status(fd).st_size
        path = self._layout.blob(digest)
        try:
            # What came by rsync or tar may not be on disk yet, and a seal promises that it is.
            with noted("write", path):
                os.fsync(fd)
            os.fchmod(fd, files.SEALED_MODE)
            os.utime(fd, (time.time(), files.seal_time(size)))
        except PermissionError as error:
            raise StoreError(
                f"the file of {digest} belongs to another user", f"chown it to the owner of the store: {path}"
            ) from error

    def discard(self, digest: Digest, why: str) -> None:
        """Move the file of `digest`, which was seen to have other bytes, out of the way. For threads only."""
        self._discard(self._layout.blob(digest), why)

    def reject(self, digest: Digest, why: str) -> bool:
        """Move the file of `digest` out of the way if it has other bytes, past the page cache too; say whether it had.

        For threads only. Raises StoreUnreadable.
        """
        found = self.open(digest)
        if found is None:
            return False
        try:
            if self.agrees(digest, found.fd, found.size):
                return False
        except Corrupt:
            return False  # it is being written
        finally:
            os.close(found.fd)
        self.discard(digest, why)
        return True
