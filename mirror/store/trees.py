"""What a manifest needs, as far as it is here: itself, the manifests under it, and their blobs."""

from __future__ import annotations

from dataclasses import dataclass, field

from mirror.errors import Corrupt, ManifestInvalid, NotHere
from mirror.oci import manifest, media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import MANIFEST_LIMIT
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests


@dataclass(slots=True)
class Tree:
    """Manifests and blobs with the bytes that they have or are said to have; `absent` are those that are not here.

    Under a manifest that is absent more may be missing that nobody knows of.
    """

    manifests: dict[Digest, int] = field(default_factory=dict)
    blobs: dict[Digest, int] = field(default_factory=dict)
    absent: set[Digest] = field(default_factory=set)


def grow(layout: Layout, name: str, root: Digest) -> Tree:
    """Return what the manifest `root` of repository `name` needs. For threads.

    Raises NotHere where `root` is not here, Corrupt where a manifest is damaged: it may need anything; StoreUnreadable.
    """
    rows = Manifests(layout)
    tree = Tree()
    row = rows.manifest(name, root)
    found = _read(layout, root, row.media_type if row is not None else "")
    if found is None:
        raise NotHere(f"the manifest {name}@{root} is not here", "pull it through this mirror first")
    waiting = [found]
    tree.manifests[root] = _size(layout, root) or 0
    while waiting:
        parent = waiting.pop()
        for one in parent.blobs:
            if not one.foreign:
                _add(layout, tree, tree.blobs, one)
        for child in parent.children:
            if child.digest in tree.manifests:
                continue
            _add(layout, tree, tree.manifests, child)
            # An index may list what is no manifest at all.
            under = _read(layout, child.digest, child.media_type) if _is_manifest(child) else None
            if under is not None:
                waiting.append(under)
    return tree


def _add(layout: Layout, tree: Tree, where: dict[Digest, int], one: Descriptor) -> None:
    size = _size(layout, one.digest)
    where[one.digest] = one.size if size is None else size
    if size is None:
        tree.absent.add(one.digest)


def _is_manifest(one: Descriptor) -> bool:
    return not one.media_type or one.media_type in media_types.MANIFESTS


def _size(layout: Layout, digest: Digest) -> int | None:
    found = files.modified(layout.blob(digest))
    return None if found is None else found[2]


def _read(layout: Layout, digest: Digest, media_type: str) -> manifest.Manifest | None:
    try:
        body = files.read_small(layout.blob(digest), MANIFEST_LIMIT)
    except OSError as error:
        raise Corrupt(f"the stored content of {digest} is too large for a manifest", "run: mirror scrub") from error
    if body is None:
        return None
    if Digest.of(body, digest.algorithm) != digest:
        raise Corrupt(f"the stored content of {digest} has other bytes", "run: mirror scrub")
    try:
        return manifest.parse(body, media_type)
    except ManifestInvalid as error:
        raise Corrupt(f"the manifest {digest} cannot be parsed: {error.what}") from error
