"""Manifests as they come over the wire: checked, and read for what they name. Bytes are never rewritten."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from mirror.errors import ManifestInvalid
from mirror.oci import media_types, strict_json
from mirror.oci.descriptor import AlgorithmUnknown, Descriptor
from mirror.oci.digest import Digest

CHILDREN_LIMIT = 10_000
MANIFEST_LIMIT = 256 * 1024 * 1024  # bytes; the most that limits.manifest may say, so nothing that was kept has more


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest is and what it names; `unknown` are digests in it that cannot be checked here."""

    media_type: str
    children: tuple[Descriptor, ...]  # manifests of an index
    blobs: tuple[Descriptor, ...]  # config and layers
    subject: Descriptor | None = None
    unknown: tuple[str, ...] = ()

    @property
    def named(self) -> tuple[Descriptor, ...]:
        """Everything that pulling this manifest may ask of the same repository."""
        return self.children + self.blobs


def parse(body: bytes, content_type: str, *, passing: bool = False) -> Manifest:
    """Return what `body`, sent with `content_type`, is; raise ManifestInvalid.

    One that names a digest of an unknown algorithm is refused, too, unless it is only `passing` through.

    The media type is the body's own `mediaType` where it has one, and must then agree with `content_type`: bytes
    that two readers can take for two different things are refused (CVE-2021-41190).
    """
    declared = media_types.bare(content_type)
    try:
        document = strict_json.loads(body)
    except ValueError as error:
        raise ManifestInvalid(f"the manifest is not valid JSON ({error})") from error
    if not isinstance(document, dict):
        raise ManifestInvalid("the manifest is not a JSON object")
    if declared in media_types.SCHEMA1 or document.get("schemaVersion") == 1:
        return Manifest(declared or media_types.DOCKER_SCHEMA1_SIGNED, (), _schema1_layers(document))
    media_type = _media_type(document, declared)
    # The retired artifact manifests are the only ones without a schemaVersion.
    if document.get("schemaVersion") != 2 and media_type not in media_types.ARTIFACTS:
        raise ManifestInvalid("the manifest's schemaVersion is not 2")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise ManifestInvalid("the manifest is an index and an image at once")
    read = _Descriptors(document, passing=passing)
    children, subject = read.several("manifests"), read.one("subject")
    blobs = read.one("config") + read.several("layers") + read.several("blobs")
    return Manifest(media_type, children, blobs, subject[0] if subject else None, tuple(read.unknown))


def _media_type(document: dict[str, Any], declared: str) -> str:
    own = document.get("mediaType", "")
    if not isinstance(own, str):
        raise ManifestInvalid("the manifest's mediaType is not a string")
    if own:
        if declared in media_types.MANIFESTS and own != declared:
            raise ManifestInvalid(f"the manifest says it is {own[:80]} and was sent as {declared}")
        return own
    if declared in media_types.MANIFESTS:
        return declared
    # Some registries send untyped manifests with a generic Content-Type (registry.access.redhat.com has).
    if "manifests" in document:
        return media_types.OCI_INDEX
    if "config" in document:
        return media_types.OCI_MANIFEST
    raise ManifestInvalid("this JSON is no manifest")


class _Descriptors:
    """The descriptors of a manifest; of an `unknown` algorithm they are left out, or refused unless it is `passing`."""

    def __init__(self, document: dict[str, Any], *, passing: bool) -> None:
        self.unknown: list[str] = []
        self._document = document
        self._passing = passing

    def one(self, key: str) -> tuple[Descriptor, ...]:
        """Return the descriptor under `key`, if there is one."""
        value = self._document.get(key)
        return () if value is None else self._parse(value, key)

    def several(self, key: str) -> tuple[Descriptor, ...]:
        """Return the list under `key`."""
        listed = self._document.get(key)
        if listed is None:
            return ()
        if not isinstance(listed, list):
            raise ManifestInvalid(f"the manifest's {key} is not a list")
        if len(listed) > CHILDREN_LIMIT:
            raise ManifestInvalid(f"the manifest's {key} has more than {CHILDREN_LIMIT} entries")
        return tuple(one for place, entry in enumerate(listed) for one in self._parse(entry, f"{key}[{place}]"))

    def _parse(self, value: Any, where: str) -> tuple[Descriptor, ...]:
        try:
            return (Descriptor.parse(value, where),)
        except AlgorithmUnknown as error:
            if not self._passing:
                raise
            self.unknown.append(error.digest)
            return ()


def _schema1_layers(document: dict[str, Any]) -> tuple[Descriptor, ...]:
    """Schema 1 gives no sizes, so its layers are named with size 0 and never used to predict one."""
    layers = document.get("fsLayers")
    if not isinstance(layers, list):
        raise ManifestInvalid("the schema 1 manifest lists no fsLayers")
    found = []
    for position, layer in enumerate(layers[:CHILDREN_LIMIT]):
        blob = layer.get("blobSum") if isinstance(layer, dict) else None
        found.append(Descriptor.parse({"digest": blob, "size": 0}, f"fsLayers[{position}]"))
    return tuple(found)


def schema1_payload(body: bytes) -> bytes:
    """Return the signed payload of a schema 1 manifest, whose digest is the manifest's; raise ManifestInvalid.

    The JWS `protected` header holds how much of the body is payload and the tail that closes it
    (distribution's libtrust form).
    """
    try:
        signatures = strict_json.loads(body)["signatures"]
        protected = json.loads(_unpad(signatures[0]["protected"]))
        return body[: int(protected["formatLength"])] + _unpad(protected["formatTail"])
    except (ValueError, LookupError, TypeError, binascii.Error) as error:
        raise ManifestInvalid("the schema 1 manifest carries no valid signature block") from error


def _unpad(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def matches(body: bytes, media_type: str, digest: Digest) -> bool:
    """Tell whether `digest` is that of `body`, or, for a signed schema 1 manifest, of its payload."""
    if Digest.of(body, digest.algorithm) == digest:
        return True
    if media_type not in media_types.SCHEMA1:
        return False
    return Digest.of(schema1_payload(body), digest.algorithm) == digest
