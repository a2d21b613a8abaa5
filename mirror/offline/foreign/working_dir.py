"""What oc-mirror carries beside images: what was asked for, signatures, the update graph, catalogs.

isc_<time>                                        the ImageSetConfiguration
working-dir/cluster-resources/*.yaml              mirror sets of an earlier run
working-dir/dry-run/mapping.txt                   docker://SOURCE=docker://DESTINATION
working-dir/logs/oc-mirror-*.log                  which images were copied, those of charts too
working-dir/operator-catalogs/…/*.{json,yaml}     catalogs, which name images with their hosts and digests
working-dir/operator-catalogs/…/digest            which catalogs were filtered
working-dir/signatures/<tag>-sha256-<hex>         OpenPGP signatures of releases
working-dir/hold-release/cincinnati-graph-data/<arch>-<channel>.json
working-dir/hold-release/<name>/<digest>/release-manifests/image-references
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any

import yaml

from mirror.errors import InvalidRequest, MirrorError
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.oci.reference import check_tag
from mirror.offline import graph
from mirror.offline.foreign.catalogs import Catalogs
from mirror.offline.foreign.model import Accompaniment
from mirror.offline.foreign.naming import COMPONENTS_THERE, RELEASES_THERE, Evidence
from mirror.offline.foreign.places import Place
from mirror.offline.plan import GraphExcerpt
from mirror.store.signatures import SIZE_LIMIT as SIGNATURE_LIMIT

CONFIGURATION = "isc_"

# Which files of working-dir are read, by its folders and the ends of their names.
_READ: dict[str, tuple[str, ...]] = {
    "cluster-resources": (".yaml", ".yml"),
    "dry-run": ("mapping.txt",),
    "logs": (".log",),
    "operator-catalogs": (".json", ".yaml", ".yml"),
    "signatures": ("",),
    "hold-release": (".json", "/image-references"),
}

_FILES_LIMIT = 50_000
_DOCUMENT_LIMIT = 4 * 1024 * 1024  # bytes of a YAML document, which is held as a tree
_MAPPING_LIMIT = 64 * 1024 * 1024
_LOG_LIMIT = 64 * 1024 * 1024
_GRAPH_LIMIT = 64 * 1024 * 1024
_CATALOGS_LIMIT = 8 * 1024 * 1024 * 1024  # bytes of all catalogs, which are only searched
_SIGNATURES_LIMIT = 9  # of one release: clients ask for no more
_EVENTS_LIMIT = 400_000
_NESTING_LIMIT = 32
_STEP = 1024 * 1024
_NAME_LIMIT = 512  # bytes before a digest that may name its image
_NAME_BYTES = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_/:"
_AT = re.compile(rb"@sha256:[0-9a-f]{64}")
_AT_LENGTH = len("@sha256:") + 64

_COPIED = re.compile(rb"Success copying ([^\s]{1,%d}) " % (_NAME_LIMIT + _AT_LENGTH))
_SIGNATURE = re.compile(r"(?:.*-)?sha256-([0-9a-f]{64})(?:\.[^/]*)?")
_GRAPH = re.compile(r"(amd64|arm64|ppc64le|s390x|multi)-([^/]+)\.json")
_SETS = {"ImageDigestMirrorSet": "imageDigestMirrors", "ImageTagMirrorSet": "imageTagMirrors"}


class WorkingDir:
    """The files of an archive that are no registry's storage. None is believed about bytes, only about names."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.catalogs = Catalogs()
        self._files: dict[str, list[tuple[str, Place]]] = defaultdict(list)
        self._count = 0

    def add(self, name: str, place: Place) -> None:
        """Take a file by its name in the archive, if it is one that says something."""
        folder, _, rest = name.removeprefix("working-dir/").partition("/")
        if folder.startswith(CONFIGURATION) and not rest:
            key = "isc"
        elif folder == "operator-catalogs" and rest.endswith("/digest"):
            self.catalogs.add(rest)
            return
        elif name.startswith("working-dir/") and rest.endswith(_READ.get(folder, ())):
            key = folder
        else:
            return
        self._count += 1
        if self._count <= _FILES_LIMIT:
            self._files[key].append((rest or name, place))
        elif self._count == _FILES_LIMIT + 1:
            self.warnings.append(f"only the first {_FILES_LIMIT} files of working-dir that say something were read")

    def testify(self, evidence: Evidence) -> None:
        """Tell `evidence` what these files say of sources."""
        self._each("isc", lambda _, place: _read_configuration(place, evidence, self.catalogs))
        self._each("cluster-resources", lambda _, place: _read_mirror_sets(place, evidence))
        self._each("dry-run", lambda _, place: _read_mapping(place, evidence))
        self._each("hold-release", lambda _, place: _read_release(place, evidence))
        left = _CATALOGS_LIMIT
        for _, place in self._files["operator-catalogs"]:
            left -= place.size
            if left < 0:
                self.warnings.append("catalogs are too large to be read to their end: some images stay unnamed")
                break
            for pullspec in _named_by_digest(place):
                evidence.image(pullspec)
        self._each("logs", lambda name, place: _read_log(name, place, evidence), latest_first=True)

    def beside(self, releases: Collection[Digest]) -> Accompaniment:
        """Return the signatures of some releases, and what the update graph says of them."""
        wanted = {digest.hex: digest for digest in releases if digest.algorithm == "sha256"}
        signatures: dict[Digest, list[bytes]] = defaultdict(list)

        def sign(name: str, place: Place) -> None:
            match = _SIGNATURE.fullmatch(name)
            release = wanted.get(match[1]) if match else None
            if release is not None and len(signatures[release]) < _SIGNATURES_LIMIT:
                signatures[release].append(place.read(SIGNATURE_LIMIT))

        graphs: list[GraphExcerpt] = []
        payloads = {str(digest) for digest in releases}

        def excerpt(name: str, place: Place) -> None:
            match = _GRAPH.fullmatch(name.removeprefix("cincinnati-graph-data/"))
            if match and payloads:
                whole = graph.parse(place.read(_GRAPH_LIMIT))
                kept = [one.version for one in whole.nodes.values() if one.payload.rpartition("@")[2] in payloads]
                if kept:
                    graphs.append(GraphExcerpt(check_tag(match[2]), match[1], graph.excerpt(whole, kept)))

        self._each("signatures", sign)
        self._each("hold-release", excerpt)
        return Accompaniment({digest: tuple(raw) for digest, raw in signatures.items()}, tuple(graphs))

    def _each(self, folder: str, read: Callable[[str, Place], None], *, latest_first: bool = False) -> None:
        """Read the files of a folder; one that is not what it should be is left out, and said."""
        for name, place in sorted(self._files[folder], key=lambda file: file[0], reverse=latest_first):
            try:
                read(name, place)
            except (MirrorError, ValueError, yaml.YAMLError, RecursionError) as error:
                self.warnings.append(f"{folder}/{name} is left out: {str(error).splitlines()[0][:200]}")


