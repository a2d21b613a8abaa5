"""What a release signature says: the JSON of an "atomic container signature" (containers/image, docs)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mirror.errors import DigestInvalid
from mirror.oci import strict_json
from mirror.oci.digest import Digest

_TYPE = "atomic container signature"
_INT64 = 1 << 63


class ClaimInvalid(ValueError):
    """What is no claim of this form. The text completes "its claim …"."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The signer says that the image `digest` is `reference`. `timestamp` is Unix time, None where it is not said."""

    digest: Digest
    reference: str
    creator: str
    timestamp: int | None

    @classmethod
    def parse(cls, raw: bytes) -> Claim:
        """Return the claim that `raw` makes; raise ClaimInvalid.

        Strict, as the cluster's own check is (library-go, pkg/verify): no field beyond those of the format, nothing
        after the object, no name twice.
        """
        try:
            found = strict_json.loads(raw)
        except ValueError as error:
            raise ClaimInvalid(f"is not strict JSON ({error})") from None
        critical, optional = _members(found, "critical", "optional")
        kind, image, identity = _members(critical, "type", "image", "identity")
        (digest,) = _members(image, "docker-manifest-digest")
        (reference,) = _members(identity, "docker-reference")
        creator, timestamp = _members(optional if optional is not None else {}, "creator", "timestamp")
        if kind != _TYPE:
            raise ClaimInvalid("is of the wrong type")
        if not isinstance(digest, str) or not isinstance(reference, str) or not reference:
            raise ClaimInvalid("names no image")
        if not isinstance(creator, str | None) or not _is_time(timestamp):
            raise ClaimInvalid("has a creator or a timestamp of the wrong type")
        try:
            return cls(Digest.parse(digest), reference, creator or "", timestamp)
        except DigestInvalid as error:
            raise ClaimInvalid(f"names an invalid digest ({error.what})") from None


def _members(found: Any, *names: str) -> list[Any]:
    """Return the members of these names, None for one that is missing; raise ClaimInvalid where there are others."""
    if not isinstance(found, dict):
        raise ClaimInvalid(f"has no object with {' and '.join(names)}")
    unknown = [name for name in found if name not in names]
    if unknown:
        raise ClaimInvalid(f"has the unknown field {unknown[0][:60]!r}")
    return [found.get(name) for name in names]


def _is_time(value: object) -> bool:
    return value is None or (type(value) is int and abs(value) < _INT64)
