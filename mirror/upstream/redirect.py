"""Where a redirect leads, decided by hand: aiohttp would re-quote signed URLs and follow them anywhere."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from yarl import URL

from mirror.errors import UpstreamInvalid
from mirror.upstream import failures
from mirror.upstream.guard import IPNetwork, Reach, Zone, zone_of_text

_HOST = re.compile(r"[a-z0-9._-]+")
MOST_HOPS = 5
STATUSES = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Listed:
    """`redirects` of an upstream: hosts (with or without port) and networks that may be reached although private."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[IPNetwork, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Listed:
        """Return what `redirects` of a configuration spells; an address is a network of one."""
        hosts: set[str] = set()
        networks: list[IPNetwork] = []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                hosts.add(entry.lower())
        return cls(frozenset(hosts), tuple(networks))

    def names(self, url: URL) -> bool:
        """Tell whether the host of `url` is listed by name."""
        host = (url.host or "").lower()
        return host in self.hosts or f"{host}:{url.port}" in self.hosts


def same_origin(one: URL, other: URL) -> bool:
    """Tell whether scheme, host and port agree: only then may a credential go along."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def as_spelled(text: str) -> URL:
    """Return the URL that `text` spells, untouched. Raise ValueError for what is none, or has no host name's host."""
    url = URL(text, encoded=True)
    if url.host and ":" not in url.host and _HOST.fullmatch(url.host) is None:
        raise ValueError("not a host name")
    return url


def next_url(url: URL, status: int, location: str) -> URL:
    """Return where an answer of `url` redirects to; its query stays exactly as it was signed.

    Raise UpstreamInvalid for a redirect without Location, to another scheme than http or https, from https to
    http, or with a login in it.
    """
    where = failures.origin(url)
    if not location:
        raise UpstreamInvalid(f"{where} answers {status} without saying where to go", "", where)
    try:
        target = url.join(as_spelled(location)).with_fragment(None)
        readable = bool(target.host) and target.scheme in ("http", "https") and bool(target.port)
    except ValueError:
        target, readable = url, False
    if not readable:
        raise UpstreamInvalid(f"{where} redirects to an address that cannot be asked for", "", where)
    if target.user is not None or target.password is not None:
        raise UpstreamInvalid(f"{where} redirects to an address with a login in it", "", where)
    if url.scheme == "https" and target.scheme == "http":
        raise UpstreamInvalid(
            f"{where} redirects from https to http ({failures.origin(target)})", "that is refused: mend it there", where
        )
    return target


def reach_of(target: URL, listed: Listed, from_private: bool) -> Reach:
    """Return how far a redirect or realm may go; `from_private`: all that led there answered from private addresses."""
    if listed.names(target):
        return Reach.LISTED
    return Reach.PRIVATE if from_private else Reach.PUBLIC


def reach_of_endpoint(endpoint: URL) -> Reach:
    """Return the reach of a configured endpoint: link-local only if it is spelled as that very address."""
    return Reach.LITERAL if zone_of_text(endpoint.host or "") is Zone.LINK_LOCAL else Reach.ENDPOINT