def _read_configuration(place: Place, evidence: Evidence, catalogs: Catalogs) -> None:
    """Read what was asked for by name, and where it was put: images, catalogs and releases."""
    for document in _documents(place):
        asked = document.get("mirror")
        if not isinstance(asked, dict):
            continue
        for entry in _dicts(asked.get("additionalImages")):
            _note(evidence, entry.get("name"), entry.get("targetRepo"), entry.get("targetTag"))
        for entry in _dicts(asked.get("operators")):
            _note(evidence, entry.get("catalog"), entry.get("targetCatalog"), entry.get("targetTag"))
            catalogs.ask(entry)
        platform = asked.get("platform")
        releases = platform.get("release") if isinstance(platform, dict) else None
        for release in releases if isinstance(releases, list) else [releases]:
            with suppress(InvalidRequest):
                evidence.image(Pullspec.parse(str(release)), RELEASES_THERE)


def _note(evidence: Evidence, image: object, repository: object, tag: object) -> None:
    with suppress(InvalidRequest):  # catalogs may lie on disk (oci://)
        evidence.asked(
            str(image), repository if isinstance(repository, str) else "", check_tag(str(tag)) if tag else ""
        )


def _read_log(name: str, place: Place, evidence: Evidence) -> None:
    """Read which images were copied, the latest first. On a terminal no log says so."""
    if not name.startswith("oc-mirror"):
        return  # that of the registry
    for match in reversed(_COPIED.findall(place.read(_LOG_LIMIT))):
        with suppress(InvalidRequest, UnicodeDecodeError):
            text = match.decode()
            # The registry of oc-mirror's own cache, which a graph image is copied from.
            if not text.removeprefix("docker://").startswith("localhost:"):
                evidence.copied(text)


