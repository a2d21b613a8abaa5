"""Which names outside lead to which repositories here: one entry for each upstream host, and one for each repository
of a release, because the agent installer and `oc --idms-file` compare whole repositories.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mirror.errors import InvalidRequest
from mirror.oci.pullspec import Pullspec, is_pullspec
from mirror.oci.reference import is_signature_tag
from mirror.offline.plan import Image, Plan, PlanInvalid
from mirror.offline.resources.site import Site

RELEASE_KINDS = ("release", "component", "kubevirt")
# Where releases come from. A site that pulls them through has no plan that would say so.
_RELEASE_HOST = "quay.io"
_RELEASE_REPOSITORIES = ("openshift-release-dev/ocp-release", "openshift-release-dev/ocp-v4.0-art-dev")


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """`source`, a host or a repository as images name it outside, is `name` under each of our registries.

    The name is empty where a host's repositories keep their paths here: no name can hold its port.
    """

    source: str
    name: str

    @property
    def is_host(self) -> bool:
        """Whether it stands for all of a host."""
        return "/" not in self.source

    def at(self, registry: str) -> str:
        """Return where it is at `registry`, an address or a URL."""
        return f"{registry}/{self.name}" if self.name else registry


def images(plans: Sequence[tuple[str, Plan]]) -> list[Image]:
    """Return all planned images that have a source elsewhere, each repository and digest once.

    What is kept under a path of its own is asked for here by that name, and needs no mirror entry. Raises PlanInvalid
    where a source is no repository.
    """
    found: dict[tuple[str, str, str], Image] = {}
    for label, plan in plans:
        own = set()
        for image in plan.images:
            if image.source == image.name and not is_pullspec(image.source):
                own.add(image.source)
                continue
            _check_source(image.source, label)
            found.setdefault((image.source, image.name, str(image.digest)), image)
        for release in plan.releases:
            if release.source not in own:
                _check_source(release.source, label)
    return [found[key] for key in sorted(found)]


def make_entries(wanted: Iterable[Image], site: Site) -> list[Entry]:
    """Return the entries for these images and for the upstreams of the site, sorted by source."""
    wanted = list(wanted)
    hosts = _hosts(wanted, site)
    found = {host: Entry(host, key) for host, key in hosts.items()}
    if not wanted and _RELEASE_HOST in hosts:
        for repository in _RELEASE_REPOSITORIES:
            source = f"{_RELEASE_HOST}/{repository}"
            found[source] = Entry(source, f"{hosts[_RELEASE_HOST]}/{repository}")
    for image in wanted:
        host, _, repository = image.source.partition("/")
        key = hosts.get(host)
        if image.kind in RELEASE_KINDS or image.name != (f"{key}/{repository}" if key != "" else repository):
            found.setdefault(image.source, Entry(image.source, image.name))
    return [found[source] for source in sorted(found)]


def tag_entries(entries: Iterable[Entry], wanted: Iterable[Image]) -> list[Entry]:
    """Return those of `entries` that tags must come through: none where everything planned is named by digest.

    A site that only pulls through knows no images beforehand, so there all tags do.
    """
    wanted = list(wanted)
    if not wanted:
        return [entry for entry in entries if entry.is_host]
    tagged = [image.source for image in wanted if is_tagged(image)]
    hosts = {source.partition("/")[0] for source in tagged}
    return [entry for entry in entries if entry.source in tagged or entry.source in hosts]


def is_tagged(image: Image) -> bool:
    """Tell whether somebody pulls this image by a tag: releases have tags only as labels."""
    return image.kind == "image" and any(not is_signature_tag(tag) for tag in image.tags)


def _hosts(wanted: Iterable[Image], site: Site) -> dict[str, str]:
    """Return the key for each host: as configured, else as the plans say (they may name what is configured nowhere)."""
    hosts = dict(site.hosts)
    for image in wanted:
        host, _, repository = image.source.partition("/")
        key, _, here = image.name.partition("/")
        if repository in (here, image.name):
            hosts.setdefault(host, key if repository == here else "")
    return hosts


def _check_source(source: str, label: str) -> None:
    """Plans come across a gap: what is written into files as a name must be one."""
    try:
        good = Pullspec.parse(source).source == source
    except InvalidRequest:
        good = False
    if not good:
        raise PlanInvalid(f"set {label} names '{source[:160]!a}', which is not a repository", "make the plan again")
