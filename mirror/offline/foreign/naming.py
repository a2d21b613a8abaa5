"""Where the repositories of a mirrored registry came from.

oc-mirror drops the source's host: `registry.redhat.io/ubi9/ubi` becomes `ubi9/ubi`, and a release's components become
`openshift/release` (its internal/pkg/release and internal/pkg/image, const.go); `targetRepo` and `targetTag` put
another path and another tag in the place of the source's. What an archive says beside its images tells the source
again; where it says nothing, or two things, nobody guesses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from mirror.errors import InvalidRequest
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec, is_pullspec
from mirror.offline.release_image import COMPONENTS as COMPONENTS
from mirror.offline.release_image import RELEASES as RELEASES

# What oc-mirror calls these, wherever they came from.
RELEASES_THERE, COMPONENTS_THERE = "openshift/release-images", "openshift/release"
_FIXED = {RELEASES_THERE: RELEASES, COMPONENTS_THERE: COMPONENTS}


class Evidence:
    """What an archive says of where its repositories came from: repository, its digests -> host/repository."""

    def __init__(self, repositories: Mapping[str, Collection[Digest]]) -> None:
        self._repositories = repositories
        self._said: dict[str, set[str]] = defaultdict(set)
        self._said_of: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._led: dict[str, set[str]] = defaultdict(set)  # path of a repository or namespace -> with its host
        self._tags: dict[tuple[str, str], set[str]] = defaultdict(set)  # repository, tag -> tags at the source
        self._chosen: set[str] = set()  # repositories whose path is not that of their source
        self._elsewhere: set[str] = set()  # sources that such a path was chosen for
        self._alike: set[str] = set()  # sources that are kept under their own path

    def source(self, name: str, digest: Digest, tags: Collection[str] = ()) -> str | None:
        """Return the source of an image: that of its repository, or where several share one, its own."""
        if _is_whole(name):
            return name
        # Two hosts may have a repository of one path; then only what is said of the image itself counts.
        own = set().union(*(self._said_of.get((name, key), ()) for key in (str(digest), *tags)))
        found = own or self._said.get(name, set())
        if name in _FIXED:
            # Red Hat's, but for who says that theirs are in this repository; namespaces say nothing of these.
            return next(iter(found)) if len(found) == 1 else _FIXED[name]
        found = own or found | self._below(name)
        return next(iter(found)) if len(found) == 1 else None

    def tags(self, name: str, tag: str) -> Collection[str]:
        """Return the tags that what is `name`:`tag` here has at its source, where another was chosen here."""
        return self._tags.get((name, tag), ())

    def is_chosen(self, name: str) -> bool:
        """Tell whether an image set chose the path of a repository: clients may know it by that."""
        return name in self._chosen

    def image(self, source: Pullspec, name: str | None = None, tag: str = "") -> None:
        """Note that an image was mirrored from `source`, to repository `name` and `tag` where these are known."""
        for one in self._kept(source, name):
            self._said[one].add(source.source)
            for reference in filter(None, (tag or source.tag, source.digest)):
                self._said_of[one, str(reference)].add(source.source)
            if tag and source.tag and tag != source.tag:
                self._tags[one, tag].add(source.tag)

    def asked(self, text: str, repository: str = "", tag: str = "") -> None:
        """Note that an image set asks for an image, as it spells that, to be kept at `repository` and `tag`.

        These are empty where the image has those of its source. Raises InvalidRequest.
        """
        source, path = parse_asked(text)
        self.image(source, repository or path, tag)
        if repository and repository not in _paths(source, path):
            self._chosen.add(repository)
            self._elsewhere.add(source.source)
        else:
            self._alike.add(source.source)

    def copied(self, text: str) -> None:
        """Note that an image was copied, as a log spells it. Raises InvalidRequest.

        What was noted of that tag before counts more: logs of earlier runs are in an archive as well.
        """
        source, path = parse_asked(text)
        if source.source in self._elsewhere - self._alike:
            return  # to a path that the log does not tell
        for one in self._kept(source, path):
            self._said[one].add(source.source)
            for reference in filter(None, (source.tag, source.digest)):
                self._said_of[one, str(reference)] = self._said_of[one, str(reference)] or {source.source}

    def mirrored(self, source: str, mirror: str) -> None:
        """Note that clients are led from `source`, a repository or a namespace with its host, to `mirror`."""
        try:
            found = Pullspec.parse(source)
        except InvalidRequest:
            return  # a whole host, which says nothing of paths
        at = self.repository(mirror)
        if at is not None:
            self._said[at].add(found.source)
        self._led[found.repository].add(found.source)

    def repository(self, mirror: str) -> str | None:
        """Return the repository here that `mirror`, a repository on some registry, is: its longest end that is one."""
        parts = mirror.split("/")
        ends = ("/".join(parts[start:]) for start in range(1, len(parts)))
        return next((end for end in ends if end in self._repositories), None)

    def _kept(self, source: Pullspec, name: str | None) -> set[str]:
        """Return the repositories that may have an image of `source`, kept at `name` if that is given."""
        found = _paths(source, name) & self._repositories.keys()
        return {one for one in found if source.digest is None or source.digest in self._repositories[one]}

    def _below(self, name: str) -> set[str]:
        """Return what is said of the namespaces that a repository is in, and of itself."""
        parts = name.split("/")
        paths = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        return {source + name.removeprefix(path) for path in paths for source in self._led.get(path, ())}


def kept_at(name: str) -> str:
    """Return the path that oc-mirror keeps an image at: all but what stands before the first slash, without a tag."""
    first, slash, path = name.partition("/")
    return (path if slash else first).partition(":")[0]


def parse_asked(text: str) -> tuple[Pullspec, str | None]:
    """Return the image that an image set or a chart means, and its path where only one is possible.

    A name without a registry is one of Docker Hub to containers/image. Raises InvalidRequest.
    """
    name = text.removeprefix("docker://")
    if is_pullspec(name) or "://" in name:
        return Pullspec.parse(name), None
    return Pullspec.parse(f"docker.io/{name}"), kept_at(name.partition("@")[0])


def _paths(source: Pullspec, name: str | None) -> set[str]:
    return {name} if name else {source.repository, source.repository.removeprefix("library/")}


def _is_whole(name: str) -> bool:
    """Tell whether a repository's path begins with a host, as those of registries that mirror by host do."""
    try:
        return Pullspec.parse(name).source == name and not name.startswith("localhost/")
    except InvalidRequest:
        return False
