"""Who asks: the client's address, and whether it may ask at all."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from aiohttp import web

from mirror.registry.errors import Unauthorized

_REMEMBERED = 4096


class Clients:
    """What the configuration says about clients.

    `anonymous` lets a client pull without a name. `trusted_proxies` are networks (CIDR or single addresses) whose
    X-Forwarded-For is believed; with any of them a peer on a unix socket is believed too.
    """

    def __init__(self, anonymous: bool, trusted_proxies: Sequence[str] = ()) -> None:
        self._anonymous = anonymous
        self._proxies = tuple(ipaddress.ip_network(proxy, strict=False) for proxy in trusted_proxies)
        self._trusted: dict[str, bool] = {}

    def admit(self) -> None:
        """Return if the client may pull; raise Unauthorized."""
        if not self._anonymous:
            raise Unauthorized("this registry serves no anonymous clients", "log in")

    def address(self, request: web.BaseRequest) -> str:
        """Return the client's address: the peer's, or behind trusted proxies the last hop that is none of them."""
        peer = request.remote or "unix"
        if not self._proxies or not self._trusts(peer):
            return peer
        hops = [hop.strip() for field in request.headers.getall("X-Forwarded-For", ()) for hop in field.split(",")]
        found = peer
        for hop in reversed(hops):
            address = _plain(hop)
            if address is None:
                return found
            found = address
            if not self._trusts(address):
                return found
        return found

    def _trusts(self, address: str) -> bool:
        known = self._trusted.get(address)
        if known is None:
            known = self._is_proxy(address)
            if len(self._trusted) >= _REMEMBERED:
                self._trusted.clear()
            self._trusted[address] = known
        return known

    def _is_proxy(self, address: str) -> bool:
        if address == "unix":
            return True
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in proxy for proxy in self._proxies if proxy.version == parsed.version)


def _plain(hop: str) -> str | None:
    """Return a forwarded hop as an address without its port, or None if it is none."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        return str(ipaddress.ip_address(hop))
    except ValueError:
        return None
