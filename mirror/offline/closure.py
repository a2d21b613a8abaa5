"""The closure of an image: every manifest and blob that must be here for it to be whole."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mirror.content.answers import Target
from mirror.errors import ManifestInvalid, UpstreamNotFound
from mirror.oci import manifest as manifests
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.offline.image_set import Platform
from mirror.offline.plan import PlannedBlob, PlannedManifest
from mirror.offline.source import ImageSource

DEPTH_LIMIT = 3  # indexes within indexes
MANIFESTS_LIMIT = 2_000  # of one image
_SIZE_LIMIT = 2**50  # bytes of a blob: beyond any disk, within what a plan can say
_PARSED_AT_ONCE = 64 * 1024  # bytes of a manifest that the loop parses itself

_SAME = {("arm64", "v8"): "", ("arm", ""): "v7"}  # variants that mean one thing (containerd, platforms, Normalize)
# What build tools put beside the images of an index, and which child of it that is about (BuildKit, attestation
# storage).
_TYPE, _ATTESTATION = "vnd.docker.reference.type", "attestation-manifest"
_ABOUT = "vnd.docker.reference.digest"
_NOWHERE = ("unknown", "unknown")  # the platform of what nobody runs


class PlatformAbsent(UpstreamNotFound):
    """An index that has nothing for the platforms that were asked for."""


@dataclass(frozen=True, slots=True)
class Child:
    """A manifest that an index lists. `platform` is (os, architecture, variant), None where the index says nothing."""

    descriptor: Descriptor
    platform: tuple[str, str, str] | None = None
    about: str = ""
    artifact_type: str = ""
    is_attestation: bool = False

    def runs_on(self, platform: Platform) -> bool:
        """Tell whether this is for `platform`; a platform without a variant takes them all."""
        if self.platform is None:
            return False
        system, architecture, variant = self.platform
        if (system, architecture) != (platform.os, platform.architecture):
            return False
        return not platform.variant or _variant(architecture, variant) == _variant(architecture, platform.variant)


@dataclass(frozen=True, slots=True)
class Closure:
    """An image whole. The first of `manifests` is the image's own; `children` are those of it that are planned.

    `top` is the image's own manifest as parsed. `warnings` are sentences; `left_out` are those about what is not there.
    """

    top: Manifest
    children: tuple[Child, ...]
    manifests: tuple[PlannedManifest, ...]
    blobs: tuple[PlannedBlob, ...]
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest:
        """The image's digest."""
        return self.manifests[0].digest

    @property
    def subject(self) -> Digest | None:
        """What the image refers to."""
        return self.manifests[0].subject

    def lists_referrers_of(self, subject: Digest) -> bool:
        """Tell whether the index that this is lists what refers to `subject`, and not the parts of an image."""
        if self.digest == subject or self.top.media_type not in media_types.INDEXES:
            return False
        referring = any(manifest.subject == subject for manifest in self.manifests[1:])
        return referring or not self.children or any(child.artifact_type for child in self.children)


