"""Descriptors: what a manifest says about the content it names (OCI image-spec, descriptor.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mirror.errors import DigestInvalid, ManifestInvalid
from mirror.oci.digest import Digest

SIZE_LIMIT = 2**53


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A digest with its size in bytes and media type; `foreign` if it is fetched from its own urls, not from here."""

    digest: Digest
    size: int
    media_type: str
    foreign: bool = False

    @classmethod
    def parse(cls, value: Any, where: str) -> Descriptor:
        """Return the descriptor that the JSON `value` holds; raise ManifestInvalid naming `where`."""
        if not isinstance(value, dict):
            raise ManifestInvalid(f"{where} is not a descriptor")
        size = value.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= SIZE_LIMIT:
            raise ManifestInvalid(f"{where} has no valid size")
        media_type = value.get("mediaType", "")
        if not isinstance(media_type, str):
            raise ManifestInvalid(f"{where} has no valid mediaType")
        try:
            digest = Digest.parse(str(value.get("digest")))
        except DigestInvalid as error:
            raise ManifestInvalid(f"{where} has no valid digest") from error
        return cls(digest, size, media_type, bool(value.get("urls")))