def _read_release(place: Place, evidence: Evidence) -> None:
    """Read where releases and their components are, by digest: in a graph, or in what a release says itself."""
    for pullspec in _named_by_digest(place):
        evidence.image(pullspec, RELEASES_THERE)
        evidence.image(pullspec, COMPONENTS_THERE)


def _read_mirror_sets(place: Place, evidence: Evidence) -> None:
    """Read which repositories and namespaces clients were led from (openshift/api, config/v1)."""
    for document in _documents(place):
        spec = document.get("spec")
        key = _SETS.get(str(document.get("kind")))
        for entry in _dicts(spec.get(key)) if key and isinstance(spec, dict) else ():
            mirrors = entry.get("mirrors")
            for mirror in mirrors if isinstance(mirrors, list) else ():
                if isinstance(mirror, str) and isinstance(entry.get("source"), str):
                    evidence.mirrored(entry["source"], mirror)


def _read_mapping(place: Place, evidence: Evidence) -> None:
    for line in place.read(_MAPPING_LIMIT).decode("utf-8", "replace").splitlines():
        source, _, destination = line.strip().partition("=docker://")
        try:
            found = Pullspec.parse(source)
            name = evidence.repository(Pullspec.parse(destination).source)
        except InvalidRequest:
            continue  # catalogs on disk, comments
        if name is not None:
            evidence.image(found, name)


def _documents(place: Place) -> list[dict[str, Any]]:
    """Return the mappings of a YAML file. Raises ValueError for what no such file needs: aliases, deep nesting."""
    text = place.read(_DOCUMENT_LIMIT).decode()
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _NESTING_LIMIT or count > _EVENTS_LIMIT or isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases, is nested too deeply, or too long")
    return [found for found in yaml.load_all(text, Loader=yaml.CSafeLoader) if isinstance(found, dict)]


def _dicts(value: object) -> Sequence[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else ()


def _named_by_digest(place: Place) -> Iterator[Pullspec]:
    """Yield the images that a text of any length names by digest, each once in a stretch of text."""
    held = b""
    with place.open() as read:
        while content := read(_STEP):
            text = held + content
            # What ends in the bytes held was found whole before; its name may be cut off now.
            matches = (match for match in _AT.finditer(text) if match.end() > len(held))
            found = {_before(text, match) + match[0] for match in matches}
            for name in found:
                try:
                    yield Pullspec.parse(name.decode())
                except InvalidRequest:
                    continue
            held = text[-(_NAME_LIMIT + _AT_LENGTH) :]


def _before(text: bytes, match: re.Match[bytes]) -> bytes:
    """Return what stands before a digest and may be an image's name; nothing where that has no beginning."""
    window = text[max(0, match.start() - _NAME_LIMIT) : match.start()]
    start = len(window.rstrip(_NAME_BYTES))
    if window[start - 1 : start] == b"]" and window[start : start + 1] == b":":
        start = max(window.rfind(b"[", 0, start), 0)  # an IPv6 address and its port
    return window[start:] if start or len(window) < _NAME_LIMIT else b""
