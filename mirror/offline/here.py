"""What of a plan is in the store, and what is not."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mirror.errors import Corrupt, StoreError, StoreUnreadable
from mirror.oci import manifest as manifests
from mirror.oci.digest import Digest
from mirror.oci.manifest import MANIFEST_LIMIT, Manifest
from mirror.offline.plan import Plan, Signature
from mirror.store import files
from mirror.store.blobs import Blobs
from mirror.store.faults import unreadable
from mirror.store.layout import Layout
from mirror.store.signatures import Signatures


@dataclass(frozen=True, slots=True)
class Presence:
    """Which digests of a plan are here and which are missing, each with its size in bytes."""

    here: dict[Digest, int]
    missing: dict[Digest, int]

    @property
    def here_bytes(self) -> int:
        """The bytes that are here."""
        return sum(self.here.values())

    @property
    def missing_bytes(self) -> int:
        """The bytes that are not."""
        return sum(self.missing.values())


class Store:
    """The store as plans look at it. Everything blocks and is for threads."""

    def __init__(self, layout: Layout, blobs: Blobs) -> None:
        self.layout = layout
        self.blobs = blobs
        self.signatures = Signatures(layout)

    def has(self, digest: Digest, size: int) -> bool:
        """Tell whether the content is here, whole and verified, and can be read. What is not sealed is hashed first."""
        path = self.layout.blob(digest)
        try:
            found = files.look(path)
            if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != size:
                return False
            if not files.may_read(path, found):
                return False
            return files.is_sealed(found) or self.verify(digest)
        except StoreUnreadable:
            return False  # which is noted; why_closed tells

    def why_closed(self, digest: Digest) -> StoreUnreadable | None:
        """Return why content that may be there cannot be read, whatever it holds; None where that is not so."""
        path = self.layout.blob(digest)
        try:
            found = files.look(path)
            if found is None:
                return None
            if not files.may_read(path, found):
                return unreadable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
            opened = files.open_content(path)
        except StoreUnreadable as error:
            return error
        if opened is not None:
            os.close(opened)
        return None

    def verify(self, digest: Digest, progress: Callable[[int], None] = lambda _: None) -> bool:
        """Hash the content and say whether it is what its name says; bad content goes to quarantine.

        Raises StoreUnreadable.
        """
        found = self.blobs.open(digest)
        if found is None:
            return False
        try:
            if not self._hashes(digest, found.fd):
                return False
        finally:
            os.close(found.fd)
        progress(found.size)
        return True

    def _hashes(self, digest: Digest, fd: int) -> bool:
        try:
            self.blobs.verify(digest, fd)
        except Corrupt:
            return False
        return True

    def presence(self, plan: Plan) -> Presence:
        """Return what of a plan is here."""
        here: dict[Digest, int] = {}
        missing: dict[Digest, int] = {}
        for digest, size in plan.content.items():
            (here if self.has(digest, size) else missing)[digest] = size
        return Presence(here, missing)

    def manifest(self, digest: Digest, media_type: str) -> Manifest:
        """Return a manifest that is here, parsed; raise ManifestInvalid, StoreError."""
        raw = files.read_small(self.layout.blob(digest), MANIFEST_LIMIT)
        if raw is None:
            raise StoreError(f"the manifest {digest} is not here")
        return manifests.parse(raw, media_type)

    def lacking_signatures(self, plan: Plan) -> Iterator[str]:
        """Yield the signatures of a plan that are not here, as sentences."""
        for one in plan.signatures:
            if self.signature(one) is None:
                yield f"signature {one.number} of release {one.release}"

    @contextmanager
    def reading(self, digest: Digest) -> Iterator[Callable[[int], bytes] | None]:
        """Give what returns the next bytes of content, none at its end; None where it is not here, whole and verified.

        Raises StoreError.
        """
        found = self.blobs.open(digest)
        if found is None:
            yield None
            return
        with os.fdopen(found.fd, "rb") as file:
            yield file.read if found.sealed or self._hashes(digest, found.fd) else None

    def signature(self, one: Signature) -> bytes | None:
        """Return the bytes of a planned signature, whatever number it has here; None where it is not here."""
        found = (raw for _, raw in self.signatures.list(one.release))
        return next((raw for raw in found if Digest.of(raw) == one.digest), None)
