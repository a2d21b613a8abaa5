"""Builds the client of every configured upstream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from yarl import URL

from mirror.errors import ConfigurationError, Problem
from mirror.upstream import tls
from mirror.upstream.client import UpstreamClient
from mirror.upstream.exchange import Endpoint
from mirror.upstream.proxy import Proxies
from mirror.upstream.redirect import Listed
from mirror.upstream.transport import Transport


class Upstreams(Mapping[str, UpstreamClient]):
    """The clients by upstream name. Must be closed."""

    def __init__(self, clients: Mapping[str, UpstreamClient]) -> None:
        self._clients = dict(clients)

    def __getitem__(self, name: str) -> UpstreamClient:
        return self._clients[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            await client.close()


def open_upstreams(config: Any, metrics: Any, environ: Mapping[str, str]) -> Upstreams:
    """Return the clients of all upstreams. Opens no connection; must be called on the event loop."""
    clients = {}
    for name, upstream in config.upstreams.items():
        authorities = [*config.ca, *([upstream.ca] if upstream.ca else [])]
        own = tls.client_context(authorities, upstream.client_certificate, upstream.client_key)
        away = tls.client_context(authorities) if upstream.client_certificate else own
        try:
            proxies = Proxies.choose(upstream.proxy, config.proxy, environ)
        except ValueError as error:
            raise ConfigurationError([Problem("proxy", str(error), f"upstreams.{name}")]) from None
        listed = Listed.parse(upstream.redirects)
        endpoints = [
            Endpoint(URL(base), Transport(own, away, proxies, listed.networks), None, listed)
            for base in upstream.endpoints
        ]
        clients[name] = UpstreamClient(name, endpoints, config.limits.fetches_per_upstream, config.limits.manifest)
    return Upstreams(clients)
