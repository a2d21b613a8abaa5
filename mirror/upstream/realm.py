"""Which token services may see our login: CVE-2026-33540 sent it wherever a challenge said."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection

from publicsuffixlist import PublicSuffixList
from yarl import URL

from mirror.errors import UpstreamInvalid
from mirror.upstream import failures, redirect


class Suffixes:
    """The shipped public-suffix list; loaded in a thread when it is first needed, which takes a tenth of a second."""

    def __init__(self) -> None:
        self._list: PublicSuffixList | None = None

    async def load(self) -> None:
        """Have the list ready for `registrable_domain`."""
        if self._list is None:
            self._list = await asyncio.to_thread(PublicSuffixList)

    def registrable_domain(self, host: str) -> str | None:
        """Return the registrable domain of a host name; None for addresses, single labels and public suffixes."""
        name = host.lower().rstrip(".")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            if self._list is None:
                self._list = PublicSuffixList()
            found: str | None = self._list.privatesuffix(name)
            return found
        return None


class RealmRule:
    """What one endpoint may name as its realm: itself (same scheme, host and port), https in its registrable domain,
    or https at a host that `auth_realms` lists (host or host:port)."""

    def __init__(self, endpoint: URL, listed: Collection[str], suffixes: Suffixes) -> None:
        self._endpoint = endpoint
        self._suffixes = suffixes
        self._listed = frozenset(entry.lower() for entry in listed)

    def check(self, realm: str, asked: URL) -> URL:
        """Return the realm as a URL, its query kept; a relative one is resolved against `asked`.

        Raise UpstreamInvalid for one that this endpoint may not name.
        """
        try:
            url = asked.join(redirect.as_spelled(realm)).with_fragment(None)
            readable = bool(url.host) and url.scheme in ("http", "https") and url.user is None and url.password is None
            allowed = readable and self._allows(url)
        except ValueError:
            raise self._refusal("an address that cannot be asked for", "") from None
        if not readable:
            raise self._refusal("an address that cannot be asked for", "")
        if not allowed:
            remedy = ""
            if url.scheme == "https":
                remedy = f"if it may see the login, list {url.host} under `auth_realms`"
            raise self._refusal(failures.origin(url), remedy)
        return url

    def _allows(self, url: URL) -> bool:
        endpoint = self._endpoint
        if (url.scheme, url.host, url.port) == (endpoint.scheme, endpoint.host, endpoint.port):
            return True
        if url.scheme != "https":
            return False
        host = (url.host or "").rstrip(".")
        if host in self._listed or f"{host}:{url.port}" in self._listed:
            return True
        domain = self._suffixes.registrable_domain(endpoint.host or "")
        return domain is not None and domain == self._suffixes.registrable_domain(host)

    def _refusal(self, what: str, remedy: str) -> UpstreamInvalid:
        return UpstreamInvalid(f"{failures.origin(self._endpoint)} sends us to log in at {what}", remedy)
