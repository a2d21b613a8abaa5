"""Which images of an archive are releases, whatever these are tagged there, and what each says that it is.

Nothing is believed of it: a plan that calls an image a release is taken only with a signature.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.semver import is_version
from mirror.offline.foreign.closure import Closure, Closures
from mirror.offline.foreign.model import Foreign
from mirror.offline.foreign.places import Read
from mirror.offline.payload import Payload, PayloadInvalid
from mirror.offline.plan import FROM_ARCHIVE, Image, Release
from mirror.offline.release_image import (
    Open,
    Recogniser,
    is_architecture,
    is_published_in,
    release_tag,
    runs,
)
from mirror.offline.tar import ArchiveInvalid

# Bytes of an unpacked top layer that are looked at before anything is written: a release's own begins with what tells.
# The rest is looked at when it is here, where it costs no second way over a slow medium.
NEAR = 1024 * 1024

_TAG = re.compile(r"([0-9]+\.[0-9]+\.[0-9]+(?:[-+.][0-9A-Za-z.+-]+?)?)-(x86_64|aarch64|ppc64le|s390x|multi)")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "multi": "multi"}


@dataclass(frozen=True, slots=True)
class _Found:
    """A release: its version and architecture, empty where nothing says them, and what belongs to it.

    `archived_as` is the tag that says a version, `below` the images of its list, `components` those of its payload.
    """

    version: str
    architecture: str
    archived_as: str
    below: frozenset[Digest]
    components: frozenset[Digest]
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class Settled:
    """Images as a plan has them, the digests of the releases among them, and those of these that say a version."""

    images: list[Image] = field(default_factory=list)
    digests: set[Digest] = field(default_factory=set)
    releases: tuple[Release, ...] = ()
    warnings: list[str] = field(default_factory=list)


class Releases:
    """Looks for releases among images that are whole. `stored` reads what the store has of them. Everything blocks."""

    def __init__(self, foreign: Foreign, closures: Closures, stored: Open) -> None:
        self._foreign = foreign
        self._closures = closures
        self._stored = stored
        self._recogniser = Recogniser(self._open, NEAR)
        self._found: dict[tuple[str, Digest], _Found] = {}

    def look(self, image: Image, closure: Closure) -> None:
        """Find out whether an image is a release, and which."""
        found = self._look(image, closure)
        if found is not None:
            self._found[image.name, image.digest] = found

    def settle(self, images: Sequence[Image], is_there: Callable[[Digest], bool]) -> Settled:
        """Return images with releases, and what belongs to these, made such; `is_there` tells of components.

        A release is tagged as a sync tags it, unless another image of its repository is called that in the archive.
        """
        below = {digest for one in self._found.values() for digest in one.below}
        parts = below.union(*(one.components for one in self._found.values()))
        tagged = {(image.name, tag): image.digest for image in images for tag in image.tags}
        rows: dict[Digest, Release] = {}
        settled = Settled()
        for image in images:
            found = self._found.get((image.name, image.digest))
            # What is in the list of a release is vouched for with it, also where it has a tag of its own.
            if found is None or image.digest in below:
                belongs = image.kind == "image" and image.digest in parts
                settled.images.append(replace(image, kind="component") if belongs else image)
                continue
            settled.digests.add(image.digest)
            settled.warnings += _warnings(image, found, is_there)
            tags = image.tags
            if found.version and found.architecture:
                tag = release_tag(found.version, found.architecture)
                if tagged.setdefault((image.name, tag), image.digest) == image.digest:
                    tags = tuple(sorted({*tags, tag}))
                if image.digest not in rows or is_published_in(image.source):
                    rows[image.digest] = _row(image, found)
            settled.images.append(replace(image, kind="release", tags=tags))
        settled.releases = tuple(rows.values())
        return settled

    def _look(self, image: Image, closure: Closure) -> _Found | None:
        """Return what release an image is; None where it is none, or where what would tell cannot be read."""
        found = {digest: self._closures.manifest(digest, one.media_type) for digest, one in closure.manifests.items()}
        images = [manifest for manifest in found.values() if not manifest.children]
        try:
            releases = [manifest for manifest in images if self._recogniser.is_release(manifest)]
            if not releases and is_published_in(image.source, image.name):
                releases = [manifest for manifest in images if runs(blob.media_type for blob in manifest.blobs)]
            if not releases:
                return None
            is_list = any(len(manifest.children) > 1 for manifest in found.values())
            return self._describe(image, releases, frozenset(found) - {image.digest}, is_list=is_list)
        except ArchiveInvalid:
            return None  # it is damaged, and whoever brings it says so

    def _describe(self, image: Image, releases: list[Manifest], below: frozenset[Digest], *, is_list: bool) -> _Found:
        """Return what a release says of itself: its payload, else its label, else the tag that it has."""
        said = [(self._recogniser.configuration(one), one) for one in releases]
        said.sort(key=lambda one: one[0].architecture != "amd64")
        configuration = said[0][0]
        warnings: list[str] = []
        payload = next(filter(None, (self._payload(one, warnings) for _, one in said)), None)
        tag = next(filter(None, map(_TAG.fullmatch, image.tags)), None)
        version = _first(
            is_version, payload.version if payload else None, configuration.release, tag[1] if tag else None
        )
        architecture = _first(
            is_architecture,
            payload.architecture if payload else None,
            "multi" if is_list else configuration.architecture,
            _ARCHITECTURES[tag[2]] if tag else None,
        )
        if tag and version != tag[1]:
            warnings.append(f"it is archived as {tag[0]}, but says itself that it is {version}")
        return _Found(
            version,
            architecture,
            tag[0] if tag else "",
            below,
            frozenset(payload.digests if payload else ()),
            tuple(warnings),
        )

    def _payload(self, manifest: Manifest, warnings: list[str]) -> Payload | None:
        try:
            return self._recogniser.payload(manifest)
        except PayloadInvalid as error:
            warnings.append(f"its payload cannot be read ({error.what})")
            return None

    @contextmanager
    def _open(self, digest: Digest) -> Iterator[Read | None]:
        with self._stored(digest) as read:
            if read is not None:
                yield read
                return
        place = self._foreign.place(digest)
        if place is None:
            yield None
            return
        with place.open() as read:
            yield read


def _row(image: Image, found: _Found) -> Release:
    why = f"archived as {found.archived_as}" if found.archived_as else FROM_ARCHIVE
    return Release(found.version, found.architecture, image.source, image.digest, why=why)


def _warnings(image: Image, found: _Found, is_there: Callable[[Digest], bool]) -> Iterator[str]:
    shown = f"{image.source}@{image.digest}"
    yield from (f"{shown}: {warning}" for warning in found.warnings)
    if not (found.version and found.architecture):
        yield f"{shown} is a release that does not say which version and architecture it is"
    absent = sum(not is_there(digest) for digest in found.components)
    if absent:
        yield (
            f"{shown}: not all of its components are in the archive or here"
            f" ({absent} of {len(found.components)} missing); no cluster can run it without them"
        )


def _first(good: Callable[[str], bool], *values: str | None) -> str:
    return next((value for value in values if value and good(value)), "")