@dataclass(slots=True)
class _Walk:
    """A closure in the making."""

    target: Target
    platforms: Collection[Platform]
    is_list: bool
    manifests: dict[Digest, PlannedManifest] = field(default_factory=dict)
    blobs: dict[Digest, PlannedBlob] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class Closures:
    """Reads closures from `source`. Digests and media types that images share are held once."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._digests: dict[Digest, Digest] = {}

    async def read(
        self, target: Target, digest: Digest, platforms: Collection[Platform] = (), *, is_list: bool = False
    ) -> Closure:
        """Return the closure of an image: with `platforms` only those children of its indexes, else all.

        An attestation that upstream has not got is left out; of an index that `is_list` of referrers, any child is.
        Raises PlatformAbsent where an index has none of `platforms`; ManifestInvalid for what cannot be kept (schema 1,
        indexes nested too deep, sizes that contradict); NotHere, UpstreamError.
        """
        walk = _Walk(target, platforms, is_list)
        top, children = await self._visit(walk, digest, None, 1)
        return Closure(
            top,
            tuple(children),
            tuple(walk.manifests.values()),
            tuple(walk.blobs.values()),
            tuple(dict.fromkeys(walk.warnings)),
            tuple(dict.fromkeys(walk.left_out)),
        )

    async def manifest(self, target: Target, digest: Digest, size: int | None = None) -> tuple[Manifest, int, bytes]:
        """Return a manifest as parsed, its size in bytes and its bytes. `size` is what an index says of it.

        Raises ManifestInvalid, NotHere, UpstreamError.
        """
        answer = await self._source.manifest(target, digest)
        body = answer.body
        if body is None or len(body) != answer.size or (size is not None and size != answer.size):
            raise ManifestInvalid(f"the manifest {target.name}@{digest} does not have the size that is stated for it")
        parsed = await _parsed(body, answer.media_type)
        if parsed.media_type in media_types.SCHEMA1:
            raise ManifestInvalid(
                f"{target.name}@{digest} is a schema 1 manifest, which cannot be kept",
                "its publisher has to push it again with a current tool",
            )
        return parsed, answer.size, body

    async def _visit(
        self, walk: _Walk, digest: Digest, listed: Descriptor | None, depth: int
    ) -> tuple[Manifest, list[Child]]:
        """Add the manifest `digest` and what is below it to `walk`."""
        if depth > DEPTH_LIMIT + 1:
            raise ManifestInvalid(f"{walk.target.name}@{digest} is in an index nested deeper than {DEPTH_LIMIT}")
        if len(walk.manifests) >= MANIFESTS_LIMIT:
            raise ManifestInvalid(f"the image has more than {MANIFESTS_LIMIT} manifests")
        parsed, size, body = await self.manifest(walk.target, digest, listed.size if listed else None)
        children = list(_children(parsed, body)) if parsed.children else []
        chosen = _chosen(children, walk.platforms)
        if depth == 1 and walk.platforms and children:
            _compare(walk, digest, chosen)
        blobs = list(self._blobs(walk, digest, parsed))
        planned = PlannedManifest(
            walk.target.name,
            self._one(digest),
            sys.intern(parsed.media_type),
            size,
            (),
            tuple(dict.fromkeys(blobs)),
            self._one(parsed.subject.digest) if parsed.subject else None,
        )
        walk.manifests[digest] = planned  # before its children: the first is the image's own
        kept = [child for child in chosen if await self._add(walk, digest, child, depth + 1)]
        named = dict.fromkeys(self._one(child.descriptor.digest) for child in kept)
        walk.manifests[digest] = replace(planned, manifests=tuple(named))
        return parsed, kept

    async def _add(self, walk: _Walk, index: Digest, child: Child, depth: int) -> bool:
        """Add a child of `index` to `walk`; say whether it is there: an attestation that upstream has lost need not be.

        Jobs that delete what has no tag take attestations and referrers out of registries; the image runs without.
        """
        digest = child.descriptor.digest
        if digest in walk.manifests:
            return True
        try:
            await self._visit(walk, digest, child.descriptor, depth)
        except UpstreamNotFound:
            is_optional = child.is_attestation or (walk.is_list and depth == 2)
            if not is_optional or digest in walk.manifests:
                raise
            noun = "attestation" if child.is_attestation else "referrer"
            what = f"the {noun} {digest} of {child.about}" if child.about else f"the {noun} {digest}"
            walk.left_out.append(f"{walk.target.name}@{index}: {what} is gone from upstream, and left out")
            return False
        return True

    def _blobs(self, walk: _Walk, digest: Digest, parsed: Manifest) -> Iterator[Digest]:
        for blob in parsed.blobs:
            if blob.foreign:
                walk.warnings.append(
                    f"{walk.target.name}@{digest}: layer {blob.digest} may only be fetched from its publisher, and"
                    " is left out; nodes behind the gap cannot run this image"
                )
                continue
            one = self._one(blob.digest)
            known = walk.blobs.setdefault(one, PlannedBlob(one, sys.intern(blob.media_type), blob.size))
            if known.size != blob.size or blob.size > _SIZE_LIMIT:
                raise ManifestInvalid(f"{walk.target.name}@{digest} names {blob.digest} with an impossible size")
            yield one

    def _one(self, digest: Digest) -> Digest:
        """Return the same object for equal digests: thousands of images share their base layers."""
        return self._digests.setdefault(digest, digest)


async def _parsed(body: bytes, media_type: str) -> Manifest:
    if len(body) <= _PARSED_AT_ONCE:
        return manifests.parse(body, media_type)
    return await asyncio.to_thread(manifests.parse, body, media_type)


def _children(parsed: Manifest, body: bytes) -> Iterator[Child]:
    """Yield the children of an index that `parsed` was made of, with what it says of their platforms."""
    for descriptor, entry in zip(parsed.children, json.loads(body)["manifests"], strict=True):
        annotations = entry.get("annotations")
        said = annotations if isinstance(annotations, dict) else {}
        about, kind = said.get(_ABOUT, ""), said.get(_TYPE, "")
        platform = _platform(entry.get("platform"))
        artifact_type = str(entry.get("artifactType", ""))
        is_attestation = platform[:2] == _NOWHERE if platform is not None else kind == _ATTESTATION
        yield Child(descriptor, platform, str(about), artifact_type, is_attestation)


def _platform(value: Any) -> tuple[str, str, str] | None:
    if not isinstance(value, dict) or not value.get("architecture"):
        return None
    return (str(value.get("os", "linux")), str(value["architecture"]), str(value.get("variant", "")))


def _variant(architecture: str, variant: str) -> str:
    return _SAME.get((architecture, variant), variant)


def _chosen(children: list[Child], platforms: Collection[Platform]) -> list[Child]:
    """Return the children to plan.

    What has no platform (indexes, artifacts) may be for any; attestations go with the child that they are about.
    """
    if not platforms:
        return children
    kept = {
        child.descriptor.digest
        for child in children
        if child.platform is None or any(child.runs_on(platform) for platform in platforms)
    }
    named = {str(digest) for digest in kept}
    return [child for child in children if child.descriptor.digest in kept or child.about in named]


def _compare(walk: _Walk, digest: Digest, chosen: list[Child]) -> None:
    """Raise PlatformAbsent where an image's index has nothing that was asked for, warn where it lacks a part."""
    if any(child.platform is None for child in chosen):
        return
    absent = _listed(one for one in walk.platforms if not any(child.runs_on(one) for child in chosen))
    if not chosen:
        raise PlatformAbsent(
            f"{walk.target.name}@{digest} has nothing for {absent}", "ask for a platform that the image has"
        )
    if absent:
        walk.warnings.append(f"{walk.target.name}@{digest} has nothing for {absent}")


def _listed(platforms: Iterable[Platform]) -> str:
    return ", ".join(sorted(str(platform) for platform in platforms))
