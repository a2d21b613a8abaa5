"""What the other registry answered, as values."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.oci.digest import Digest
from mirror.oci.media_types import SCHEMA1


@dataclass(frozen=True, slots=True)
class ManifestBody:
    """A manifest's bytes as upstream sent them, not verified; `digest` is the Docker-Content-Digest, if any."""

    body: bytes
    media_type: str
    digest: Digest | None
    endpoint: str

    @property
    def named(self) -> Digest | None:
        """What it is named if it was got by tag; None where its bytes are not what upstream calls them.

        A signed schema1 manifest is named by its payload, not by its bytes.
        """
        said = self.digest
        if said is None:
            return Digest.of(self.body)
        return said if self.media_type in SCHEMA1 or Digest.of(self.body, said.algorithm) == said else None


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What HEAD of a manifest says; `size` in bytes.

    `got` is set where HEAD did not serve and the manifest was fetched by GET instead, so that nobody fetches it again.
    """

    digest: Digest | None
    media_type: str
    size: int | None
    endpoint: str
    got: ManifestBody | None = None


@dataclass(frozen=True, slots=True)
class ReferrersBody:
    """An OCI image index of referrers; `filtered` if upstream applied the artifactType."""

    body: bytes
    filtered: bool
