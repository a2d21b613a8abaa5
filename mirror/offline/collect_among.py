"""Releases among the images that were asked for by name: each must be signed, and is planned as what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mirror.config.values import count_text
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.oci.semver import is_version
from mirror.offline.closure import Closure
from mirror.offline.collect_release import Asked, Opened, Releases, Signed
from mirror.offline.each import each
from mirror.offline.payload import Payload
from mirror.offline.release_image import RELEASES, Configuration, is_architecture
from mirror.offline.wanted import FAILED, Troubles, Wanted

Read = tuple[Wanted, Closure]


@dataclass(slots=True)
class Among:
    """Images with those made releases that are; these opened; signatures of what is signed and cannot be opened."""

    images: list[Read] = field(default_factory=list)
    opened: list[Opened] = field(default_factory=list)
    signatures: dict[Digest, Sequence[tuple[int, bytes]]] = field(default_factory=dict)


async def releases_among(images: Sequence[Read], releases: Releases, troubles: Troubles, parallel: int) -> Among:
    """Return what releases are among `images`; one whose signatures cannot be had now is left out and noted.

    Of such a release that one image was asked for, and nothing is added to it. Raises what verifying a release raises.
    """
    found = Among()
    asked_for = {wanted.digest for wanted, _ in images}

    async def look(one: Read) -> Read | None:
        wanted, closure = one
        if wanted.kind != "image":
            return one
        try:
            said = await releases.look(wanted, closure)
        except FAILED:
            return one  # whoever fetches it says what cannot be had of it
        if said is None:
            return one
        asked = Asked(Pullspec.parse(wanted.pullspec), wanted.target, wanted.digest, why="asked for as an image")
        try:
            signed = await releases.signed(asked)
        except FAILED as error:
            troubles.add(wanted.pullspec, error)
            return None
        opened: Opened | None
        try:
            opened = await releases.open(asked, signed)
        except FAILED as error:
            opened = _labelled(asked, signed, said, is_list=len(closure.children) > 1)
            kind = "a release without a payload" if opened else "an image that is not a release"
            troubles.warnings.add(f"{wanted.pullspec} is taken as {kind}: {error.what}")
        if opened is None:
            found.signatures[wanted.digest] = signed[0]
            return one
        found.opened.append(opened)
        absent = set(opened.payload.digests) - asked_for
        if absent and wanted.source != RELEASES:  # of those the image set's reader has said it
            troubles.warnings.add(
                f"{wanted.pullspec} is {opened.label}, and not all of its components were asked for"
                f" ({count_text(len(absent), 'component')} left out): name it under `mirror.platform.release`"
                " of an ImageSetConfiguration for all that it needs"
            )
        return _as_release(wanted, opened), closure

    found.images = [one for one in await each(look, images, parallel) if one is not None]
    found.images.sort(key=lambda one: one[0].rank)
    return found


def _labelled(asked: Asked, signed: Signed, said: Configuration, *, is_list: bool) -> Opened | None:
    """Return a release whose payload cannot be read as its label says it is; None where that says nothing."""
    version, architecture = said.release or "", "multi" if is_list else said.architecture
    if not (is_version(version) and is_architecture(architecture)):
        return None
    return Opened(asked, Payload(version, ()), architecture, tuple(signed[0]), tuple(signed[1]))


def _as_release(wanted: Wanted, opened: Opened) -> Wanted:
    return replace(
        wanted,
        kind="release",
        tags=wanted.tags | {opened.tag},
        why=wanted.why | {opened.label},
        scopes=wanted.scopes | frozenset(opened.payload.sigstore_scopes),
    )
