"""Content by its digest: what is sealed may be served, what is not is hashed first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from mirror.errors import Corrupt, NotYet, StoreError
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout


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

        Raises StoreError where there is something that cannot be opened, NotYet when descriptors have run out.
        """
        path = self._layout.blob(digest)
        try:
            fd = files.open_content(path)
        except OSError as error:
            if error.errno in files.EXHAUSTED:
                raise NotYet(*files.NO_DESCRIPTORS) from error
            raise StoreError(f"the stored content of {digest} cannot be opened ({error.strerror})") from error
        if fd is None:
            return None
        status = files.status(fd)
        return OpenBlob(fd, status.st_size, files.is_sealed(status))

    def modified(self, digest: Digest) -> tuple[int, int, int] | None:
        """Return what changes when the file of `digest` does, None where there is none. May run on the loop."""
        return files.modified(self._layout.blob(digest))

    def verify(self, digest: Digest, fd: int) -> None:
        """Hash an unsealed file and seal it; raise Corrupt, with the file in quarantine, if it is another content."""
        hasher = digest.hasher()
        try:
            files.hash_file(fd, hasher.update)
        except OSError as error:
            self.discard(digest, f"unreadable: {error.strerror}")
            raise Corrupt(f"the stored content of {digest} cannot be read ({error.strerror})") from error
        if hasher.hexdigest() != digest.hex:
            self.discard(digest, f"hashes to {hasher.hexdigest()}")
            raise Corrupt(f"the stored content of {digest} has other bytes")
        self.seal(digest, fd)

    def seal(self, digest: Digest, fd: int) -> None:
        """Mark an open file as verified, which it just was. Raises StoreError where it is another user's."""
        size = os.fstat(fd).st_size
        try:
            # What came by rsync or tar may not be on disk yet, and a seal promises that it is.
            os.fsync(fd)
            os.fchmod(fd, files.SEALED_MODE)
            os.utime(fd, (time.time(), files.seal_time(size)))
        except PermissionError as error:
            raise StoreError(
                f"the file of {digest} belongs to another user",
                f"chown it to the owner of the store: {self._layout.blob(digest)}",
            ) from error

    def discard(self, digest: Digest, why: str) -> None:
        """Move the file of `digest` out of the way. For threads only."""
        self._discard(self._layout.blob(digest), why)
