"""The folder of skopeo's `dir:` (containers/image, directory), or a tar of one.

It alone keeps the manifests of docker's media types as they were: skopeo rewrites those for an OCI layout.

    version                 Directory Transport Version: 1.1
    manifest.json           the image's own manifest, or an index
    <hex>.manifest.json     a manifest that the index names
    <hex>                   a blob
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

from mirror.oci.digest import Digest
from mirror.offline.foreign.model import MANIFEST_LIMIT, Accompaniment, ForeignImage
from mirror.offline.foreign.oci_layout import Find
from mirror.offline.foreign.places import InTar, OnDisk, Place
from mirror.offline.tar import ArchiveInvalid, FormatUnsupported, Member, Tar
from mirror.outside import Outside

VERSION, MANIFEST = "version", "manifest.json"

_KNOWN = b"Directory Transport Version: 1."


class SkopeoDir:
    """One image. `find` returns a file by its name. Raises ArchiveInvalid, FormatUnsupported."""

    kind: Literal["dir"] = "dir"
    warnings: Sequence[str] = ()

    def __init__(self, label: str, find: Find, close: Callable[[], None]) -> None:
        self.label = label
        self.close = close
        self._find = find
        version, manifest = find(VERSION), find(MANIFEST)
        if version is None or not version.read(MANIFEST_LIMIT).startswith(_KNOWN):
            raise FormatUnsupported(f"{label} is of an unknown version of the dir format")
        if manifest is None:
            raise ArchiveInvalid(f"{label} has no {MANIFEST}")
        body = manifest.read(MANIFEST_LIMIT)
        self._image = ForeignImage("", Digest.of(body), "", len(body))

    @classmethod
    def in_folder(cls, folder: Path, outside: Outside) -> SkopeoDir:
        """Open a folder."""
        return cls(str(folder), lambda name: OnDisk.find(outside, folder / name), lambda: None)

    @classmethod
    def in_tar(cls, tar: Tar, members: dict[str, Member]) -> SkopeoDir:
        """Read an archive, whose files are `members` by name. It is closed with this."""
        return cls(tar.label, lambda name: InTar(tar, members[name]) if name in members else None, tar.close)

    def images(self) -> Sequence[ForeignImage]:
        """Return the one image."""
        return (self._image,)

    def place(self, digest: Digest) -> Place | None:
        """Return where a manifest or blob is."""
        if digest == self._image.digest:
            return self._find(MANIFEST)
        return self._find(f"{digest.hex}.manifest.json") or self._find(digest.hex)

    def lists(self, name: str, digest: Digest) -> bool:  # noqa: ARG002 - part of what every format answers
        """Tell whether this is the image's digest."""
        return digest == self._image.digest

    def source(self, image: ForeignImage) -> str | None:  # noqa: ARG002
        """Return None: the folder does not say what the image is called."""
        return None

    def is_chosen(self, image: ForeignImage) -> bool:  # noqa: ARG002
        """Return False: an image has the name of its source, or none."""
        return False

    def is_component(self, image: ForeignImage) -> bool:  # noqa: ARG002
        """Return False: nothing is said of what an image belongs to."""
        return False

    def tags(self, image: ForeignImage) -> tuple[str, ...]:
        """Return no tags: the folder keeps none."""
        return image.tags

    def beside(self, releases: Collection[Digest]) -> Accompaniment:  # noqa: ARG002
        """Return that there is nothing beside the image."""
        return Accompaniment()
