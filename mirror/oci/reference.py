"""Repository names, tags and references: one ASCII grammar (OCI distribution-spec, Pulling manifests)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mirror.errors import NameInvalid, TagInvalid
from mirror.oci.digest import Digest

# Clients cap host + "/" + name at this many characters (distribution-spec, Pulling manifests).
NAME_LIMIT = 255
TAG_LIMIT = 128
TAG_CHARACTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"  # the first is none of . and -

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_SET = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
# What cosign keeps beside an image under a tag, by the suffix of that tag (cosign, specs/SIGNATURE_SPEC.md).
COSIGN_SUFFIXES: Mapping[str, str] = {"sig": "signature", "att": "attestation", "sbom": "SBOM"}
_SIGNATURE_TAG = re.compile(rf"sha(?:256-[0-9a-f]{{64}}|512-[0-9a-f]{{128}})\.(?:{'|'.join(COSIGN_SUFFIXES)})")


def check_name(text: str) -> str:
    """Return `text` if it is a repository name; raise NameInvalid."""
    if len(text) > NAME_LIMIT:
        raise NameInvalid(f"the name '{text[:60]}…' has more than {NAME_LIMIT} characters")
    if _NAME.fullmatch(text) is None:
        raise NameInvalid(
            f"'{text[:160]}' is not a repository name", "use lower-case letters, digits and . _ - between slashes"
        )
    return text


def is_name(text: str) -> bool:
    """Tell whether `text` is a repository name."""
    return len(text) <= NAME_LIMIT and _NAME.fullmatch(text) is not None


def check_tag(text: str) -> str:
    """Return `text` if it is a tag; raise TagInvalid."""
    if _TAG.fullmatch(text) is None:
        raise TagInvalid(f"'{text[:160]}' is not a tag")
    return text


def is_tag(text: str) -> bool:
    """Tell whether `text` is a tag."""
    return _TAG.fullmatch(text) is not None


def check_set(text: str) -> str:
    """Return `text` if it may name an image set: it becomes part of file names; raise NameInvalid."""
    if _SET.fullmatch(text) is None:
        raise NameInvalid(
            f"'{text[:80]}' cannot name a set",
            "use letters, digits and . _ - in at most 63 characters, e.g. --set prod",
        )
    return text


def parse_reference(text: str) -> Digest | str:
    """Return the Digest or the tag that `text` spells; a colon means a digest. Raise DigestInvalid, TagInvalid."""
    return Digest.parse(text) if ":" in text else check_tag(text)


def is_signature_tag(tag: str) -> bool:
    """Tell whether `tag` is where cosign keeps the signatures, attestations or SBOM of a digest."""
    return _SIGNATURE_TAG.fullmatch(tag) is not None


def signature_tag(digest: Digest, suffix: str = "sig") -> str:
    """Return the tag under which cosign keeps what belongs to a digest; `suffix` is one of COSIGN_SUFFIXES."""
    return f"{fallback_tag(digest)}.{suffix}"


def fallback_tag(digest: Digest) -> str:
    """Return the tag that lists a digest's referrers without the API (distribution-spec, Referrers Tag Schema)."""
    return f"{digest.algorithm[:32]}-{digest.hex[:64]}"
