"""Lists of pullspecs, one a line, and the mapping files of `oc image mirror -f` and of oc-mirror's dry run."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mirror.config.document import Document
from mirror.config.values import SpellingError
from mirror.errors import MirrorError
from mirror.oci.pullspec import Pullspec
from mirror.offline.image_set.model import ImageSet, WantedImage
from mirror.offline.image_set.problems import note, plain, quote
from mirror.offline.image_set.pullspecs import MOST_IMAGES, parse_image, release_warnings
from mirror.offline.image_set.targets import parse_tag

_MOST_WORDS = 60_000  # sources and destinations
_DOCKER = "docker://"
# How oc-mirror tags what it was given by digest; the registry API's referrers tag has the same form.
_DIGEST_TAG = re.compile(r"sha(?:256|512)-[0-9a-f]{32,128}")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One source and its destinations, as written, with the line."""

    line: int
    source: str
    destinations: tuple[str, ...] = ()


def read_lines(text: str, document: Document) -> ImageSet:
    """Return the image set of a list of pullspecs or of mappings; what is wrong is noted in the document.

    A line is `IMAGE`, or `SRC=DST` (several), or `SRC DST [DST…]`; what follows a # is a comment. Content keeps its
    name, so of a destination only the tag counts.
    """
    entries = _split(text, document)
    images = _Images(document)
    is_mapping = any(entry.destinations for entry in entries)
    for entry in entries:
        if is_mapping and not entry.destinations:
            what = f"{quote(entry.source)} has no destination, and other lines have one"
            note(document, "invalid_value", what, entry.line, "write SRC=DST, or keep lists and mappings in two files")
        else:
            images.add(entry)
        if len(images.found) > MOST_IMAGES:
            what = f"this is image {MOST_IMAGES + 1}"
            note(document, "too_large", what, entry.line, "split this into several files")
            break
    if not entries and not document.problems:
        remedy = "write an ImageSetConfiguration, or pullspecs, one a line"
        note(document, "invalid_value", "this file names no image", 1, remedy)
    found = tuple(images.found.values())
    return ImageSet(document.path, images=found, warnings=tuple(release_warnings(found)))


def _split(text: str, document: Document) -> list[_Entry]:
    entries: list[_Entry] = []
    count = 0
    for line, content in enumerate(text.split("\n"), 1):
        words = content.partition("#")[0].split()
        count += len(words)
        if count > _MOST_WORDS:
            what = f"more than {_MOST_WORDS} images and destinations are named"
            note(document, "too_large", what, line, "split this into several files")
            break
        if not words:
            continue
        if words[0] == "-":
            note(document, "invalid_value", "a list here has no dashes", line, "write pullspecs, one a line")
        elif not any("=" in word for word in words):
            entries.append(_Entry(line, words[0], tuple(words[1:])))
        elif not all(re.fullmatch(r"[^=]+=[^=]+", word) for word in words):
            what = "SRC=DST stands beside something else, or lacks a side"
            note(document, "invalid_value", what, line, "write SRC=DST without spaces, or SRC DST with one")
        else:
            for word in words:
                source, _, destination = word.partition("=")
                entries.append(_Entry(line, source, (destination,)))
    return entries


class _Images:
    """The images so far, each source once, with the tags of all its destinations."""

    def __init__(self, document: Document) -> None:
        self.found: dict[Pullspec, WantedImage] = {}
        self._document = document
        self._destinations: dict[str, tuple[Pullspec, int]] = {}
        self._tags: dict[tuple[str, str], tuple[Pullspec, int]] = {}

    def add(self, entry: _Entry) -> None:
        """Take a line; note what is wrong with it."""
        try:
            source = parse_image(entry.source)
        except (SpellingError, MirrorError) as error:
            note(self._document, "invalid_value", plain(error.what), entry.line, error.remedy)
            return
        image = self.found.setdefault(source, WantedImage(source, where=f"{self._document.path}:{entry.line}"))
        self._claim(source, source.tag, entry.line)
        tags = list(image.tags)
        for destination in entry.destinations:
            try:
                tag = _tag_of(destination) or source.tag
            except (SpellingError, MirrorError) as error:
                note(self._document, "invalid_value", plain(error.what), entry.line, error.remedy)
                continue
            self._claim_destination(source, destination, tag, entry.line)
            if tag != source.tag and tag not in tags and _DIGEST_TAG.fullmatch(tag) is None:
                self._claim(source, tag, entry.line)
                tags.append(tag)
        self.found[source] = replace(image, tags=tuple(tags))

    def _claim_destination(self, source: Pullspec, destination: str, tag: str, line: int) -> None:
        repository = _without_tag(destination)
        first = self._destinations.setdefault(
            f"{repository}:{tag}" if tag else f"{repository} {source}", (source, line)
        )
        if first[0] != source:
            what = f"{quote(destination)} is the destination of another image in line {first[1]}"
            note(self._document, "duplicate", what, line, "give each destination's tag once")

    def _claim(self, source: Pullspec, tag: str, line: int) -> None:
        """Note a problem where a tag of the source's repository would have to mean two images."""
        if not tag:
            return
        first = self._tags.setdefault((source.source, tag), (source, line))
        if first[0] != source:
            what = f"{source.source}:{tag} would mean this image and the one in line {first[1]}"
            note(self._document, "duplicate", plain(what), line, "content keeps its name here: give one another tag")


def _without_tag(destination: str) -> str:
    host, _, path = destination.removeprefix(_DOCKER).partition("/")
    return f"{host}/{path.partition(':')[0]}"


def _tag_of(destination: str) -> str:
    """Return the tag of a destination, or nothing; raise SpellingError."""
    scheme, colon, _ = destination.partition("://")
    if colon and scheme != "docker":
        raise SpellingError(
            f"{quote(destination)} is not a registry, and images are kept in the store here",
            "leave the destination out; `mirror save` writes what is to be carried",
        )
    rest = destination.removeprefix(_DOCKER)
    if "@" in rest:
        raise SpellingError(f"{quote(destination)} is a destination by digest", "write a tag, or the repository alone")
    path = rest.partition("/")[2]
    repository, colon, tag = path.partition(":")
    if not repository:
        raise SpellingError(f"{quote(destination)} is not a destination", "write registry/repository[:tag]")
    return parse_tag(tag) if colon else ""
