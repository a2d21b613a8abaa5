"""Which egress proxy a request goes through, if any: the upstream's own, the configuration's, the environment's."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import BasicAuth
from yarl import URL

from mirror.upstream.secret import Secret


@dataclass(frozen=True, slots=True)
class Proxy:
    """One egress proxy; `source` says which setting it came from."""

    url: URL
    source: str
    username: str = ""
    password: Secret = field(default_factory=lambda: Secret(""))

    @classmethod
    def parse(cls, text: str, source: str) -> Proxy:
        """Return the proxy that `text` names: a URL, or host:port as curl takes it. Raise ValueError."""
        url = URL(text if "://" in text else f"http://{text}")
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"{source} is no http:// or https:// address of a proxy")
        return cls(url.with_user(None), source, url.user or "", Secret(url.password or ""))

    def login(self) -> BasicAuth | None:
        """Return what to send as Proxy-Authorization."""
        return BasicAuth(self.username, self.password.reveal()) if self.username else None


class NoProxy:
    """NO_PROXY as OpenShift and Go write it: names with their subdomains, `.suffix`, host:port, addresses, CIDRs, `*`.

    aiohttp's own test (urllib's) knows no CIDRs. Names are not resolved to be compared with a CIDR.
    """

    def __init__(self, text: str) -> None:
        self._entries = [entry for entry in text.replace(",", " ").lower().split() if entry]

    def covers(self, url: URL) -> bool:
        """Tell whether `url` is asked directly. Loopback always is."""
        host, port = (url.host or "").lower().rstrip("."), url.port or 0
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            address = None
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_covers(entry, host, port, address) for entry in self._entries)


def _covers(entry: str, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if entry == "*":
        return True
    name, wanted_port = entry, ""
    if entry.startswith("["):
        name, _, wanted_port = entry[1:].partition("]")
        wanted_port = wanted_port.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, wanted_port = entry.partition(":")
    if wanted_port and wanted_port != str(port):
        return False
    if address is not None:
        try:
            return address in ipaddress.ip_network(name, strict=False)
        except ValueError:
            return False
    name = name.removeprefix("*")
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith(f".{name}")


class Proxies:
    """The proxies of one upstream."""

    def __init__(self, http: Proxy | None, https: Proxy | None, no_proxy: NoProxy) -> None:
        self._http = http
        self._https = https
        self._no_proxy = no_proxy

    @classmethod
    def choose(cls, own: str | None, configured: str | None, environ: Mapping[str, str]) -> Proxies:
        """Return the proxies by the first that is set: the upstream's `own`, the `configured` one, the environment's.

        NO_PROXY holds for each but an upstream's own. Raise ValueError for an address that cannot be read.
        """
        no_proxy = NoProxy(_variable(environ, "NO_PROXY"))
        for text, source, exceptions in (
            (own, "the upstream's proxy", NoProxy("")),
            (configured, "proxy", no_proxy),
        ):
            if text:
                proxy = Proxy.parse(text, source)
                return cls(proxy, proxy, exceptions)
        https, http = _variable(environ, "HTTPS_PROXY"), _variable(environ, "HTTP_PROXY")
        return cls(
            Proxy.parse(http, "HTTP_PROXY") if http else None,
            Proxy.parse(https, "HTTPS_PROXY") if https else None,
            no_proxy,
        )

    def for_url(self, url: URL) -> Proxy | None:
        """Return the proxy for `url`, or None for a direct connection."""
        proxy = self._https if url.scheme == "https" else self._http
        return None if proxy is None or self._no_proxy.covers(url) else proxy


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "") or environ.get(name.lower(), "")
