"""Who asks: the client's name once it has shown one, and its address."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from aiohttp import web

from mirror.config.access import Verb

_REMEMBERED = 4096


class Scope(Protocol):
    """What a robot's token was made for."""

    @property
    def repositories(self) -> Sequence[str]:
        """Patterns of the repositories it is for."""
        ...

    @property
    def may(self) -> Sequence[Verb]:
        """What it may do in them."""
        ...

    def covers(self, verb: Verb, name: str) -> bool:
        """Tell whether that holds a verb on a repository, by its canonical name."""
        ...


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a client has shown to be.

    `name` is what rules and logs call it: a user's own, `robot+NAME`, `cert:NAME`, `anonymous`. `scope` bounds what a
    robot may do anywhere. `granted` is there for who came with a token of ours: the verbs for each canonical name
    that the token was given for, and nothing else counts. `proof` names the credential in tokens that are given for it.
    """

    name: str
    kind: Literal["anonymous", "user", "robot", "certificate"]
    scope: Scope | None = None
    granted: Mapping[str, frozenset[str]] | None = None
    proof: str = ""

    @property
    def is_anonymous(self) -> bool:
        """Whether this is nobody in particular."""
        return self.kind == "anonymous"


ANONYMOUS = Principal("anonymous", "anonymous")
_PRINCIPAL = web.RequestKey("principal", Principal)
_ADDRESS = web.RequestKey("address", str)


def principal_of(request: web.BaseRequest) -> Principal:
    """Return who sent a request that was let in."""
    found: Principal = request.get(_PRINCIPAL, ANONYMOUS)
    return found


def address_of(request: web.BaseRequest) -> str:
    """Return from where a request that was let in came."""
    found: str = request.get(_ADDRESS, "")
    return found


def client_of(request: web.BaseRequest) -> str:
    """Return whose request it is, for whoever treats clients alike: a principal's name, else an address."""
    principal = principal_of(request)
    return principal.name if principal is not ANONYMOUS else address_of(request) or request.remote or ""


def set_principal(request: web.BaseRequest, principal: Principal, address: str) -> None:
    """Note who sent a request, and from where."""
    request[_PRINCIPAL] = principal
    request[_ADDRESS] = address


class Clients:
    """What the configuration says about clients.

    `anonymous` lets a client pull without a name. `trusted_proxies` are networks (CIDR or single addresses) whose
    X-Forwarded-For is believed; with any of them a peer on a unix socket is believed too.
    """

    def __init__(self, anonymous: bool, trusted_proxies: Sequence[str] = ()) -> None:
        self.anonymous = anonymous
        self._proxies = tuple(ipaddress.ip_network(proxy, strict=False) for proxy in trusted_proxies)
        self._trusted: dict[str, bool] = {}

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

    def scheme(self, request: web.BaseRequest) -> str:
        """Return how the client speaks to us: as the connection does, or as a trusted proxy says."""
        if self._proxies and self._trusts(request.remote or "unix"):
            stated = request.headers.get("X-Forwarded-Proto", "").strip().lower()
            if stated in ("http", "https"):
                return stated
        return "https" if request.secure else "http"

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
