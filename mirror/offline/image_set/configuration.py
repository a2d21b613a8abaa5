"""oc-mirror's ImageSetConfiguration v2alpha1, read strictly, with everything that is wrong said at once."""

from __future__ import annotations

import re

from mirror.config.document import Document
from mirror.offline.image_set.fields import Fields
from mirror.offline.image_set.model import ImageSet, WantedImage
from mirror.offline.image_set.once import Once
from mirror.offline.image_set.operators import refuse_helm, refuse_operators
from mirror.offline.image_set.platforms import read_platforms
from mirror.offline.image_set.problems import note, quote
from mirror.offline.image_set.pullspecs import MOST_IMAGES, parse_image, release_warnings
from mirror.offline.image_set.regexp import parse_regexp
from mirror.offline.image_set.releases import read_releases
from mirror.offline.image_set.targets import parse_tag, parse_target

_MOST_BLOCKED = 200
_LARGEST_ARCHIVE = 2**20  # GiB
_GIB = 2**30

_KIND = "ImageSetConfiguration"
_GROUP = "mirror.openshift.io/"
_VERSION = f"{_GROUP}v2alpha1"
_DELETIONS = ("DeleteImageSetConfiguration", "DeleteImageList")


def read_configuration(document: Document) -> ImageSet:
    """Return the image set of a YAML file; what is wrong with it is noted in the document's problems."""
    if not _is_image_set(document):
        return ImageSet(document.path)
    top = Fields(document, document.data)
    _check_version(top)
    top.need("mirror", "mirror: {additionalImages: [{name: …}]}")
    mirror = top.section("mirror")
    wanted = read_releases(mirror.section("platform"))
    images = _read_images(mirror)
    refused = refuse_operators(mirror) + refuse_helm(mirror)
    if list(mirror.sections("samples", MOST_IMAGES)):
        mirror.warn("`mirror.samples` does nothing, as with oc-mirror", "samples")
    blocked = _read_blocked(mirror)
    image_set = ImageSet(
        document.path,
        channels=wanted.channels,
        releases=tuple(pullspec for pullspec, _ in wanted.releases),
        architectures=wanted.architectures,
        platforms=wanted.platforms,
        graph=wanted.graph,
        kubevirt=wanted.kubevirt,
        images=images,
        blocked=blocked,
        archive_size=top.whole("archiveSize", _LARGEST_ARCHIVE) * _GIB or None,
        warnings=(*document.warnings, *release_warnings(images)),
        release_wheres=tuple(where for _, where in wanted.releases),
    )
    if not (wanted or images or refused or document.problems):
        top.find("invalid_value", "this image set asks for nothing", "mirror", "name channels, a release or images")
    return image_set


def _is_image_set(document: Document) -> bool:
    """Tell whether the file says that it is an image set, or nothing at all; if not, note that as its only problem."""
    data = document.data
    if not isinstance(data, dict):
        remedy = f"begin with `kind: {_KIND}` and `apiVersion: {_VERSION}`, or list pullspecs, one a line"
        note(document, "wrong_type", "this is not a mapping", 1, remedy)
        return False
    if data.get("kind") in (None, _KIND):
        return True
    kind = document.spots[("kind",)]
    document.problems.clear()
    if kind.text in _DELETIONS:
        note(
            document,
            "wrong_kind",
            f"a {kind.text} says what to delete, and this reads what to mirror",
            kind.line,
            "take what is no longer wanted out of the image set and sync it; `mirror unpin SET@N` then gives the older"
            " generation up, and keeps what another one still needs",
        )
    else:
        what = f"{quote(kind.text)} is not a kind of image set" if kind.text else "`kind` is not text"
        note(document, "wrong_kind", what, kind.line, f"write `kind: {_KIND}`")
    return False


def _check_version(top: Fields) -> None:
    top.need("kind", f"kind: {_KIND}")
    top.need("apiVersion", f"apiVersion: {_VERSION}")
    version = top.text("apiVersion")
    remedy = f"write `apiVersion: {_VERSION}`"
    if version.startswith(f"{_GROUP}v1"):
        remedy += (
            "; `storageConfig` goes, `mirror.ocp` is now `mirror.platform`, and each other key that changed is listed"
            " with its line"
        )
        top.find("wrong_version", f"{quote(version)} is of oc-mirror v1", "apiVersion", remedy)
    elif version and version != _VERSION:
        top.find("wrong_version", f"{quote(version)} is not known here", "apiVersion", remedy)


def _read_images(mirror: Fields) -> tuple[WantedImage, ...]:
    found: list[WantedImage] = []
    once = Once()
    for one in mirror.sections("additionalImages", MOST_IMAGES):
        one.need("name", "name: registry.example/repository:tag")
        pullspec = one.parse("name", parse_image)
        repository = one.parse("targetRepo", parse_target) or ""
        tag = one.parse("targetTag", parse_tag) or ""
        platforms = read_platforms(one)
        if pullspec is None:
            continue
        # What oc-mirror would push it as: two images cannot have one name.
        name = (pullspec.host, repository or pullspec.repository, tag or pullspec.tag or str(pullspec.digest))
        said = (pullspec, frozenset(platforms))
        what = f"the name that {quote(str(pullspec))} would have"
        if once.is_new(one, name, said, what, "leave one of them out, or give one another targetTag"):
            found.append(WantedImage(pullspec, repository, tag, platforms, one.where("name")))
    return tuple(found)


def _read_blocked(mirror: Fields) -> tuple[re.Pattern[str], ...]:
    found: list[re.Pattern[str]] = []
    once = Once()
    for one in mirror.sections("blockedImages", _MOST_BLOCKED):
        one.need("name", 'name: "registry.example/secret/.*"')
        pattern = one.parse("name", parse_regexp)
        if pattern is not None and once.is_new(one, pattern.pattern, "", quote(pattern.pattern)):
            found.append(pattern)
    return tuple(found)
