"""Which token services may see our login: CVE-2026-33540 sent it wherever a challenge said."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection

from publicsuffixlist import PublicSuffixList
from yarl import URL

from mirror.errors import UpstreamInvalid
from mirror.upstream import failures, redirect

_HTTP_PORT, _HTTPS_PORT = 80, 443


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
    or https at a host that `auth_realms` lists (host or host:port); an endpoint on plain http also http at a listed
    host:port.

    A realm that an https endpoint spells http is asked over https: a proxy that ends TLS often hides it from what is
    behind, and no login goes in the clear where the endpoint itself is asked over TLS.
    """

    def __init__(self, endpoint: URL, listed: Collection[str], suffixes: Suffixes) -> None:
        self._endpoint = endpoint
        self._suffixes = suffixes
        self._listed = frozenset(entry.lower() for entry in listed)

    def of(self, endpoint: URL) -> RealmRule:
        """Return the rule for another endpoint that the same hosts are listed for."""
        return RealmRule(endpoint, self._listed, self._suffixes)

    async def load(self) -> None:
        """Have all that `check` needs ready, without blocking."""
        await self._suffixes.load()

    def check(self, realm: str, asked: URL) -> URL:
        """Return the realm as a URL, its query kept; a relative one is resolved against `asked`.

        Raise UpstreamInvalid for one that this endpoint may not name.
        """
        try:
            url = asked.join(redirect.as_spelled(realm)).with_fragment(None)
            readable = bool(url.host) and url.scheme in ("http", "https") and url.user is None and url.password is None
            secured = self._secured(url) if readable else url
            allowed = readable and self._allows(secured)
        except ValueError:
            raise self._refusal("an address that cannot be asked for", "") from None
        if not readable:
            raise self._refusal("an address that cannot be asked for", "")
        if not allowed:
            raise self._refusal(failures.origin(url), self._remedy(url, secured))
        return secured

    def _secured(self, url: URL) -> URL:
        """Return `url` as https if the endpoint is; at the endpoint's own host its port stands for one not spelled."""
        endpoint = self._endpoint
        if not (endpoint.scheme == "https" and url.scheme == "http"):
            return url
        port = url.port
        if port == _HTTP_PORT:
            port = endpoint.port if url.host == endpoint.host else _HTTPS_PORT
        place = url.host_subcomponent if port == _HTTPS_PORT else f"{url.host_subcomponent}:{port}"
        return URL(f"https://{place}{url.raw_path_qs}", encoded=True)

    def _allows(self, url: URL) -> bool:
        endpoint = self._endpoint
        if redirect.same_origin(url, endpoint):
            return True
        names = {_spelled(url)} if url.scheme == "http" else {_spelled(url), _spelled(url, port=False)}
        if names & self._listed and (url.scheme == "https" or endpoint.scheme == "http"):
            return True
        if url.scheme != "https":
            return False
        domain = self._suffixes.registrable_domain(endpoint.host or "")
        return domain is not None and domain == self._suffixes.registrable_domain(url.host or "")

    def _remedy(self, spelled: URL, secured: URL) -> str:
        where = _spelled(secured, port=secured.scheme == "http" or not secured.is_default_port())
        if secured.scheme == "http":
            return f"if it may see the login in the clear, list {where} under `auth_realms`"
        only = "it is asked over https alone, as the endpoint is: " if spelled.scheme == "http" else ""
        return f"{only}if it may see the login, list {where} under `auth_realms`"

    def _refusal(self, what: str, remedy: str) -> UpstreamInvalid:
        return UpstreamInvalid(f"{failures.origin(self._endpoint)} sends us to log in at {what}", remedy)


def _spelled(url: URL, *, port: bool = True) -> str:
    """Return host:port, or the host alone, as `auth_realms` spells it."""
    host = (url.host or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{url.port}" if port else host
