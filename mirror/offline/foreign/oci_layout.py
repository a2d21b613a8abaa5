"""The OCI image layout (image-spec, image-layout.md): a folder, or a tar of one, which is called an oci-archive.

In the tar blobs come in any order and index.json may be last, so its table of members is read first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from mirror.errors import InvalidRequest, ManifestInvalid
from mirror.oci import strict_json
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.oci.reference import check_tag
from mirror.offline.foreign.model import MANIFEST_LIMIT, Accompaniment, ForeignImage
from mirror.offline.foreign.places import InTar, OnDisk, Place
from mirror.offline.tar import ArchiveInvalid, FormatUnsupported, Member, Tar
from mirror.outside import Outside

MARKER, INDEX = "oci-layout", "index.json"
MANIFESTS_LIMIT = 10_000  # that an index.json lists

_VERSION = "1.0.0"
# Pre-defined annotation keys (image-spec, annotations.md), and what containerd and docker write the whole name to.
_REFERENCE = "org.opencontainers.image.ref.name"
_WHOLE_NAME = "io.containerd.image.name"

Find = Callable[[str], Place | None]


class OciLayout:
    """An OCI layout. `find` returns a file of it by its name."""

    def __init__(
        self, kind: Literal["oci-layout", "oci-archive"], label: str, find: Find, close: Callable[[], None]
    ) -> None:
        self.kind = kind
        self.label = label
        self.warnings: Sequence[str] = ()
        self._find = find
        self.close = close
        marker = self._json(MARKER)
        version = marker.get("imageLayoutVersion") if isinstance(marker, dict) else None
        if version != _VERSION:
            raise FormatUnsupported(f"{label} is an OCI layout of version {str(version)[:20]!a}, not {_VERSION}")
        self._images = _images(self._json(INDEX), label)

    @classmethod
    def in_folder(cls, folder: Path, outside: Outside) -> OciLayout:
        """Open a folder. Raises ArchiveInvalid, FormatUnsupported."""
        return cls("oci-layout", str(folder), lambda name: OnDisk.find(outside, folder / name), lambda: None)

    @classmethod
    def in_tar(cls, tar: Tar, members: dict[str, Member]) -> OciLayout:
        """Read an archive, whose files are `members` by name. It is closed with the layout. Raises as `in_folder`."""

        def find(name: str) -> Place | None:
            return InTar(tar, members[name]) if name in members else None

        return cls("oci-archive", tar.label, find, tar.close)

    def images(self) -> Sequence[ForeignImage]:
        """Return the manifests that index.json lists."""
        return self._images

    def place(self, digest: Digest) -> Place | None:
        """Return where a blob is."""
        return self._find(f"blobs/{digest.algorithm}/{digest.hex}")

    def lists(self, name: str, digest: Digest) -> bool:  # noqa: ARG002 - part of what every format answers
        """Tell whether index.json lists a manifest; it says nothing of what is below those."""
        return any(image.digest == digest for image in self._images)

    def source(self, image: ForeignImage) -> str | None:
        """Return the name that the layout gives an image, where that says the registry too."""
        return image.name or None

    def is_chosen(self, image: ForeignImage) -> bool:  # noqa: ARG002
        """Return False: an image has the name of its source, or none."""
        return False

    def is_component(self, image: ForeignImage) -> bool:  # noqa: ARG002
        """Return False: nothing is said of what an image belongs to."""
        return False

    def tags(self, image: ForeignImage) -> tuple[str, ...]:
        """Return the tags that the layout gives."""
        return image.tags

    def beside(self, releases: Collection[Digest]) -> Accompaniment:  # noqa: ARG002
        """Return that there is nothing beside images."""
        return Accompaniment()

    def _json(self, name: str) -> Any:
        place = self._find(name)
        if place is None:
            raise ArchiveInvalid(f"{self.label} has no {name}")
        try:
            return strict_json.loads(place.read(MANIFEST_LIMIT))
        except ValueError as error:
            raise ArchiveInvalid(f"{name} in {self.label} is damaged ({error})", "copy it again") from None


def _images(index: Any, label: str) -> tuple[ForeignImage, ...]:
    listed = index.get("manifests") if isinstance(index, dict) else None
    if not isinstance(listed, list) or len(listed) > MANIFESTS_LIMIT:
        raise ArchiveInvalid(f"{INDEX} in {label} lists no manifests, or more than {MANIFESTS_LIMIT}")
    found: dict[tuple[str, Digest], ForeignImage] = {}
    for position, entry in enumerate(listed):
        try:
            descriptor = Descriptor.parse(entry, f"manifests[{position}]")
        except ManifestInvalid as error:
            raise ArchiveInvalid(f"{INDEX} in {label}: {error.what}") from None
        name, tag = _named(entry.get("annotations"))
        old = found.get((name, descriptor.digest))
        tags = {*(old.tags if old else ()), *([tag] if tag else ())}
        found[name, descriptor.digest] = ForeignImage(
            name, descriptor.digest, descriptor.media_type, descriptor.size, tuple(sorted(tags))
        )
    return tuple(found[key] for key in sorted(found))


def _named(annotations: Any) -> tuple[str, str]:
    """Return the repository with its host, and the tag, that annotations give; empty where they give none."""
    if not isinstance(annotations, dict):
        return "", ""
    values = [annotations.get(key) for key in (_WHOLE_NAME, _REFERENCE)]
    for value in values:
        name, tag = stated_name(value)
        if name:
            return name, tag
    try:
        return "", check_tag(str(values[1])) if isinstance(values[1], str) else ""
    except InvalidRequest:
        return "", ""


def stated_name(value: Any) -> tuple[str, str]:
    """Return the repository with its host, and the tag, of a name that is whole; empty for every other value."""
    try:
        found = Pullspec.parse(value) if isinstance(value, str) else None
    except InvalidRequest:
        return "", ""
    # `localhost` is what podman calls images that were built here and have no registry.
    if found is None or found.host.partition(":")[0] == "localhost":
        return "", ""
    return found.source, found.tag
