"""How clients read these files: what podman, the agent installer, OpenShift's nodes and containerd make of a name.

Written after containers-registries.conf(5), the machine config operator's rendering of mirror sets and containerd's
docs/hosts.md; each is only as much of the client as decides where an image is asked for.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import yaml

ALL, DIGEST_ONLY, TAG_ONLY = "all", "digest-only", "tag-only"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client asks for a repository: `/v2/<name>` at an address, or `/<prefix>/v2/<name>`, with `ns` or not.

    No name: what it asks for is no path of a registry.

    `verified` is false where the client also takes plain http or any certificate.
    """

    address: str
    name: str
    verified: bool
    ns: str | None = None
    prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A mirror of a rule, and for which references it is asked."""

    location: str
    insecure: bool = False
    pull: str = ALL


@dataclass(frozen=True, slots=True)
class Rule:
    """One `[[registry]]`: what it is for, which mirrors are asked, and whether the source is closed."""

    prefix: str
    mirrors: tuple[Endpoint, ...]
    blocked: bool = False

    def places(self, repository: str, *, by_tag: bool) -> list[Place]:
        """Return where this rule leads `repository`, in the order in which they are tried; the source is left out."""
        unwanted = DIGEST_ONLY if by_tag else TAG_ONLY
        found = []
        for mirror in self.mirrors:
            if mirror.pull != unwanted:
                address, _, name = (mirror.location + repository[len(self.prefix) :]).partition("/")
                found.append(Place(address, name, not mirror.insecure))
        return found


def registries_conf(raw: bytes) -> list[Rule]:
    """Return the rules of a registries.conf."""
    rules = []
    for one in tomllib.loads(raw.decode()).get("registry", []):
        pull = DIGEST_ONLY if one.get("mirror-by-digest-only") else ALL
        mirrors = tuple(
            Endpoint(mirror["location"], mirror.get("insecure", False), mirror.get("pull-from-mirror", pull))
            for mirror in one.get("mirror", [])
        )
        rules.append(Rule(one.get("prefix") or one["location"], mirrors, one.get("blocked", False)))
    return rules


def mirror_sets(documents: Iterable[Mapping[str, Any]]) -> list[Rule]:
    """Return the rules that OpenShift's nodes get from mirror sets and image.config/cluster.

    Mirrors of one source are merged. Those of a namespace are not handed down to a narrower source here: not every
    version of the machine config operator does that.
    """
    found: dict[str, _Merged] = {}
    insecure: set[str] = set()
    for document in documents:
        spec = document.get("spec", {})
        for key, pull in (("imageDigestMirrors", DIGEST_ONLY), ("imageTagMirrors", TAG_ONLY)):
            for one in spec.get(key, []):
                merged = found.setdefault(one["source"], _Merged())
                merged.mirrors += [(location, pull) for location in one["mirrors"]]
                merged.blocked |= one.get("mirrorSourcePolicy") == "NeverContactSource"
        insecure.update(spec.get("registrySources", {}).get("insecureRegistries", []))
    return [
        Rule(
            source,
            tuple(Endpoint(location, location.partition("/")[0] in insecure, pull) for location, pull in one.mirrors),
            one.blocked,
        )
        for source, one in found.items()
    ]


@dataclass
class _Merged:
    mirrors: list[tuple[str, str]] = field(default_factory=list)
    blocked: bool = False


def longest_prefix(rules: Sequence[Rule], repository: str) -> Rule | None:
    """Return the one rule that containers/image follows for a repository: the longest that matches whole components."""
    matching = [rule for rule in rules if repository == rule.prefix or repository.startswith(f"{rule.prefix}/")]
    return max(matching, key=lambda rule: len(rule.prefix), default=None)


def exact_repository(rules: Sequence[Rule], repository: str) -> Rule | None:
    """Return the rule that the agent installer and `oc --idms-file` follow: the first of exactly this repository."""
    return next((rule for rule in rules if rule.prefix == repository), None)


def hosts_toml(raw: bytes, host: str, repository: str) -> list[Place]:
    """Return where containerd asks for `repository` of `host` before it turns to the server, in order."""
    found = []
    for url, settings in tomllib.loads(raw.decode()).get("host", {}).items():
        parts = urlsplit(url)
        if "resolve" not in settings.get("capabilities", ["pull", "resolve"]):
            continue  # tags would not come through it
        # containerd puts /v2 behind the path unless it is told that the path is the API's root already.
        root = parts.path.rstrip("/")
        asked = (
            f"{root}/{repository}" if settings.get("override_path") else f"{root.removesuffix('/v2')}/v2/{repository}"
        )
        prefix, name = _face(asked)
        ns = host if parts.netloc != host else None
        found.append(Place(parts.netloc, name, parts.scheme == "https", ns, prefix))
    return found


def _face(path: str) -> tuple[str | None, str]:
    """Return (component before /v2, name behind it) of a request's path; no name where that is no path of the API."""
    first, _, rest = path.strip("/").partition("/")
    if first == "v2":
        return None, rest
    second, _, rest = rest.partition("/")
    return (first, rest) if second == "v2" else (None, "")


def signature_scopes(raw: bytes) -> list[str]:
    """Return the scopes of a registries.d file under which sigstore signatures are looked for beside the image."""
    found = yaml.safe_load(raw).get("docker", {})
    return [scope for scope, settings in found.items() if settings.get("use-sigstore-attachments")]
