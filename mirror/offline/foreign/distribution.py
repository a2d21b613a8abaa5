"""A registry's storage as distribution lays it out, in a folder or in the archives of oc-mirror.

    docker/registry/v2/blobs/<alg>/<first two of hex>/<hex>/data
    docker/registry/v2/repositories/<name>/_manifests/revisions/<alg>/<hex>/link
    docker/registry/v2/repositories/<name>/_manifests/tags/<tag>/current/link

What a repository has of layers follows from its manifests, so `_layers` is not read.
"""

from __future__ import annotations

import errno
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from mirror.errors import DigestInvalid, InvalidRequest
from mirror.oci.digest import Digest
from mirror.oci.reference import NAME_LIMIT, check_name, check_tag, fallback_tag, is_signature_tag
from mirror.offline.foreign.model import Accompaniment, ForeignImage
from mirror.offline.foreign.naming import COMPONENTS, COMPONENTS_THERE, Evidence
from mirror.offline.foreign.places import InTar, OnDisk, Place
from mirror.offline.foreign.working_dir import CONFIGURATION, WorkingDir
from mirror.offline.tar import ArchiveInvalid, Tar
from mirror.outside import Outside

TREE = "docker/registry/v2"

_BLOB = re.compile(r"blobs/(sha256|sha512)/[0-9a-f]{2}/([0-9a-f]{64}(?:[0-9a-f]{64})?)/data")
_REVISION = re.compile(r"repositories/(.+)/_manifests/revisions/(sha256|sha512)/([0-9a-f]+)/link")
_TAG = re.compile(r"repositories/(.+)/_manifests/tags/([^/]+)/current/link")
_LINK_LIMIT = 256
_DEPTH_LIMIT = NAME_LIMIT // 2 + 1  # components that a name can have
_ENTRIES_LIMIT = 1_000_000
_SHOWN = 20


class Listing:
    """What a storage says of its repositories: their manifests and tags."""

    def __init__(self, digests: dict[Digest, Digest] | None = None) -> None:
        self.revisions: dict[str, set[Digest]] = defaultdict(set)
        self.tags: dict[str, dict[str, Digest]] = defaultdict(dict)
        self.odd: list[str] = []
        self._digests: dict[Digest, Digest] = {} if digests is None else digests

    def one(self, text: str) -> Digest:
        """Return the digest that `text` spells, the same object each time. Raises DigestInvalid."""
        digest = Digest.parse(text)
        return self._digests.setdefault(digest, digest)

    def add(self, path: str, link: Callable[[], bytes]) -> None:
        """Take a file of the tree by its path below it; `link` reads it, and returns nothing where it is not there.

        What has no valid name is noted as odd.
        """
        try:
            if match := _REVISION.fullmatch(path):
                # The storage's own mark of a manifest that was deleted is a link that is gone.
                if said := link():
                    digest = self.one(f"{match[2]}:{match[3]}")
                    if said.strip() != str(digest).encode():
                        raise DigestInvalid(f"'{path[:160]}' names another digest than its path")
                    self.revisions[check_name(match[1])].add(digest)
            elif (match := _TAG.fullmatch(path)) and (said := link()):
                digest = self.one(said.strip().decode("ascii", "replace"))
                self.tags[check_name(match[1])][check_tag(match[2])] = digest
                self.revisions[match[1]].add(digest)
        except InvalidRequest as error:
            if len(self.odd) < _SHOWN:
                self.odd.append(f"left out: {error.what}")

    def add_newer(self, other: Listing) -> None:
        """Take what a newer storage says: it has all repositories, and of a tag it counts."""
        for name, digests in other.revisions.items():
            self.revisions[name] |= digests
        for name, tags in other.tags.items():
            self.tags[name] |= tags
        self.odd = [*self.odd, *other.odd][:_SHOWN]


