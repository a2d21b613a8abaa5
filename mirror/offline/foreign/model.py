"""What an archive of somebody else's making looks like to whoever loads it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mirror.errors import NotHere
from mirror.oci.digest import Digest
from mirror.offline.foreign.places import Place
from mirror.offline.plan import GraphExcerpt

FormatKind = Literal["oci-layout", "oci-archive", "docker-archive", "dir", "oc-mirror", "distribution"]

MANIFEST_LIMIT = 4 * 1024 * 1024  # bytes of a manifest, an index.json or an image's configuration


class ImageNotFound(NotHere):
    """What `--as` asks for is not in the archive, or the archive does not say which image is meant."""


@dataclass(frozen=True, slots=True, order=True)
class ForeignImage:
    """An image that an archive lists.

    `name` is the repository as the archive spells it (in OCI and docker archives `host/repository`), or empty;
    `media_type` is empty and `size` None where the archive says nothing about them.
    """

    name: str
    digest: Digest
    media_type: str = ""
    size: int | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Accompaniment:
    """What an archive holds beside images: OpenPGP signatures of releases (unverified), parts of the update graph."""

    signatures: Mapping[Digest, tuple[bytes, ...]] = field(default_factory=dict)
    graphs: tuple[GraphExcerpt, ...] = ()


class Foreign(Protocol):
    """An archive, open. Everything blocks; `place` and what it returns may be used from several threads.

    All raise ArchiveInvalid where the archive is damaged.
    """

    @property
    def kind(self) -> FormatKind:
        """The archive's format."""
        ...

    @property
    def label(self) -> str:
        """What the archive is called in what is said about it."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """What whoever loads it should know, as sentences."""
        ...

    def images(self) -> Sequence[ForeignImage]:
        """Return the images that the archive lists, sorted; in a registry's storage all manifests are listed."""
        ...

    def place(self, digest: Digest) -> Place | None:
        """Return where the bytes of a manifest or blob are, None where the archive has none. They are unverified."""
        ...

    def lists(self, name: str, digest: Digest) -> bool:
        """Tell whether the archive says that repository `name` has this manifest, whether or not it holds it."""
        ...

    def source(self, image: ForeignImage) -> str | None:
        """Return the `host/repository` that an image came from, None where that cannot be known for sure."""
        ...

    def is_chosen(self, image: ForeignImage) -> bool:
        """Tell whether whoever made the archive chose the image's path there, so that it is kept under that too."""
        ...

    def is_component(self, image: ForeignImage) -> bool:
        """Tell whether the archive says of an image that it is a component of a release."""
        ...

    def tags(self, image: ForeignImage) -> tuple[str, ...]:
        """Return the tags that the image has at its source, as far as the archive's are not made up."""
        ...

    def beside(self, releases: Collection[Digest]) -> Accompaniment:
        """Return what the archive holds of some releases beside their images."""
        ...

    def close(self) -> None:
        """Close the archive. Safe to call twice."""
        ...
