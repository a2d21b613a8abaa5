"""Manifests as clients push them: read more strictly than those of upstreams, whose bytes cannot be refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mirror.errors import ManifestInvalid, ManifestRefused
from mirror.oci import manifest, media_types, strict_json
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest

# Layers that their licence keeps from registries (image-spec, layer.md, Non-Distributable Layers): they may lack urls.
_FOREIGN = frozenset(
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    )
)
_TAKEN = media_types.MANIFESTS - media_types.SCHEMA1
_IMAGES = frozenset((media_types.OCI_MANIFEST, media_types.DOCKER_MANIFEST))


@dataclass(frozen=True, slots=True)
class Pushed:
    """A manifest with its bytes and digest; `descriptor` is how a list of referrers names it, None without subject."""

    body: bytes
    digest: Digest
    manifest: Manifest
    descriptor: bytes | None

    @property
    def subject(self) -> Digest | None:
        """The digest that it refers to."""
        return self.manifest.subject.digest if self.manifest.subject is not None else None

    @property
    def needed(self) -> dict[Digest, bool]:
        """All that it names, each with whether that must be here."""
        found: dict[Digest, bool] = {}
        for one in self.manifest.named:
            found[one.digest] = found.get(one.digest, False) or not _is_foreign(one)
        return found


def read(body: bytes, content_type: str, algorithm: str) -> Pushed:
    """Return the manifest that was pushed; raise ManifestRefused. Hashes and parses: for threads where it is large."""
    try:
        found = manifest.parse(body, content_type)
    except ManifestInvalid as error:
        raise ManifestRefused(error.what, "push a manifest of image-spec, or of Docker schema 2") from error
    declared = media_types.bare(content_type)
    if found.media_type in media_types.SCHEMA1:
        raise ManifestRefused(
            "schema 1 manifests are not taken", "push the image with a client that makes schema 2 or OCI manifests"
        )
    if found.media_type not in _TAKEN:
        raise ManifestRefused(f"manifests of type {found.media_type[:80]} are not taken", "use one of image-spec")
    if declared not in ("", found.media_type):
        raise ManifestRefused(
            f"the manifest is {found.media_type} and was sent as {declared[:80]}", "let Content-Type say what it is"
        )
    document: dict[str, Any] = strict_json.loads(body)
    _check_form(document, found)
    digest = Digest.of(body, algorithm)
    return Pushed(body, digest, found, _descriptor(document, found, digest, len(body)) if found.subject else None)


def _check_form(document: dict[str, Any], found: Manifest) -> None:
    """Raise ManifestRefused where the fields are not those of the type: another reader could take it for another."""
    if found.media_type in media_types.INDEXES:
        if not isinstance(document.get("manifests"), list) or found.blobs:
            raise ManifestRefused("an index has a list of manifests, and neither config nor layers")
    elif "manifests" in document:
        raise ManifestRefused(f"a {found.media_type} has no manifests")
    elif found.media_type in _IMAGES and not isinstance(document.get("config"), dict):
        raise ManifestRefused("an image has a config")


def _descriptor(document: dict[str, Any], found: Manifest, digest: Digest, size: int) -> bytes:
    """Return the descriptor for a list of referrers (distribution-spec, Listing Referrers)."""
    descriptor: dict[str, Any] = {"mediaType": found.media_type, "digest": str(digest), "size": size}
    artifact_type = document.get("artifactType")
    if not artifact_type and found.media_type in _IMAGES:
        artifact_type = document["config"].get("mediaType")
    if artifact_type and isinstance(artifact_type, str):
        descriptor["artifactType"] = artifact_type
    annotations = document.get("annotations")
    if isinstance(annotations, dict) and annotations:
        descriptor["annotations"] = {key: value for key, value in annotations.items() if isinstance(value, str)}
    return json.dumps(descriptor, separators=(",", ":")).encode()


def _is_foreign(one: Descriptor) -> bool:
    return one.foreign or one.media_type in _FOREIGN
