"""What a client's name means: one table, first match decides (DESIGN, Names on the wire).

    1. an alias
    2. the first component is an upstream's key: the path decides
    3. `ns` is an upstream's key, an endpoint's host[:port], or a synonym of docker.io
    4. `ns` or the first component names loaded or synced repositories: served from the store, never fetched
    5. a pattern of `hosted`                     6. `default_upstream`                   7. hosted here

A name is looked up in this closed list; it never becomes a host to dial, and never in two upstreams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from mirror.config import DOCKER_HUB_SYNONYMS, Config, Matcher, UpstreamConfig
from mirror.content.answers import BRING, Target
from mirror.errors import Denied, NameUnknown

HUB = "docker.io"
_MEMORY = 10_000  # names remembered


class Resolver:
    """The table. `loaded` gives the first components of the names that image sets hold; answers are remembered."""

    def __init__(self, config: Config, loaded: Callable[[], frozenset[str]] = frozenset) -> None:
        self._loaded = loaded
        self._seen = loaded()
        self._upstreams: Mapping[str, UpstreamConfig] = config.upstreams
        self._default = config.default_upstream
        self._remedy = BRING if config.offline else "add it under upstreams in mirror.yaml"
        self._hosted = Matcher(config.hosted)
        self._exact = {key: value for key, value in config.aliases.items() if not key.endswith("/")}
        self._prefixes = sorted(
            ((key, value) for key, value in config.aliases.items() if key.endswith("/")),
            key=lambda entry: -len(entry[0]),
        )
        self._spaces = dict(_namespaces(config.upstreams))
        self._own = {host.lower() for host in _own_hosts(config)}
        self._known: dict[tuple[str, str | None, str | None], Target] = {}

    def resolve(self, name: str, ns: str | None = None, prefix: str | None = None) -> Target:
        """Return what `name` means; `ns` is the query parameter, `prefix` the component before /v2.

        Raises NameUnknown where nothing takes the name, Denied where `repositories` of its upstream does not allow it.
        """
        loaded = self._loaded()
        if loaded is not self._seen:
            self._known.clear()
            self._seen = loaded
        key = (name, ns, prefix)
        found = self._known.get(key)
        if found is None:
            found, _ = self.decide(f"{prefix}/{name}" if prefix else name, ns)
            self._allow(found)
            if len(self._known) >= _MEMORY:
                self._known.clear()
            self._known[key] = found
        return found

    def decide(self, name: str, ns: str | None) -> tuple[Target, str]:
        """Return what `name` means, whether it may be pulled or not, and the line of the table that said so, in words.

        Raises NameUnknown where no line does.
        """
        aliased = self._alias(name)
        if aliased is not None:
            return aliased
        first, _, rest = name.partition("/")
        loaded = self._loaded()
        space = self._spaces.get(ns.lower()) if ns else None
        if first in self._upstreams and rest:
            if space is not None and space != first:
                raise NameUnknown(
                    f"the path names upstream '{first}' and ns names '{space}'",
                    "use one of the two in the mirror's URL",
                )
            return self._target(first, rest), f"it begins with the key of upstream '{first}'"
        if space is not None:
            return self._target(space, name), f"its host '{ns}' is upstream '{space}'"
        if first in loaded and rest:
            # The path decides, as for an upstream.
            return Target("", name, name), f"image sets here hold names under '{first}'"
        if ns and ns.lower() in loaded:
            canonical = f"{ns.lower()}/{name}"
            return Target("", canonical, canonical), f"image sets here hold names under '{ns.lower()}'"
        if ns and ns.lower() not in self._own:
            raise NameUnknown(f"no upstream '{ns}' is configured here", self._remedy)
        if self._hosted.matches(name):
            return Target("", name, name, hosted=True), "a pattern of `hosted` takes it"
        if self._default is not None:
            return self._target(self._default, name), f"`default_upstream` is '{self._default}'"
        if "." in first or ":" in first or first == "localhost":
            raise NameUnknown(f"no upstream '{first}' is configured here", self._remedy)
        return Target("", name, name, hosted=True), "no upstream takes it, so it is hosted here"

    def _alias(self, name: str) -> tuple[Target, str] | None:
        value, alias = self._exact.get(name), name
        if value is None:
            for key, start in self._prefixes:
                if name.startswith(key):
                    value, alias = start + name[len(key) :], key
                    break
        if value is None:
            return None
        upstream, _, repository = value.partition("/")
        return replace(self._target(upstream, repository), aliased=True), f"the alias '{alias}' leads there"

    def _target(self, upstream: str, repository: str) -> Target:
        hub = upstream == HUB or any(
            urlsplit(endpoint).hostname in DOCKER_HUB_SYNONYMS for endpoint in self._upstreams[upstream].endpoints
        )
        if hub and "/" not in repository:
            repository = f"library/{repository}"
        return Target(upstream, repository, f"{upstream}/{repository}")

    def _allow(self, target: Target) -> None:
        if not target.upstream:
            return
        rules = self._upstreams[target.upstream].repositories
        if not rules.allows(target.repository):
            raise Denied(
                f"this mirror does not serve {target.name}",
                f"see repositories of upstream '{target.upstream}' in mirror.yaml",
            )


def _namespaces(upstreams: Mapping[str, UpstreamConfig]) -> dict[str, str]:
    """Return the upstream that each `ns` names: keys go before the hosts of endpoints."""
    hosts: dict[str, set[str]] = {}
    for key, upstream in upstreams.items():
        for endpoint in upstream.endpoints:
            hosts.setdefault(urlsplit(endpoint).netloc.lower(), set()).add(key)
    # A host that several upstreams go through (a bastion with a path for each) speaks for none of them.
    found = {host: keys.pop() for host, keys in hosts.items() if len(keys) == 1}
    if HUB in upstreams:
        found.update(dict.fromkeys(DOCKER_HUB_SYNONYMS, HUB))
    found.update({key: key for key in upstreams})
    return found


def _own_hosts(config: Config) -> list[str]:
    hosts = [address for address in config.listen if not address.startswith("unix:")]
    if config.external_url:
        hosts.append(urlsplit(config.external_url).netloc)
    return hosts
