"""The one socket guard: every address, resolved or literal, passes here before it is dialled.

A check of host names before the dial would miss what a name resolves to a moment later (DNS rebinding), and a
resolver never sees literals; aiohttp calls a connector's socket factory with both.
"""

from __future__ import annotations

import enum
import errno
import ipaddress
import re
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
AddrInfo = tuple[Any, Any, Any, Any, tuple[Any, ...]]

# Addresses of cloud metadata and host services that look like ordinary private or public ones. What they hand
# out is credentials, so they count as link-local, like 169.254.169.254: AWS (IPv6), Alibaba, Oracle, Azure.
_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
)
_NUMERIC = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Zone(enum.Enum):
    """Where an address is, as far as reaching it by somebody else's word goes."""

    PUBLIC = "public"
    PRIVATE = "private"  # loopback, private, shared, reserved
    LINK_LOCAL = "link-local"
    NEVER = "never"  # multicast, broadcast: no registry is there


class Reach(enum.Enum):
    """How far a connection may go."""

    ENDPOINT = "endpoint"  # what the configuration names: anywhere but link-local
    LITERAL = "literal"  # an endpoint that is spelled as a link-local address: there too
    PUBLIC = "public"  # where a redirect or realm leads
    PRIVATE = "private"  # the same, said by an endpoint that is itself at a private address
    LISTED = "listed"  # a host that `redirects` spells out


class AddressRefusedError(OSError):
    """The guard does not let a connection go there."""

    def __init__(self) -> None:
        # One text for every address, without the address: what several refusals have in common is kept by the
        # happy-eyeballs code, and an upstream learns nothing about our network from it.
        super().__init__(errno.EACCES, "the address is private, and neither the endpoint nor `redirects` leads there")


_ALLOWED = {
    Reach.ENDPOINT: frozenset({Zone.PUBLIC, Zone.PRIVATE}),
    Reach.LITERAL: frozenset({Zone.PUBLIC, Zone.PRIVATE, Zone.LINK_LOCAL}),
    Reach.PUBLIC: frozenset({Zone.PUBLIC}),
    Reach.PRIVATE: frozenset({Zone.PUBLIC, Zone.PRIVATE}),
    Reach.LISTED: frozenset({Zone.PUBLIC, Zone.PRIVATE, Zone.LINK_LOCAL}),
}


def zone_of(address: IPAddress) -> Zone:
    """Return where `address` leads; an IPv4 address inside an IPv6 one (mapped, 6to4, Teredo, NAT64) decides."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo:
            inner = address.teredo[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return zone_of(inner)
        address = ipaddress.IPv6Address(int(address))  # without its scope, which would make it differ
    if address.is_link_local or address in _METADATA:
        return Zone.LINK_LOCAL
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        return Zone.NEVER
    # What is reserved is nowhere now, but `::127.0.0.1` is among it.
    return Zone.PUBLIC if address.is_global and not address.is_reserved else Zone.PRIVATE


@lru_cache(1024)
def zone_of_peer(address: str) -> Zone:
    """Return where a peer is, by its address as the socket tells it: remembered, since each answer has one."""
    return zone_of(ipaddress.ip_address(address))


def zone_of_text(host: str) -> Zone | None:
    """Return where a host that is an IP literal (or `localhost`) leads; None for other names."""
    bare = host.strip("[]").rstrip(".")
    if bare.lower() == "localhost" or bare.lower().endswith(".localhost"):
        return Zone.PRIVATE
    try:
        return zone_of(ipaddress.ip_address(bare))
    except ValueError:
        pass
    # 127.1, 0x7f.1 and 2130706433 are addresses too, to whoever resolves them.
    if _NUMERIC.fullmatch(bare.lower()):
        try:
            return zone_of(ipaddress.IPv4Address(socket.inet_aton(bare)))
        except OSError:
            return Zone.NEVER
    return None


def allows(reach: Reach, zone: Zone) -> bool:
    """Tell whether a connection of this reach may go to `zone`."""
    return zone in _ALLOWED[reach]


def may_reach(reach: Reach, address: IPAddress, listed: tuple[IPNetwork, ...] = ()) -> bool:
    """Tell whether a connection of this reach may go to `address`; `listed` networks always may be reached."""
    if allows(reach, zone_of(address)):
        return True
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address.version == network.version and address in network for network in listed)


def socket_guard(reach: Reach, listed: tuple[IPNetwork, ...] = ()) -> Callable[[AddrInfo], socket.socket]:
    """Return a socket factory for a TCPConnector that raises AddressRefusedError for what is out of reach."""

    def make(info: AddrInfo) -> socket.socket:
        family, kind, protocol, _, address = info
        if not may_reach(reach, ipaddress.ip_address(str(address[0])), listed):
            raise AddressRefusedError
        return socket.socket(family=family, type=kind, proto=protocol)

    return make
