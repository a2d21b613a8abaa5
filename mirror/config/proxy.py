"""Which forward proxy requests take, and where that was said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mirror.config.addresses import parse_proxy
from mirror.config.model import Config
from mirror.config.upstreams import UpstreamConfig
from mirror.config.values import SpellingError
from mirror.errors import ConfigurationError, Problem


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxies for http and https URLs (None: the direct way), the text of NO_PROXY, and where the proxy was said.

    The URLs may hold a password, so they are not in the repr; `shown` is for people.
    """

    http: str | None = field(default=None, repr=False)
    https: str | None = field(default=None, repr=False)
    no_proxy: str = ""
    source: str = ""

    @property
    def shown(self) -> str:
        """The proxy for https (else for http) without a user name or password; empty for none."""
        scheme, _, rest = (self.https or self.http or "").partition("://")
        login, at, host = rest.rpartition("@")
        return f"{scheme}://{'…@' if at else login}{host}" if rest else ""


def effective_proxy(config: Config, environ: Mapping[str, str], upstream: UpstreamConfig | None = None) -> Proxy:
    """Return the proxy for requests to `upstream`, or for requests that belong to none.

    The upstream's own `proxy` is first, then the general one, then HTTPS_PROXY and HTTP_PROXY of `environ`, each also
    in lower case. NO_PROXY holds for the last two. Raise ConfigurationError if the environment's is not a proxy.
    """
    if upstream is not None and upstream.proxy is not None:
        return Proxy(upstream.proxy, upstream.proxy, "", f"upstreams.{upstream.name}.proxy")
    no_proxy = _variable(environ, "NO_PROXY")[1]
    if config.proxy is not None:
        return Proxy(config.proxy, config.proxy, no_proxy, "proxy")
    found: dict[str, str] = {}
    for scheme in ("HTTPS", "HTTP"):
        name, value = _variable(environ, f"{scheme}_PROXY")
        if value:
            found[scheme] = _read(name, value)
    if not found:
        return Proxy()
    source = f"{' and '.join(f'{scheme}_PROXY' for scheme in found)} of the environment"
    return Proxy(found.get("HTTP"), found.get("HTTPS"), no_proxy, source)


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    for spelling in (name, name.lower()):
        if value := environ.get(spelling, "").strip():
            return spelling, value
    return name, ""


def _read(name: str, value: str) -> str:
    try:
        return parse_proxy(value, user_information=True)
    except SpellingError:
        # What the variable holds may be a password, so the parser's words about it stay here.
        what = f"the environment's {name} is not the URL of a proxy"
        raise ConfigurationError([Problem("proxy", what, name, "write http://host:port")]) from None
