"""Images as image sets, lists and mapping files name them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mirror.config.values import SpellingError, expect_text
from mirror.oci.pullspec import Pullspec
from mirror.offline.image_set.model import WantedImage
from mirror.offline.image_set.problems import quote
from mirror.offline.release_image import COMPONENTS, RELEASES

MOST_IMAGES = 20_000  # in one image set

_TRANSPORT = "docker://"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,30})://")
# containers-transports(5): what names a place on disk.
_ON_DISK = re.compile(r"(?:oci|oci-archive|docker-archive|dir|file|containers-storage|docker-daemon|ostree|sif):")
# A host of 255 characters, a name of 255, a tag of 128, a digest of 135, and what stands between them.
_LONGEST = 800


def parse_image(value: object) -> Pullspec:
    """Return the image that `value` names, with or without docker://; raise SpellingError or InvalidRequest.

    It must say which one: a repository alone is refused.
    """
    text = expect_text(value)
    if len(text) > _LONGEST:
        raise SpellingError(f"{quote(text)} is longer than a pullspec can be", "write host/repository:tag")
    refuse_transport(text)
    if "*" in text:
        raise SpellingError(
            f"{quote(text)} is a pattern: it would mean other images on another day",
            "name each tag; `skopeo list-tags` shows them",
        )
    pullspec = Pullspec.parse(text)
    if not pullspec.tag and pullspec.digest is None:
        raise SpellingError(
            f"{quote(text)} says neither tag nor digest", f"write {pullspec}:TAG or {pullspec}@sha256:…"
        )
    return pullspec


def refuse_transport(text: str) -> None:
    """Raise SpellingError where `text` begins with any transport but docker://."""
    if text.startswith(_TRANSPORT):
        return
    if _ON_DISK.match(text):
        raise SpellingError(
            f"{quote(text)} is on this machine's disk, and what is fetched comes from registries",
            "leave it out, and give its folder or archive to `mirror load PATH --as NAME`",
        )
    scheme = _SCHEME.match(text)
    if scheme is not None:
        # The rest may hold a login.
        raise SpellingError(f"`{scheme[1]}://` is not a transport for images", "write host/repository:tag")


def release_warnings(images: Iterable[WantedImage]) -> list[str]:
    """Return a sentence for each release that is asked for as if it were one image; none where components are too."""
    found = []
    for image in images:
        if image.pullspec.source == COMPONENTS:
            return []
        if image.pullspec.source == RELEASES:
            found.append(
                f"{image.where}: {image.pullspec} is taken as one image, without the components of the release;"
                " name it under `mirror.platform.release` of an ImageSetConfiguration for those"
            )
    return found
