"""Where the repositories of a mirrored registry came from.

oc-mirror drops the source's host: `registry.redhat.io/ubi9/ubi` becomes `ubi9/ubi`, and a release's components become
`openshift/release` (its internal/pkg/release and internal/pkg/image, const.go). What an archive says beside its
images tells the host again; where it says nothing, or two things, nobody guesses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from mirror.errors import InvalidRequest
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
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

    def image(self, source: Pullspec, name: str | None = None) -> None:
        """Note that an image was mirrored from `source`, to repository `name` where that is known."""
        names = {name} if name else {source.repository, source.repository.removeprefix("library/")}
        for one in names & self._repositories.keys():
            if source.digest is not None and source.digest not in self._repositories[one]:
                continue
            self._said[one].add(source.source)
            for reference in filter(None, (source.tag, source.digest)):
                self._said_of[one, str(reference)].add(source.source)

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

    def _below(self, name: str) -> set[str]:
        """Return what is said of the namespaces that a repository is in, and of itself."""
        parts = name.split("/")
        paths = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        return {source + name.removeprefix(path) for path in paths for source in self._led.get(path, ())}


def _is_whole(name: str) -> bool:
    """Tell whether a repository's path begins with a host, as those of registries that mirror by host do."""
    try:
        return Pullspec.parse(name).source == name and not name.startswith("localhost/")
    except InvalidRequest:
        return False