class Storage:
    """A registry's storage. `find` returns where a blob is; `close` closes what is open."""

    def __init__(
        self,
        kind: Literal["oc-mirror", "distribution"],
        label: str,
        listing: Listing,
        find: Callable[[Digest], Place | None],
        working_dir: WorkingDir,
        close: Callable[[], None],
    ) -> None:
        self.kind = kind
        self.label = label
        self.close = close
        self._listing = listing
        self._find = find
        self._working_dir = working_dir

    @property
    def warnings(self) -> Sequence[str]:
        """Say what was left out because its name is none."""
        return (*self._listing.odd, *self._working_dir.warnings, *self._working_dir.catalogs.warnings)

    def images(self) -> Sequence[ForeignImage]:
        """Return every manifest of every repository: images, what they consist of, what is attached to them.

        Their tags are those that somebody chose: oc-mirror makes some up for what was asked for by digest, and for
        filtered catalogs, which have the tags of the catalogs here.
        """
        return tuple(_images(self._listing.revisions, self._own_tags))

    def place(self, digest: Digest) -> Place | None:
        """Return where a blob is."""
        return self._find(digest)

    def lists(self, name: str, digest: Digest) -> bool:
        """Tell whether repository `name` has this manifest."""
        return digest in self._listing.revisions.get(name, ())

    def source(self, image: ForeignImage) -> str | None:
        """Return where an image came from, as far as the archive says so; nothing is guessed."""
        return self._source(image.name, image.digest, image.tags)

    def is_chosen(self, image: ForeignImage) -> bool:
        """Tell whether whoever made the archive chose the image's path there: targetRepo and targetCatalog."""
        return self._evidence.is_chosen(image.name)

    def is_component(self, image: ForeignImage) -> bool:
        """Tell whether an image is of a repository that has components of releases alone."""
        return image.name == COMPONENTS_THERE or self.source(image) == COMPONENTS

    def tags(self, image: ForeignImage) -> tuple[str, ...]:
        """Return the tags that the image has at its source, and those that an image set chose beside them (targetTag).

        oc-mirror makes one up for each component of a release.
        """
        if self.is_component(image):
            return tuple(tag for tag in image.tags if is_signature_tag(tag))
        return self._tags.get((image.name, image.digest), image.tags)

    def beside(self, releases: Collection[Digest]) -> Accompaniment:
        """Return signatures and the update graph of some releases, as oc-mirror keeps them."""
        return self._working_dir.beside(releases)

    @cached_property
    def _evidence(self) -> Evidence:
        found = Evidence(self._listing.revisions)
        self._working_dir.testify(found)
        return found

    @cached_property
    def _own_tags(self) -> dict[str, dict[str, Digest]]:
        """What was chosen of the tags of each repository."""
        _ = self._evidence  # reads what was asked for of catalogs
        catalogs = self._working_dir.catalogs
        found: dict[str, dict[str, Digest]] = {}
        for name, tags in self._listing.tags.items():
            moved = catalogs.move(name, tags)
            made_up = catalogs.hashes(tags)
            kept = {
                tag: digest
                for tag, digest in tags.items()
                if tag not in made_up and tag not in (fallback_tag(digest), digest.hex)
            }
            settled = {**kept, **moved}
            found[name] = {tag: digest for tag, digest in settled.items() if digest is not None}
        return found

    @cached_property
    def _tags(self) -> dict[tuple[str, Digest], tuple[str, ...]]:
        """The tags of images, with those of their sources where these had to give way to a targetTag."""
        images = self.images()
        sources = {image: self.source(image) or image.name for image in images}
        owners = {(sources[image], tag): image.digest for image in images for tag in image.tags}
        found: dict[tuple[str, Digest], tuple[str, ...]] = {}
        for image in images:
            more = {tag for own in image.tags for tag in self._evidence.tags(image.name, own)}
            kept = {tag for tag in more if owners.setdefault((sources[image], tag), image.digest) == image.digest}
            if kept:
                found[image.name, image.digest] = tuple(sorted({*image.tags, *kept}))
        return found

    def _source(self, name: str, digest: Digest, tags: Collection[str]) -> str | None:
        if tags and all(is_signature_tag(tag) for tag in tags):
            # What is kept beside an image came from where that did.
            subject = Digest.parse(min(tags).partition(".")[0].replace("-", ":"))
            if subject != digest and self.lists(name, subject):
                own = self._own_tags.get(name, {})
                return self._source(name, subject, [tag for tag, tagged in own.items() if tagged == subject])
        return self._evidence.source(name, digest, tags)


def _images(
    revisions: Mapping[str, Collection[Digest]], tags: Mapping[str, Mapping[str, Digest]]
) -> Iterator[ForeignImage]:
    """Yield every manifest of every repository, with its tags."""
    for name in sorted(revisions):
        named: dict[Digest, list[str]] = defaultdict(list)
        for tag, digest in tags.get(name, {}).items():
            named[digest].append(tag)
        for digest in sorted(revisions[name]):
            yield ForeignImage(name, digest, tags=tuple(sorted(named[digest])))


