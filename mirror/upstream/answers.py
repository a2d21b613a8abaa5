"""What the other registry answered, as values."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What HEAD of a manifest says; `size` in bytes.

    `body` is set where HEAD did not serve and the manifest was fetched by GET instead, so that nobody fetches it again.
    """

    digest: Digest | None
    media_type: str
    size: int | None
    endpoint: str
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class ManifestBody:
    """A manifest's bytes as upstream sent them, not verified; `digest` is the Docker-Content-Digest, if any."""

    body: bytes
    media_type: str
    digest: Digest | None
    endpoint: str


@dataclass(frozen=True, slots=True)
class ReferrersBody:
    """An OCI image index of referrers; `filtered` if upstream applied the artifactType."""

    body: bytes
    filtered: bool
