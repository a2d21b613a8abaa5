"""What would come out of a foreign archive: which images under which names, and what is missing of them.

Nothing is written yet: a plan is made of it first, which pins what is brought.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from mirror.config.values import count_text
from mirror.errors import Denied, InvalidRequest, ManifestInvalid, NameInvalid, NameUnknown
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.oci.reference import check_name, is_signature_tag, signature_tag
from mirror.offline.foreign.closure import Closure, Closures, Has, Here
from mirror.offline.foreign.model import Foreign, ForeignImage, ImageNotFound
from mirror.offline.foreign.releases import Releases
from mirror.offline.plan import (
    FROM_ARCHIVE,
    GraphExcerpt,
    Image,
    Kind,
    Plan,
    PlannedBlob,
    PlannedManifest,
    Release,
    Signature,
)
from mirror.offline.release_image import Open
from mirror.offline.source import Lacking
from mirror.offline.tar import ArchiveInvalid

Name = Callable[[Pullspec], str]

_SHOWN = 8
_NOWHERE = "nothing in the archive says where it came from"
_NO_NAME = "no name here can spell where it came from"


@dataclass(frozen=True, slots=True)
class Survey:
    """What an archive brings.

    An image that is kept under its own path, because nobody knows where it came from, or because that was chosen for
    it, has its `name` as `source`. One of a registry that no name here can spell (a port) is kept there as well.
    """

    foreign: Foreign
    releases: tuple[Release, ...]
    images: tuple[Image, ...]
    manifests: tuple[PlannedManifest, ...]
    blobs: tuple[PlannedBlob, ...]
    signatures: tuple[Signature, ...]
    graphs: tuple[GraphExcerpt, ...]
    signature_bytes: Mapping[Digest, bytes]  # by their own digest; unverified
    named: Mapping[str, str]  # repository in the archive -> source
    hosted: tuple[str, ...]  # repositories that are kept under their own paths
    missing: Mapping[Digest, str]  # what is neither in the archive nor here -> the first image that needs it
    left_out: tuple[Lacking, ...]  # images that are not whole for want of it, or that have no name: incomplete
    damaged: tuple[Lacking, ...]  # images of which something is there and wrong: unverified
    warnings: tuple[str, ...]

    @property
    def content(self) -> dict[Digest, int]:
        """Every digest of the images, with its size in bytes: manifests and blobs."""
        found = {one.digest: one.size for one in self.manifests}
        found.update((one.digest, one.size) for one in self.blobs)
        return found

    def plan(self, name: str, *, require_signature: bool) -> Plan:
        """Return the plan of set `name`: everything that is whole, and what is lacking."""
        return Plan.build(
            name,
            releases=self.releases,
            images=self.images,
            manifests=self.manifests,
            blobs=self.blobs,
            signatures=self.signatures,
            graphs=self.graphs,
            lacking=[f"{one.what}: {one.why}" for one in (*self.left_out, *self.damaged)],
            require_signature=require_signature,
        )

    def signed(self, signatures: Mapping[Digest, Sequence[bytes]]) -> Survey:
        """Return the same with other signatures of releases, by release, in place of those of the archive."""
        rows, raw = _numbered(signatures)
        return replace(self, signatures=rows, signature_bytes=raw)

    def lacking(self, has: Has) -> dict[Digest, int]:
        """Return what bringing it writes, with sizes in bytes: what is not here yet. For threads only."""
        return {digest: size for digest, size in self.content.items() if not has(digest, size)}

    def needed(self, has: Has) -> int:
        """Return the bytes that bringing it writes. For threads only."""
        return sum(self.lacking(has).values())


@dataclass(slots=True)
class _Wanted:
    """An image to be taken, under a name."""

    image: ForeignImage
    name: str
    source: str
    kind: Kind
    tags: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    """A survey in the making."""

    images: list[Image] = field(default_factory=list)
    manifests: dict[tuple[str, Digest], PlannedManifest] = field(default_factory=dict)
    blobs: set[Digest] = field(default_factory=set)
    named: dict[str, str] = field(default_factory=dict)
    hosted: set[str] = field(default_factory=set)
    missing: dict[Digest, str] = field(default_factory=dict)
    left_out: list[Lacking] = field(default_factory=list)
    damaged: list[Lacking] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def survey(
    foreign: Foreign,
    *,
    as_name: Pullspec | None,
    name: Name,
    here: Here,
    has: Has,
    may_host: Callable[[str], bool] = lambda _: True,
    stored: Open = lambda _: nullcontext(None),
) -> Survey:
    """Return what `foreign` brings: all of it, or with `as_name` the one image of that digest, under that name.

    `name` returns the canonical name of a pullspec's repository (NameUnknown: no upstream has it, and it is kept
    under host/repository); `here` the bytes of a manifest in the store, None where it is not there; `has` whether
    content is there, and `stored` what reads it; `may_host` whether a path may be kept as a hosted repository. Blocks:
    for threads only. Raises ImageNotFound, ArchiveInvalid, and for `as_name` InvalidRequest and Denied where it cannot
    be a repository here.
    """
    closures, found = Closures(foreign, here, has), _Found()
    if as_name is not None:
        wanted = [_chosen(foreign, closures, as_name, name)]
    else:
        wanted = list(_named(foreign, closures, found, name, may_host))
    looking = Releases(foreign, closures, stored)
    for one in wanted:
        closure = closures.read(one.image.name, one.image.digest, one.image.media_type)
        image = _take(one, closure, found)
        if image is not None:
            looking.look(image, closure)
    there = {digest for _, digest in found.manifests}
    settled = looking.settle(found.images, lambda digest: digest in there or here(digest) is not None)
    found.warnings += settled.warnings
    if as_name is not None and any(not image.tags for image in settled.images):
        found.warnings.append(f"{as_name.source} gets no tag: it is pulled by its digest alone")
    beside = foreign.beside(settled.digests)
    signatures, raw = _numbered(beside.signatures)
    return Survey(
        foreign,
        settled.releases,
        tuple(_with_signatures(settled.images)),
        tuple(found.manifests.values()),
        tuple(closures.blobs[digest] for digest in sorted(found.blobs)),
        signatures,
        beside.graphs,
        raw,
        found.named,
        tuple(sorted(found.hosted)),
        found.missing,
        tuple(found.left_out),
        tuple(found.damaged),
        (*foreign.warnings, *found.warnings),
    )


def _chosen(foreign: Foreign, closures: Closures, as_name: Pullspec, name: Name) -> _Wanted:
    """Return the image that `as_name` means: by its digest, listed or below an index, or the only one there is."""
    images = foreign.images()
    if as_name.digest is not None:
        found = next((image for image in images if image.digest == as_name.digest), None)
        if found is None and not _is_below(closures, images, as_name.digest):
            raise ImageNotFound(f"{foreign.label} has no image {as_name.digest}", _instead(foreign, as_name, images))
        found = found or ForeignImage("", as_name.digest)
        tags: tuple[str, ...] = (as_name.tag,) if as_name.tag else ()
    else:
        below = _below(images, closures)
        images = [image for image in images if (image.name, image.digest) not in below]
        digests = {image.digest for image in images}
        if len(digests) != 1:
            shown = ", ".join(str(digest) for digest in sorted(digests)[:_SHOWN])
            more = "" if len(digests) <= _SHOWN else f" and {len(digests) - _SHOWN} more"
            raise ImageNotFound(
                f"{foreign.label} has several images: {shown}{more}", f"give --as {as_name.source}@DIGEST"
            )
        found = images[0]
        tags = (as_name.tag,) if as_name.tag else tuple(sorted({tag for image in images for tag in image.tags}))
    return _Wanted(found, _canonical(as_name, name), as_name.source, "image", tags)


def _is_below(closures: Closures, images: Sequence[ForeignImage], digest: Digest) -> bool:
    """Tell whether an index that is listed has `digest` below it."""
    return any(digest in closures.read(image.name, image.digest, image.media_type).manifests for image in images)


def _instead(foreign: Foreign, as_name: Pullspec, images: Sequence[ForeignImage]) -> str:
    shown = ", ".join(sorted({str(image.digest) for image in images})[:_SHOWN]) or "none"
    # Of skopeo's formats only dir keeps every digest: a layout is given manifests of OCI's media types.
    copy = f"`skopeo copy --all --preserve-digests docker://{as_name.source}@{as_name.digest} dir:FOLDER` keeps it"
    made = " (made here: a docker-archive keeps no manifest)" if foreign.kind == "docker-archive" else ""
    return f"it has {shown}{made}; {copy}"


def _canonical(pullspec: Pullspec, name: Name) -> str:
    """Return what a repository is called here; raise InvalidRequest where it can have no name."""
    try:
        return check_name(name(pullspec))
    except NameUnknown:
        return check_name(pullspec.source)


def _named(
    foreign: Foreign, closures: Closures, found: _Found, name: Name, may_host: Callable[[str], bool]
) -> Iterator[_Wanted]:
    """Yield the images of an archive that says what they are called."""
    images = foreign.images()
    below = _below(images, closures)
    for image in images:
        if not image.tags and (image.name, image.digest) in below:
            continue
        source = foreign.source(image)
        shown = f"{source or image.name or foreign.label}@{image.digest}"
        tags = foreign.tags(image)
        kind: Kind = "component" if foreign.is_component(image) else "image"
        remedy = f"name it: --as HOST/REPOSITORY@{image.digest}"
        if source is None and not image.name:
            found.left_out.append(Lacking(shown, "the archive does not say what it is called", remedy))
            continue
        try:
            canonical = _named_here(source, name)
            path = canonical or (Pullspec.parse(source).repository if source else check_name(image.name))
        except (InvalidRequest, Denied) as error:
            found.left_out.append(Lacking(shown, error.what, error.remedy))
            continue
        if canonical is None and not may_host(path):
            why = _NO_NAME if source else _NOWHERE
            found.left_out.append(Lacking(shown, f"{why}, and its path is that of an upstream here", remedy))
            continue
        if canonical is None:
            found.hosted.add(path)
        if source is not None:
            found.named[image.name] = source
        yield _Wanted(image, path, source or path, kind, tags)
        if source is not None and path != image.name and foreign.is_chosen(image):
            if may_host(image.name):
                found.hosted.add(image.name)
                yield _Wanted(image, image.name, image.name, kind, tags)
            else:
                found.warnings.append(
                    f"{shown} is not kept under {image.name} as well, as was asked for: that is an upstream's path here"
                )


def _named_here(source: str | None, name: Name) -> str | None:
    """Return what a repository is called here after its source; None where that is unknown, or no name here spells it.

    Raises Denied.
    """
    if source is None:
        return None
    try:
        return _canonical(Pullspec.parse(source), name)
    except NameInvalid:
        return None


def _below(images: Sequence[ForeignImage], closures: Closures) -> set[tuple[str, Digest]]:
    """Return the (repository, digest) of manifests that an index of their repository names."""
    found: set[tuple[str, Digest]] = set()
    for image in images:
        try:
            node = closures.node(image.digest, image.media_type)
        except (LookupError, ArchiveInvalid, ManifestInvalid):
            continue
        found.update((image.name, child[0]) for child in node.children)
    return found


def _take(wanted: _Wanted, closure: Closure, found: _Found) -> Image | None:
    """Add an image that is whole and return it; say what is wrong with one that is not."""
    shown = f"{wanted.source}@{wanted.image.digest}"
    if closure.damaged:
        digest, why = min(closure.damaged.items())
        more = f", and {len(closure.damaged) - 1} more" if len(closure.damaged) > 1 else ""
        found.damaged.append(Lacking(shown, f"{digest}: {why}{more}", "make the archive again"))
    if closure.missing:
        for digest in sorted(closure.missing):
            found.missing.setdefault(digest, shown)
        digest = min(closure.missing)
        more = f", and {len(closure.missing) - 1} more" if len(closure.missing) > 1 else ""
        found.left_out.append(
            Lacking(
                shown, f"{digest} is neither in the archive nor here{more}", "load the archives before this one too"
            )
        )
    if not closure.whole:
        return None
    if closure.absent:
        kept = ", ".join(closure.architectures) or "some"
        found.warnings.append(
            f"{shown} is an index of which the archive has {kept} only; left out: {count_text(closure.absent, 'image')}"
        )
    if closure.apart:
        found.warnings.append(
            f"{shown}: left out, to be fetched only from the publisher: {count_text(len(closure.apart), 'layer')}"
        )
    manifests = {digest: replace(one, name=wanted.name) for digest, one in closure.manifests.items()}
    top = manifests[wanted.image.digest]
    kind = wanted.kind
    if wanted.tags and all(is_signature_tag(tag) for tag in wanted.tags):
        kind = "signature"
    elif top.subject is not None:
        kind = "referrer"
    image = Image(wanted.name, top.digest, wanted.source, kind, wanted.tags, (FROM_ARCHIVE,), closure.architectures)
    found.images.append(image)
    for digest, one in manifests.items():
        old = found.manifests.get((wanted.name, digest))
        children = one.manifests if old is None else tuple(sorted({*one.manifests, *old.manifests}))
        found.manifests[wanted.name, digest] = replace(one, manifests=children)
    found.blobs |= closure.blobs
    return image


def _with_signatures(images: Sequence[Image]) -> Iterator[Image]:
    """Yield images that say whether a sigstore signature of theirs is among them."""
    tags = {(image.name, tag) for image in images for tag in image.tags if is_signature_tag(tag)}
    for image in images:
        yield replace(image, sigstore="present") if (image.name, signature_tag(image.digest)) in tags else image


def _numbered(
    signatures: Mapping[Digest, Sequence[bytes]],
) -> tuple[tuple[Signature, ...], dict[Digest, bytes]]:
    """Return signatures, by release, as a plan has them, each once; and their bytes, by their own digests."""
    rows: list[Signature] = []
    raw: dict[Digest, bytes] = {}
    for release in sorted(signatures):
        by_digest = {Digest.of(one): one for one in signatures[release]}
        raw |= by_digest
        rows += [
            Signature(release, number, digest, len(one)) for number, (digest, one) in enumerate(by_digest.items(), 1)
        ]
    return tuple(rows), raw
