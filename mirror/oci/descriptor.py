"""Descriptors: what a manifest says about the content it names (OCI image-spec, descriptor.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mirror.errors import DigestInvalid, ManifestInvalid
from mirror.oci.digest import Digest

SIZE_LIMIT = 2**53
# Any digest as the specification spells it (image-spec, descriptor.md, Digests), of a length that fits into an error.
_ANY_DIGEST = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):[a-zA-Z0-9=_-]+")
_LONGEST = 256
_KNOWN = ("sha256", "sha512")
_BROKEN = ("md5", "sha1")  # two contents can have one digest: clients that take those are led astray


class AlgorithmUnknown(ManifestInvalid):
    """A descriptor whose `digest` is well formed, and of an algorithm that cannot be checked here."""

    def __init__(self, where: str, digest: str) -> None:
        super().__init__(
            f"{where} has the digest {digest}, of an algorithm that is not known here",
            f"what is to be kept needs digests of {' or '.join(_KNOWN)}: have it pushed with those",
        )
        self.digest = digest


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A digest with its size in bytes and media type; `foreign` if it is fetched from its own urls, not from here."""

    digest: Digest
    size: int
    media_type: str
    foreign: bool = False

    @classmethod
    def parse(cls, value: Any, where: str) -> Descriptor:
        """Return the descriptor that the JSON `value` holds; raise ManifestInvalid naming `where`.

        It is AlgorithmUnknown where only the digest's algorithm is not known.
        """
        if not isinstance(value, dict):
            raise ManifestInvalid(f"{where} is not a descriptor")
        size = value.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= SIZE_LIMIT:
            raise ManifestInvalid(f"{where} has no valid size")
        media_type = value.get("mediaType", "")
        if not isinstance(media_type, str):
            raise ManifestInvalid(f"{where} has no valid mediaType")
        text = str(value.get("digest"))
        try:
            digest = Digest.parse(text)
        except DigestInvalid as error:
            spelled = _ANY_DIGEST.fullmatch(text) if len(text) <= _LONGEST else None
            if spelled is not None and spelled[1] not in (*_KNOWN, *_BROKEN):
                raise AlgorithmUnknown(where, text) from error
            raise ManifestInvalid(f"{where} has no valid digest") from error
        return cls(digest, size, media_type, bool(value.get("urls")))
