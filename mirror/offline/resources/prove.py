"""The proof: every planned image, followed through the written files as each client would, must land here.

It reads the files as they are, not what they were made from, and asks the same table that serves requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mirror.content.resolve import Resolver
from mirror.errors import Denied, MirrorError, Problem
from mirror.offline.plan import Plan
from mirror.offline.resources import clients
from mirror.offline.resources.clients import Place, Rule
from mirror.offline.resources.cluster import in_api
from mirror.offline.resources.entries import RELEASE_KINDS, Entry, images, is_tagged, make_entries
from mirror.offline.resources.paths import CA, CONTAINERD, IDMS, INSTALL_CONF, INSTALL_CONFIG, ITMS, NODES, SIGNATURES
from mirror.offline.resources.site import PROBE, Site
from mirror.offline.resources.tree import Resources


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A repository that must be led to `name` here. `exact`: also by clients that compare whole repositories."""

    source: str
    name: str
    exact: bool
    tagged: bool
    signed: bool
    probe: bool = False


def prove(resources: Resources, plans: Sequence[tuple[str, Plan]], site: Site) -> list[Problem]:
    """Return a problem for each planned repository that a client would not find here by its own name, sorted.

    All images of a repository go the same way, so each repository is tried once; its tags, signatures among them, too.
    Without plans the hosts of the site are tried. Raises PlanInvalid as `make` does.
    """
    spaces = frozenset(image.name.partition("/")[0] for _, plan in plans for image in plan.images)
    proof = _Proof(resources.files, Resolver(site.config, lambda: spaces), site)
    found: dict[tuple[str, str], Problem] = {}
    for wanted in _wanted(plans, site):
        for where, why in proof.failures(wanted):
            what = f"{wanted.source} would not be found here as {wanted.name}: {why}"
            remedy = "see aliases, and upstreams with their repositories, in mirror.yaml"
            found.setdefault((where, wanted.source), Problem("not_led_here", what, where, remedy))
    return [found[key] for key in sorted(found)]


def _wanted(plans: Sequence[tuple[str, Plan]], site: Site) -> list[_Wanted]:
    planned = images(plans)
    merged: dict[tuple[str, str], _Wanted] = {}
    for image in planned:
        key = (image.source, image.name)
        old = merged.get(key, _Wanted(*key, False, False, False))
        signed = image.kind in ("release", "signature") or image.sigstore != "none"
        merged[key] = _Wanted(
            *key, old.exact or image.kind in RELEASE_KINDS, old.tagged or is_tagged(image), old.signed or signed
        )
    if planned:
        return [merged[key] for key in sorted(merged)]
    return [_probe(entry) for entry in make_entries((), site)]


def _probe(entry: Entry) -> _Wanted:
    below = f"/{PROBE}" if entry.is_host else ""
    return _Wanted(entry.source + below, entry.name + below, not entry.is_host, entry.is_host, False, probe=True)


class _Proof:
    """The files, read once, and the table that names are looked up in."""

    def __init__(self, files: Mapping[str, bytes], resolver: Resolver, site: Site) -> None:
        self._files = files
        self._resolver = resolver
        self._ours = {registry.address: registry for registry in site.registries}
        self._closed = site.never_contact_source
        self._nodes = clients.registries_conf(files[NODES])
        self._installer = clients.registries_conf(files[INSTALL_CONF])
        self._sources: list[dict[str, Any]] = yaml.safe_load(files[INSTALL_CONFIG])["imageDigestSources"]
        documents = [one for path in (IDMS, ITMS, CA) if path in files for one in yaml.safe_load_all(files[path])]
        self._cluster = clients.mirror_sets(documents)
        self._scopes = clients.signature_scopes(files[SIGNATURES])

    def failures(self, wanted: _Wanted) -> Iterator[tuple[str, str]]:
        """Yield (file, why) for each client that this repository would be lost to."""
        longest = clients.longest_prefix(self._nodes, wanted.source)
        yield from self._followed(NODES, longest, wanted, by_tag=False)
        yield from self._followed(NODES, longest, wanted, by_tag=True)  # tags, and `sha256-….sig`
        if wanted.exact:
            exact = clients.exact_repository(self._installer, wanted.source)
            yield from self._followed(INSTALL_CONF, exact, wanted, by_tag=False)
            yield from self._asked(INSTALL_CONFIG, self._listed(wanted.source), wanted)
        if IDMS in self._files and in_api(Entry(wanted.source, wanted.name)):
            longest = clients.longest_prefix(self._cluster, wanted.source)
            yield from self._followed(IDMS, longest, wanted, by_tag=False)
            if wanted.tagged:
                yield from self._followed(ITMS, longest, wanted, by_tag=True)
            if wanted.exact:
                exact = clients.exact_repository(self._cluster, wanted.source)
                yield from self._followed(IDMS, exact, wanted, by_tag=False)
        yield from self._by_containerd(wanted)
        if wanted.signed:
            for address in sorted(set(self._ours) - set(self._scopes)):
                yield SIGNATURES, f"its signatures would not be looked for at {address}"

    def _followed(self, where: str, rule: Rule | None, wanted: _Wanted, *, by_tag: bool) -> Iterator[tuple[str, str]]:
        yield from self._asked(where, rule.places(wanted.source, by_tag=by_tag) if rule else [], wanted)
        if rule and self._closed and not rule.blocked:
            yield where, "its source may still be contacted"

    def _by_containerd(self, wanted: _Wanted) -> Iterator[tuple[str, str]]:
        host, _, repository = wanted.source.partition("/")
        path = f"{CONTAINERD}/{host}/hosts.toml"
        if path in self._files:
            yield from self._asked(path, clients.hosts_toml(self._files[path], host, repository), wanted)
        else:
            yield path, "containerd leads whole hosts, and what this one holds has other names here"

    def _listed(self, repository: str) -> list[Place]:
        """Return the places that install-config.yaml lists; nothing in it says plain http, so TLS is not judged."""
        mirrors: list[str] = next((one["mirrors"] for one in self._sources if one["source"] == repository), [])
        split = [mirror.partition("/") for mirror in mirrors]
        return [
            Place(address, name, address not in self._ours or self._ours[address].secure) for address, _, name in split
        ]

    def _asked(self, where: str, places: Sequence[Place], wanted: _Wanted) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with asking at these places; all must be the wanted repository here."""
        if not places:
            yield where, "no entry leads it here"
        for place in places:
            why = self._why_not(place, wanted)
            if why:
                yield where, why
                return

    def _why_not(self, place: Place, wanted: _Wanted) -> str:
        registry = self._ours.get(place.address)
        if registry is None:
            return f"{place.address} is none of our registries"
        if place.verified != registry.secure:
            return f"{place.address} would be asked {'with' if place.verified else 'without'} TLS"
        if not place.name:
            return f"{place.address} would be asked for a path without /v2"
        try:
            name = self._resolver.resolve(place.name, place.ns, place.prefix).name
        except Denied as error:
            # Some of an upstream may be denied; what a probe stands for need not be.
            return "" if wanted.probe else str(error)
        except MirrorError as error:
            return str(error)
        return "" if name == wanted.name else f"{place.name} means {name} here"
