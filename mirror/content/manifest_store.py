"""What a push or a deletion of a manifest does to the store, step by step. Everything here is for threads.

A push: room; then, while garbage collection is held off: everything that the manifest names is looked for and its
marker renewed; marker, content, entry among the referrers of the subject; and last the row, which makes it a manifest
of the repository. Each is on disk before the next. A tag names it only after that.
"""

from __future__ import annotations

import uuid
from collections.abc import Set

from mirror.content.pushed import Pushed
from mirror.errors import InvalidRequest, ManifestBlobUnknown, ManifestInvalid, ManifestRefused, NotHere
from mirror.oci import manifest
from mirror.oci.digest import Digest
from mirror.oci.manifest import MANIFEST_LIMIT
from mirror.store import files, ingest
from mirror.store.deletions import Deletions
from mirror.store.gc_lock import GcLock
from mirror.store.hosted import Hosted
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests as Rows
from mirror.store.manifests import Row
from mirror.store.references import References
from mirror.store.referrers import PushedReferrers
from mirror.store.space import Space


class BlobNamed(InvalidRequest):
    """A blob cannot be deleted because a manifest of the repository names it."""


class ManifestStore:
    """Manifests of hosted repositories; `name` is always one. `sparse`: what a manifest names need not be here."""

    def __init__(self, layout: Layout, space: Space, *, sparse: bool) -> None:
        self._layout = layout
        self._space = space
        self._sparse = sparse
        self._rows = Rows(layout)
        self._hosted = Hosted(layout)
        self._referrers = PushedReferrers(layout)
        self._references = References(layout)
        self._deletions = Deletions(layout)
        self._lock = GcLock(layout)

    def put(self, name: str, pushed: Pushed) -> None:
        """Make a manifest one of the repository.

        Raises ManifestBlobUnknown, ManifestRefused, StoreFull, NotYet, OSError.
        """
        self._space.reserve_upload(str(uuid.uuid4()), name, len(pushed.body))
        with self._lock.pushing():
            claimed = {digest for digest in pushed.needed if self._claim(name, digest)}
            missing = [digest for digest, needed in pushed.needed.items() if needed and digest not in claimed]
            if missing and not self._sparse:
                raise ManifestBlobUnknown(
                    f"{name} lacks {len(missing)} of what the manifest names",
                    "push its blobs and manifests to this repository first",
                    tuple(map(str, missing)),
                )
            self._check_sizes(pushed, claimed)
            self._keep(pushed)
            if pushed.subject is not None and pushed.descriptor is not None:
                self._referrers.add(name, pushed.subject, pushed.digest, pushed.descriptor)
            self._rows.add_manifest(name, pushed.digest, pushed.manifest.media_type, len(pushed.body))

    def _check_sizes(self, pushed: Pushed, claimed: Set[Digest]) -> None:
        """Raise ManifestRefused where what is claimed has another size than the manifest says: clients would refuse it.

        What only other repositories have is not looked at: a refusal would tell that it is here, and how large it is.
        """
        for one in pushed.manifest.named:
            found = files.modified(self._layout.blob(one.digest)) if one.digest in claimed else None
            if found is not None and found[2] != one.size:
                raise ManifestRefused(f"{one.digest} has {found[2]} bytes, not the {one.size} that the manifest says")

    def is_member(self, name: str, digest: Digest) -> bool:
        """Tell whether a manifest is one of the repository."""
        return self._rows.modified(name, digest) is not None and not self._deletions.has(name, digest)

    def find(self, name: str, digest: Digest) -> Row | None:
        """Return the row of a manifest that is here and the repository's, else None. Raises RecordDamaged."""
        if self._deletions.has(name, digest) or not self._is_here(digest):
            return None
        return self._rows.read_manifest(name, digest)

    def remove(self, name: str, digest: Digest) -> None:
        """Let a manifest be none of the repository any more; no tag of it names it now. Raises NotHere, OSError."""
        subject = self._subject(name, digest)
        if not self._rows.remove_manifest(name, digest):
            raise NotHere(f"{name}@{digest} is not here")
        if subject is not None:
            self._referrers.remove(name, subject, digest)

    def remove_blob(self, name: str, digest: Digest) -> None:
        """Let a blob be none of the repository any more. Raises NotHere, BlobNamed, NotYet, OSError."""
        if not self._rows.is_member(name, digest):
            raise NotHere(f"{name} has no blob {digest}")
        # What a manifest names that is being deleted is not kept for that.
        known = {one.digest for one in self._deletions.list() if one.name == name}
        self._check_unnamed(name, digest, known)
        with self._lock.removing():
            self._check_unnamed(name, digest, known)  # by what was pushed since
            self._rows.remove_blob(name, digest)

    def _check_unnamed(self, name: str, digest: Digest, known: set[Digest]) -> None:
        namer = self._references.namer(name, digest, known)
        if namer is not None:
            raise BlobNamed(f"the manifest {namer} of {name} names this blob", "delete that manifest first")

    def _claim(self, name: str, digest: Digest) -> bool:
        """Tell whether a blob or manifest is here and the repository's; what is here is not collected from now on."""
        if not self._is_here(digest):
            return False
        renewed = self._lock.renew(digest)
        # Most of what is named are blobs, so that is looked for first.
        if _is_claimable(self._rows.member(name, digest)) or (
            _is_claimable(self._rows.manifest(name, digest)) and not self._deletions.has(name, digest)
        ):
            return renewed or self._hosted.keep(digest)
        return False

    def _keep(self, pushed: Pushed) -> None:
        """Have the content here for good, marked before it has its name."""
        found = files.look(self._layout.blob(pushed.digest))
        whole = found is not None and files.is_sealed(found) and found.st_size == len(pushed.body)
        if not (whole and self._hosted.keep(pushed.digest)):
            self._hosted.add(pushed.digest)
            ingest.store_bytes(self._layout, pushed.digest, pushed.body)

    def _is_here(self, digest: Digest) -> bool:
        return files.modified(self._layout.blob(digest)) is not None

    def _subject(self, name: str, digest: Digest) -> Digest | None:
        """Return what a manifest refers to; None also where it cannot be read: garbage collection mends the lists."""
        row, body = self._rows.manifest(name, digest), files.read_record(self._layout.blob(digest), MANIFEST_LIMIT)
        if row is None or body is None:
            return None
        try:
            subject = manifest.parse(body, row.media_type).subject
        except ManifestInvalid:
            return None
        return subject.digest if subject is not None else None


def _is_claimable(row: Row | None) -> bool:
    """Tell whether a row is of what was pushed; so was what an earlier release has of a hosted repository."""
    return row is not None and row.brought is not False
