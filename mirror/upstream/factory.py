"""Builds the client of every configured upstream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from yarl import URL

from mirror.config import Config, UpstreamConfig, effective_proxy
from mirror.metrics import Metrics
from mirror.upstream import tls
from mirror.upstream.client import UpstreamClient
from mirror.upstream.credential import CredentialSource
from mirror.upstream.exchange import Endpoint
from mirror.upstream.login import Login
from mirror.upstream.observations import Observations
from mirror.upstream.proxy import Egress
from mirror.upstream.pull_secret import OwnLogin, PullSecrets, SharedLogin, hosts_asked
from mirror.upstream.realm import RealmRule, Suffixes
from mirror.upstream.redirect import Listed
from mirror.upstream.tokens import TokenCache
from mirror.upstream.transport import Transport

# Connections beside the large blobs': manifests and tags, HEADs, referrers, small blobs, tokens.
_SMALL_CONNECTIONS = 32
_MOST_CONNECTIONS = 1024


class Upstreams(Mapping[str, UpstreamClient]):
    """The clients by upstream name. Must be closed."""

    def __init__(self, clients: Mapping[str, UpstreamClient], tokens: TokenCache) -> None:
        self._clients = dict(clients)
        self._tokens = tokens

    def __getitem__(self, name: str) -> UpstreamClient:
        return self._clients[name]

    def __contains__(self, name: object) -> bool:
        return name in self._clients

    def __iter__(self) -> Iterator[str]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)

    async def close(self) -> None:
        """Close every connection."""
        await self._tokens.close()
        for client in self._clients.values():
            await client.close()


def open_upstreams(config: Config, metrics: Metrics | None, environ: Mapping[str, str]) -> Upstreams:
    """Return the clients of all upstreams. Opens no connection and reads no secret yet; needs a running event loop.

    `environ` is where HTTPS_PROXY and its kin are looked up. Raise ConfigurationError for a CA, a client certificate
    or a proxy that cannot be used.
    """
    factory = _Factory(config, metrics, environ)
    return Upstreams({name: factory.client(upstream) for name, upstream in config.upstreams.items()}, factory.tokens)


class _Factory:
    """What the upstreams share: tokens, the public-suffix list, pull secrets."""

    def __init__(self, config: Config, metrics: Metrics | None, environ: Mapping[str, str]) -> None:
        self._config = config
        self._metrics = metrics
        self._environ = environ
        self._suffixes = Suffixes()
        self._pull_secrets = PullSecrets(config.pull_secrets, hosts_asked(config.upstreams.values()))
        self._contexts = tls.Contexts(config.ca)
        self.tokens = TokenCache()

    def client(self, upstream: UpstreamConfig) -> UpstreamClient:
        """Return the client of one upstream."""
        limits = self._config.limits
        observations = Observations(upstream.name, self._metrics)
        endpoints = [self._endpoint(upstream, URL(base), observations) for base in upstream.endpoints]
        return UpstreamClient(upstream.name, endpoints, observations, limits.fetches_per_upstream, limits.manifest)

    def _endpoint(self, upstream: UpstreamConfig, base: URL, observations: Observations) -> Endpoint:
        listed = Listed.parse(upstream.redirects)
        fetches = self._config.limits.fetches_per_upstream
        transport = Transport(
            self._contexts.for_endpoint(upstream.ca, upstream.client_certificate, upstream.client_key),
            self._contexts.for_endpoint(upstream.ca),
            Egress(effective_proxy(self._config, self._environ, upstream)),
            listed.networks,
            fetches + _SMALL_CONNECTIONS if fetches else _MOST_CONNECTIONS,
        )
        own = upstream.credentials
        source: CredentialSource = SharedLogin(upstream.name, self._pull_secrets)
        if own:
            source = OwnLogin(own.username, own.password_file)
        realms = RealmRule(base, upstream.auth_realms, self._suffixes)
        login = Login(base, transport, source, realms, self.tokens, listed)
        return Endpoint(base, transport, login, listed, observations)
