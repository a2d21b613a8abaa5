"""Which egress proxy a request takes, with NO_PROXY as OpenShift and Go write it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from yarl import URL

from mirror.config import Proxy
from mirror.upstream.credential import Credential
from mirror.upstream.secret import Secret

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Hop:
    """One proxy: its URL without the login, and what to send it as Proxy-Authorization (empty: nothing)."""

    url: URL
    authorization: Secret


class NoProxy:
    """NO_PROXY: names with their subdomains, `.suffix`, host:port, addresses, CIDRs, `*`.

    aiohttp's own test (urllib's) knows no CIDRs. Names are not resolved to be compared with one.
    """

    def __init__(self, text: str) -> None:
        self._entries = text.replace(",", " ").lower().split()

    def covers(self, url: URL) -> bool:
        """Tell whether `url` is asked directly; this host's own loopback always is."""
        host, port = (url.host or "").lower().rstrip("."), url.port or 0
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            address = None
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_covers(entry, host, port, address) for entry in self._entries)


def _covers(entry: str, host: str, port: int, address: _Address | None) -> bool:
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


class Egress:
    """The way out of one upstream."""

    def __init__(self, proxy: Proxy) -> None:
        self._http = _hop(proxy.http)
        self._https = _hop(proxy.https)
        self._no_proxy = NoProxy(proxy.no_proxy)
        # An upstream's own proxy is meant for it, wherever it is: `effective_proxy` gives it no exceptions.
        self._always = bool(proxy.source) and proxy.source.startswith("upstreams.")

    def for_url(self, url: URL) -> Hop | None:
        """Return the proxy that a request to `url` takes, or None for the direct way."""
        hop = self._https if url.scheme == "https" else self._http
        return None if hop is None or (not self._always and self._no_proxy.covers(url)) else hop


def _hop(text: str | None) -> Hop | None:
    if text is None:
        return None
    url = URL(text)
    login = Credential(url.user or "", Secret(url.password or ""))
    return Hop(url.with_user(None), Secret(login.basic if login.username else ""))
