"""What each key says well and the keys together do not: half a key pair, hidden names, a door left open."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from mirror.config.addresses import DOCKER_HUB_SYNONYMS, UNIX, is_wildcard, split_listen
from mirror.config.model import Config
from mirror.config.values import quote
from mirror.errors import NameInvalid
from mirror.oci.reference import check_name


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A problem of several keys: the path of the one to look at first, a stable code, what is wrong, what mends it."""

    path: tuple[str | int, ...]
    code: str
    what: str
    remedy: str


def find_contradictions(config: Config, upstream_keys: Container[str]) -> Iterator[Contradiction]:
    """Yield what does not go together. `upstream_keys` are the keys as written, the invalid ones included."""
    yield from _half_pairs(config)
    yield from _listening(config)
    yield from _upstreams(config, upstream_keys)
    yield from _aliases(config, upstream_keys)
    if config.holds_credential and not config.loopback_only and "anonymous" not in config.clients.model_fields_set:
        yield Contradiction(
            ("clients", "anonymous"),
            "anonymous_not_stated",
            "with a credential for an upstream, and other hosts that reach this one, who may pull must be stated",
            "write `clients: {anonymous: pull}` (whoever reaches this registry sees what the credential sees)"
            " or `clients: {anonymous: none}`",
        )


def _half_pairs(config: Config) -> Iterator[Contradiction]:
    pairs: list[tuple[tuple[str, ...], str, Path | None, str, Path | None]] = [
        (("tls",), "certificate", config.tls.certificate, "key", config.tls.key)
    ]
    for name, upstream in config.upstreams.items():
        at = ("upstreams", name)
        pairs.append((at, "client_certificate", upstream.client_certificate, "client_key", upstream.client_key))
    for section, certificate_key, certificate, key_key, key in pairs:
        if (certificate is None) != (key is None):
            here, missing = (certificate_key, key_key) if key is None else (key_key, certificate_key)
            yield Contradiction(
                (*section, here), "missing_key", f"stands here without `{missing}`", f"add `{missing}` beside it"
            )


def _listening(config: Config) -> Iterator[Contradiction]:
    taken: list[tuple[tuple[str | int, ...], str]] = []
    addresses: list[tuple[tuple[str | int, ...], str]] = [
        (("listen", index), address) for index, address in enumerate(config.listen)
    ]
    if config.metrics.listen is not None:
        addresses.append((("metrics", "listen"), config.metrics.listen))
    for path, address in addresses:
        if (other := next((other for other in taken if _collide(address, other[1])), None)) is not None:
            what = f"{quote(address)} is taken by {quote(other[1])} of `{other[0][0]}`"
            if path[0] != "metrics":
                remedy = "leave one of them out"
            elif "metrics" in config.model_fields_set:
                remedy = "give the metrics another port"
            else:
                remedy = "choose another port: metrics answer there by default, or set `metrics: {listen: ...}`"
            yield Contradiction(path, "address_taken", what, remedy)
        taken.append((path, address))


def _collide(one: str, other: str) -> bool:
    if one == other:
        return not one.endswith(":0")
    if one.startswith(UNIX) or other.startswith(UNIX):
        return False
    (host, port), (other_host, other_port) = split_listen(one), split_listen(other)
    same_family = (":" in host) == (":" in other_host)
    return port == other_port != 0 and same_family and (is_wildcard(one) or is_wildcard(other))


def _upstreams(config: Config, upstream_keys: Container[str]) -> Iterator[Contradiction]:
    hub = [name for name in config.upstreams if name in DOCKER_HUB_SYNONYMS]
    for name in hub[1:]:
        what = f"this is Docker Hub, as {quote(hub[0])} is"
        yield Contradiction(("upstreams", name), "same_upstream", what, "keep `docker.io` alone")
    default = config.default_upstream
    if default is not None and default not in upstream_keys:
        yield Contradiction(
            ("default_upstream",),
            "no_such_upstream",
            f"{quote(default)} is not one of the upstreams",
            f"add `{default}: {{}}` under `upstreams`",
        )


def _aliases(config: Config, upstream_keys: Container[str]) -> Iterator[Contradiction]:
    prefixes: list[str] = []
    for alias, target in config.aliases.items():
        path = ("aliases", alias)
        yield from _alias_grammar(alias, target)
        first = target.partition("/")[0]
        if first not in upstream_keys:
            yield Contradiction(
                path,
                "no_such_upstream",
                f"leads to {quote(target)}, and {quote(first)} is not one of the upstreams",
                "write `<upstream>/<repository>` with an upstream that is configured",
            )
        if (hiding := next((prefix for prefix in prefixes if alias.startswith(prefix)), None)) is not None:
            what = f"is hidden by the alias {quote(hiding)} before it"
            yield Contradiction(path, "alias_hidden", what, "put the longer one first")
        if alias.endswith("/"):
            prefixes.append(alias)
            if alias[:-1] in config.upstreams:
                yield Contradiction(
                    path,
                    "upstream_hidden",
                    f"takes every name of the upstream {quote(alias[:-1])}, which nobody reaches then",
                    "leave one of them out, or give the upstream the endpoints that you mean",
                )


def _alias_grammar(alias: str, target: str) -> Iterator[Contradiction]:
    path = ("aliases", alias)
    if alias.endswith("/") != target.endswith("/"):
        what = f"of {quote(alias)} and {quote(target)} only one ends in a slash"
        yield Contradiction(path, "invalid_value", what, "end both in / or neither")
    for name in (alias, target):
        try:
            check_name(name.removesuffix("/"))
        except NameInvalid as error:
            yield Contradiction(path, "invalid_value", error.what, error.remedy)
    if "/" not in target:
        yield Contradiction(
            path, "invalid_value", f"{quote(target)} names no repository", "write `<upstream>/<repository>`"
        )
