"""Who reaches this registry and what goes in the clear: what is valid and perhaps not meant."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from mirror.admin.check.report import Finding
from mirror.config import Config, UpstreamConfig, is_loopback, is_loopback_host, is_wildcard


def find_in_exposure(config: Config) -> Iterator[Finding]:
    """Yield what about listening and the ways to upstreams may not be meant."""
    yield from _listening(config)
    if config.offline:
        where = config.source.where("offline")
        yield Finding("information", "offline", "no upstream is contacted; only what is here is served", where)
    if not config.upstreams:
        remedy = "add for example `upstreams: {quay.io: {}}`"
        where = config.source.where("upstreams")
        yield Finding("information", "no_upstreams", "nothing is pulled through: there is no upstream", where, remedy)
    for name, upstream in config.upstreams.items():
        yield from _upstream(config, name, upstream)


def _listening(config: Config) -> Iterator[Finding]:
    if config.loopback_only:
        what = f"only this host reaches {', '.join(config.listen)}: no node can"
        remedy = "for nodes write `listen: 0.0.0.0:5000` (and `tls`), or put a proxy before it"
        yield Finding("warning", "loopback_only", what, config.source.where("listen"), remedy)
    if config.tls.certificate is not None:
        return
    behind_proxy = (config.external_url or "").startswith("https://")
    for index, address in enumerate(config.listen):
        if is_wildcard(address) or not (is_loopback(address) or behind_proxy):
            what = f"{address} answers {'on every address of this host ' if is_wildcard(address) else ''}without TLS"
            remedy = "give `tls: {certificate: , key: }`; without it nodes must be told that this registry is insecure"
            yield Finding("warning", "no_tls", what, config.source.where("listen", index), remedy)


def _upstream(config: Config, name: str, upstream: UpstreamConfig) -> Iterator[Finding]:
    at = ("upstreams", name)
    for index, endpoint in enumerate(upstream.endpoints):
        parts = urlsplit(endpoint)
        if parts.scheme == "http" and not is_loopback_host(parts.hostname or ""):
            secret = ", passwords and tokens" if upstream.has_credential or config.pull_secrets else ""
            what = f"{endpoint} is asked in the clear: names{secret} and tags can be read and changed on the way"
            remedy = "use https, with `ca` for an authority of your own"
            yield Finding("warning", "plain_http", what, config.source.where(*at, "endpoints", index), remedy)
    host = urlsplit(upstream.endpoints[0]).hostname or ""
    if host == name and "." not in name and not is_loopback_host(name):
        what = f"{name} is taken for a host's name, since it has no endpoints: {upstream.endpoints[0]} is asked"
        where = config.source.where(*at)
        yield Finding("information", "short_host", what, where, "give it `endpoints` if that is not meant")
    if not upstream.repositories.allow:
        where = config.source.where(*at, "repositories", "allow")
        yield Finding(
            "warning", "nothing_allowed", f"no repository of {name} may be pulled", where, "list some in `allow`"
        )
    for list_name in ("allow", "deny"):
        for index, pattern in enumerate(getattr(upstream.repositories, list_name)):
            if pattern.startswith(f"{name}/"):
                what = f"{pattern} names the upstream itself, and patterns are compared with names without it"
                where = config.source.where(*at, "repositories", list_name, index)
                yield Finding("warning", "pattern_with_key", what, where, f"write {pattern.removeprefix(f'{name}/')}")
