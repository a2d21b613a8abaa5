"""What the manifests of a repository name: nothing of that may be taken away."""

from __future__ import annotations

from mirror.errors import Corrupt, ManifestInvalid
from mirror.oci import manifest
from mirror.oci.digest import Digest
from mirror.oci.manifest import MANIFEST_LIMIT
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests


class References:
    """Reads manifests. For threads only."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._rows = Manifests(layout)

    def named(self, name: str, digest: Digest) -> tuple[Digest, ...]:
        """Return what a manifest of repository `name` names; nothing where its content is not here.

        Raises Corrupt where the content is here and does not say: it may name anything. Raises StoreUnreadable.
        """
        try:
            body = files.read_small(self._layout.blob(digest), MANIFEST_LIMIT)
        except OSError as error:
            raise Corrupt(f"the stored content of {digest} is too large for a manifest") from error
        if body is None:
            return ()
        if Digest.of(body, digest.algorithm) != digest:
            raise Corrupt(f"the stored content of {digest} has other bytes")
        row = self._rows.manifest(name, digest)
        try:
            found = manifest.parse(body, row.media_type if row is not None else "")
        except ManifestInvalid as error:
            raise Corrupt(f"the manifest {digest} cannot be parsed: {error.what}") from error
        return tuple(one.digest for one in found.named)

    def namer(self, name: str, wanted: Digest, known: set[Digest]) -> Digest | None:
        """Return a manifest of repository `name` that names `wanted`, None where none does.

        `known` are manifests that need not be looked at, and those that were are added. One that cannot be read
        counts as naming everything. Raises StoreUnreadable.
        """
        for digest in self._rows.list(name):
            if digest in known:
                continue
            try:
                found = self.named(name, digest)
            except Corrupt:
                return digest
            if wanted in found:
                return digest
            known.add(digest)
        return None
