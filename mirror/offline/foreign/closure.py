"""What an archived image consists of, whether all of it can be had, and what exactly cannot."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mirror.config.values import count_text
from mirror.errors import ManifestInvalid
from mirror.oci import manifest as manifests
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.offline.closure import DEPTH_LIMIT, MANIFESTS_LIMIT
from mirror.offline.foreign.model import MANIFEST_LIMIT, Foreign
from mirror.offline.plan import PlannedBlob, PlannedManifest
from mirror.offline.tar import ArchiveInvalid

Here = Callable[[Digest], bytes | None]
Has = Callable[[Digest, int], bool]

NOT_THERE = "is neither in the archive nor here"
_SIZE_LIMIT = 2**50  # bytes of a blob: beyond any disk, within what a plan can say


@dataclass(frozen=True, slots=True)
class Node:
    """A manifest as read: what it names. `children` are (digest, media type, size, architecture) each."""

    digest: Digest
    media_type: str
    size: int
    children: tuple[tuple[Digest, str, int, str], ...]
    blobs: tuple[Digest, ...]
    subject: Digest | None
    apart: tuple[Digest, ...]  # layers that are fetched from their publisher alone


@dataclass(slots=True)
class Closure:
    """An image and all below it, as far as it can be had: it is whole where nothing is missing or damaged.

    `missing` and `damaged` say why, by digest. `architectures` is set where an index has children that the archive
    does not list: those that are here.
    """

    manifests: dict[Digest, PlannedManifest] = field(default_factory=dict)
    blobs: set[Digest] = field(default_factory=set)
    missing: dict[Digest, str] = field(default_factory=dict)
    damaged: dict[Digest, str] = field(default_factory=dict)
    architectures: tuple[str, ...] = ()
    absent: int = 0  # children of an index that are left out
    apart: set[Digest] = field(default_factory=set)

    @property
    def whole(self) -> bool:
        """Whether the image can be brought."""
        return not self.missing and not self.damaged


class Closures:
    """Reads images of an archive; `here` and `has` answer for the store. What images share is held once.

    Everything blocks.
    """

    def __init__(self, foreign: Foreign, here: Here, has: Has) -> None:
        self._foreign = foreign
        self._here = here
        self._has = has
        self._nodes: dict[Digest, Node | Exception] = {}
        self._verdicts: dict[tuple[Digest, int], str] = {}
        self._digests: dict[Digest, Digest] = {}
        self.blobs: dict[Digest, PlannedBlob] = {}

    def node(self, digest: Digest, media_type: str = "") -> Node:
        """Return a manifest, verified and read; `media_type` is what the archive says of it.

        Raises LookupError where it cannot be had, ArchiveInvalid and ManifestInvalid where it is not what it must be.
        """
        known = self._nodes.get(digest)
        if known is None:
            try:
                known = self._read(digest, media_type)
            except (LookupError, ArchiveInvalid, ManifestInvalid) as error:
                known = error
            self._nodes[digest] = known
        if isinstance(known, Exception):
            raise known.with_traceback(None)
        return known

    def manifest(self, digest: Digest, media_type: str = "") -> Manifest:
        """Return a manifest, verified and parsed. Raises what `node` does."""
        return manifests.parse(self._body(digest), media_type)

    def read(self, name: str, digest: Digest, media_type: str = "") -> Closure:
        """Return the closure of an image of repository `name`, as planned for `name`."""
        found = Closure()
        self._visit(found, name, digest, media_type, None, 1)
        return found

    def _visit(self, found: Closure, name: str, digest: Digest, media_type: str, size: int | None, depth: int) -> None:
        if digest in found.manifests:
            return
        if depth > DEPTH_LIMIT + 1 or len(found.manifests) >= MANIFESTS_LIMIT:
            found.damaged[digest] = "lies in an index nested too deeply, or of too many manifests"
            return
        try:
            node = self.node(digest, media_type)
        except LookupError:
            found.missing[digest] = NOT_THERE
            return
        except (ArchiveInvalid, ManifestInvalid) as error:
            found.damaged[digest] = error.what
            return
        if size is not None and size != node.size:
            found.damaged[digest] = f"has {count_text(node.size, 'byte')}, and its index says {size}"
            return
        there = tuple(child for child in node.children if self._can_be_had(name, child[0]))
        if node.children and not there:
            found.missing.update((child[0], NOT_THERE) for child in node.children)
            return
        if len(there) < len(node.children):
            found.absent += len(node.children) - len(there)
            found.architectures = tuple(sorted({*found.architectures, *(child[3] for child in there if child[3])}))
        children = tuple(dict.fromkeys(child[0] for child in there))
        found.manifests[digest] = PlannedManifest(
            name, node.digest, node.media_type, node.size, children, node.blobs, node.subject
        )
        found.apart.update(node.apart)
        for blob in node.blobs:
            self._look_at(found, self.blobs[blob])
        for child, child_type, child_size, _ in there:
            self._visit(found, name, child, child_type, child_size, depth + 1)

    def _can_be_had(self, name: str, digest: Digest) -> bool:
        """Tell whether a child is worth asking for: an archive may leave platforms out, and then lists none of them."""
        if self._foreign.lists(name, digest):
            return True
        try:
            self.node(digest)
        except LookupError:
            return False
        except (ArchiveInvalid, ManifestInvalid):
            return True  # it is there, and whoever visits it says what is wrong
        return True

    def _look_at(self, found: Closure, blob: PlannedBlob) -> None:
        found.blobs.add(blob.digest)
        key = (blob.digest, blob.size)
        if key not in self._verdicts:
            self._verdicts[key] = self._verdict(blob)
        verdict = self._verdicts[key]
        if verdict:
            (found.missing if verdict == NOT_THERE else found.damaged)[blob.digest] = verdict

    def _verdict(self, blob: PlannedBlob) -> str:
        """Return what is wrong with a blob, nothing where it is here or can be brought."""
        try:
            place = self._foreign.place(blob.digest)
        except ArchiveInvalid as error:
            return "" if self._has(blob.digest, blob.size) else error.what
        if (place is not None and place.size == blob.size) or self._has(blob.digest, blob.size):
            return ""
        if place is None:
            return NOT_THERE
        return f"has {count_text(place.size, 'byte')} in the archive, and should have {blob.size}"

    def _body(self, digest: Digest) -> bytes:
        place = self._foreign.place(digest)
        body = place.read(MANIFEST_LIMIT) if place is not None else self._here(digest)
        if body is None:
            raise LookupError(str(digest))
        if Digest.of(body, digest.algorithm) != digest:
            raise ArchiveInvalid(f"the manifest {digest} has other bytes in the archive", "copy the archive again")
        return body

    def _read(self, digest: Digest, media_type: str) -> Node:
        body = self._body(digest)
        parsed = manifests.parse(body, media_type)
        document = json.loads(body)
        if parsed.media_type in media_types.SCHEMA1 or document.get("schemaVersion") == 1:
            raise ManifestInvalid(f"{digest} is a schema 1 manifest, which cannot be kept")
        blobs = [blob for blob in parsed.blobs if not blob.foreign]
        for blob in blobs:
            self._note(digest, blob)
        return Node(
            self._one(digest),
            sys.intern(parsed.media_type),
            len(body),
            tuple(
                (self._one(child.digest), sys.intern(child.media_type), child.size, architecture)
                for child, architecture in zip(parsed.children, _architectures(document), strict=True)
            )
            if parsed.children
            else (),
            tuple(dict.fromkeys(self._one(blob.digest) for blob in blobs)),
            self._one(parsed.subject.digest) if parsed.subject else None,
            tuple(blob.digest for blob in parsed.blobs if blob.foreign),
        )

    def _note(self, digest: Digest, blob: Descriptor) -> None:
        """Remember a blob's size; raise ManifestInvalid where another manifest says another."""
        one = self._one(blob.digest)
        known = self.blobs.setdefault(one, PlannedBlob(one, sys.intern(blob.media_type), blob.size))
        if known.size != blob.size or blob.size > _SIZE_LIMIT:
            raise ManifestInvalid(
                f"{digest} says that {blob.digest} has {count_text(blob.size, 'byte')}, another one {known.size}"
            )

    def _one(self, digest: Digest) -> Digest:
        """Return the same object for equal digests: thousands of images share their base layers."""
        return self._digests.setdefault(digest, digest)


def _architectures(index: dict[str, Any]) -> list[str]:
    """Return the architecture of each child of an index, with its variant; empty where it has none."""
    found = []
    for entry in index["manifests"]:
        platform: Any = entry.get("platform")
        parts = [platform.get(key) for key in ("architecture", "variant")] if isinstance(platform, dict) else []
        known = parts and isinstance(parts[0], str) and parts[0] != "unknown"
        found.append("/".join(part for part in parts if isinstance(part, str) and part)[:80] if known else "")
    return found