def open_archives(runs: Sequence[Sequence[Tar]]) -> Storage:
    """Read the archives of runs of oc-mirror, those of each in their order; they are closed with the storage.

    Of a tag the latest run counts, whatever the order of `runs`: each says when it was. Raises ArchiveInvalid.
    """
    tars = [tar for run in runs for tar in run]
    digests: dict[Digest, Digest] = {}
    blobs, working_dir = dict[Digest, Place](), WorkingDir()
    listings: list[tuple[str, Listing]] = []
    for run in runs:
        listing, when = Listing(digests), ""
        for tar, member in ((one, member) for one in run for member in one.members()):
            _, found, path = f"/{member.name}".partition(f"/{TREE}/")
            if not found:
                working_dir.add(member.name, InTar(tar, member))
                when = max(when, member.name if member.name.startswith(CONFIGURATION) else "")
            elif match := _BLOB.fullmatch(path):
                digest = listing.one(f"{match[1]}:{match[2]}")
                blobs.setdefault(digest, InTar(tar, member._replace(name=match[2])))
            else:
                listing.add(path, partial(InTar(tar, member).read, _LINK_LIMIT))
        listings.append((when, listing))
    whole = Listing(digests)
    for _, listing in sorted(listings, key=lambda one: one[0]):
        whole.add_newer(listing)

    def close() -> None:
        for tar in tars:
            tar.close()

    label = tars[0].label if len(tars) == 1 else f"{tars[0].label} and {len(tars) - 1} more"
    return Storage("oc-mirror", label, whole, blobs.get, working_dir, close)


def open_tree(folder: Path, outside: Outside) -> Storage:
    """Read a storage whose tree begins at `folder`/docker/registry/v2. Raises ArchiveInvalid."""
    root = folder / TREE
    walk = _Walk(root, outside)
    listing = Listing()
    for path in walk.links("repositories", _DEPTH_LIMIT):
        listing.add(path, partial(walk.read, path))
    working_dir = WorkingDir()
    for file in (*walk.configurations(folder), *walk.files(folder / "working-dir", _DEPTH_LIMIT)):
        working_dir.add(file.path.relative_to(folder).as_posix(), file)

    def find(digest: Digest) -> Place | None:
        return OnDisk.find(outside, root / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex / "data")

    return Storage("distribution", str(folder), listing, find, working_dir, lambda: None)


class _Walk:
    """Looks through a folder's tree, at most at a million entries."""

    def __init__(self, root: Path, outside: Outside) -> None:
        self._root = root
        self._outside = outside
        self._left = _ENTRIES_LIMIT

    def links(self, at: str, depth: int) -> Iterator[str]:
        """Yield the paths of links of manifests and tags below `at`, whether or not they are there."""
        for name in self._list(self._root / at) or ():
            path = f"{at}/{name}"
            if name == "_manifests":
                for algorithm in self._list(self._root / path / "revisions") or ():
                    revisions = f"{path}/revisions/{algorithm}"
                    yield from (f"{revisions}/{encoded}/link" for encoded in self._list(self._root / revisions) or ())
                yield from (f"{path}/tags/{tag}/current/link" for tag in self._list(self._root / path / "tags") or ())
            elif not name.startswith("_") and depth:
                yield from self.links(path, depth - 1)

    def files(self, at: Path, depth: int) -> Iterator[OnDisk]:
        """Yield the regular files below `at`; links lead out of it and are passed over."""
        for name in self._list(at) or ():
            below = self._list(at / name)
            if below is not None:
                yield from self.files(at / name, depth - 1) if depth else ()
                continue
            with suppress(ArchiveInvalid):
                file = OnDisk.find(self._outside, at / name)
                if file is not None:
                    yield file

    def configurations(self, at: Path) -> Iterator[OnDisk]:
        """Yield the files in the folder `at` that archives of oc-mirror leave there when they are unpacked."""
        for name in self._list(at) or ():
            file = OnDisk.find(self._outside, at / name) if name.startswith(CONFIGURATION) else None
            if file is not None:
                yield file

    def read(self, path: str) -> bytes:
        place = OnDisk.find(self._outside, self._root / path)
        return b"" if place is None else place.read(_LINK_LIMIT)

    def _list(self, folder: Path) -> list[str] | None:
        """Return the names in a folder, None where there is none, or a link to one."""
        try:
            fd = self._outside.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                found = sorted(os.listdir(fd))
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise ArchiveInvalid(f"{folder} cannot be read ({error.strerror})") from error
        self._left -= len(found)
        if self._left < 0:
            raise ArchiveInvalid(f"{self._root} has more than {_ENTRIES_LIMIT} entries")
        return found
