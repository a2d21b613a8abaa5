"""One request, one answer: the connections to one upstream, each behind the socket guard."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

import mirror
from mirror.oci.media_types import bare
from mirror.upstream import coding, failures
from mirror.upstream.framing import Connector
from mirror.upstream.guard import IPNetwork, Reach, Zone, socket_guard, zone_of_peer
from mirror.upstream.proxy import Egress

# faults.md 2.1, "Connect timeout": one dead address must not eat the time of the next endpoint.
CONNECT_SECONDS = 3.5
# Large buffers make few turns of the loop: what a blob costs a MiB is turns, not bytes.
BLOB_BUFFER = 1 << 20
# Signed URLs in Location and Link outgrow aiohttp's 8 KiB.
_FIELD_LIMIT = 32 * 1024
_WEB_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_HOME = frozenset({Reach.ENDPOINT, Reach.LITERAL})
_KEEPALIVE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask: an absolute URL that is sent as it is spelled, and headers."""

    method: str
    url: URL
    headers: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] | None = None
    buffer: int = 64 * 1024  # of the answer's body, in bytes


class _Response(aiohttp.ClientResponse):
    """A response that remembers who sent it: the connection is given back before a bodyless answer is seen."""

    zone: Zone | None = None

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        peer = connection.transport.get_extra_info("peername") if connection.transport else None
        if peer:
            self.zone = zone_of_peer(str(peer[0]))
        return await super().start(connection)


class Answer:
    """Status and headers of an answer whose body is still to be read or closed."""

    __slots__ = ("_response", "from_private", "url")

    def __init__(self, response: aiohttp.ClientResponse, url: URL, from_private: bool) -> None:
        self._response = response
        self.url = url
        self.from_private = from_private  # it came from a loopback or private address, seen directly

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status

    def header(self, name: str) -> str:
        """Return the header's value, or an empty string."""
        return self._response.headers.get(name, "")

    def header_lines(self, name: str) -> list[str]:
        """Return every line of this header."""
        return self._response.headers.getall(name, [])

    @property
    def codings(self) -> tuple[str, ...]:
        """The codings that the body is in; none for the plain bytes that were asked for."""
        return coding.named(self.header("Content-Encoding"))

    @property
    def is_web_page(self) -> bool:
        """Whether the body is typed as a page for people."""
        return bare(self.header("Content-Type")) in _WEB_PAGES

    @property
    def content(self) -> aiohttp.StreamReader:
        """The body as it arrives."""
        return self._response.content

    def close(self) -> None:
        """Give the connection back if the body is at its end, else drop it. Safe to call twice."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class Transport:
    """The connections of one endpoint, one pool for each reach, so that a pooled one never widens another's reach.

    `own` is the TLS context for the endpoint (with a client certificate, if any), `away` for where redirects and
    realms lead. `limit` bounds the connections of each pool.
    """

    def __init__(
        self,
        own: ssl.SSLContext,
        away: ssl.SSLContext,
        egress: Egress,
        listed: tuple[IPNetwork, ...] = (),
        limit: int = 64,
    ) -> None:
        self._own = own
        self._away = away
        self._egress = egress
        self._listed = listed
        self._limit = limit
        self._sessions: dict[tuple[Reach, bool], aiohttp.ClientSession] = {}

    async def send(self, request: Request, reach: Reach, deadline: float) -> Answer:
        """Send `request` and return its answer as soon as the headers are there.

        Raise UpstreamUnavailable when there is none within `deadline` seconds or the connection fails, and
        UpstreamInvalid when what answers does not speak HTTP or lies out of reach.
        """
        proxy = self._egress.for_url(request.url)
        if proxy is not None:
            failures.refuse_literal(request.url, reach, self._listed)
        session = self._session(reach, proxied=proxy is not None)
        headers = dict(request.headers)
        proxy_headers: dict[str, str] = {}
        if proxy is not None and proxy.authorization:
            # Of https the proxy sees only the CONNECT, of http the request itself.
            to_proxy = proxy_headers if request.url.scheme == "https" else headers
            to_proxy["Proxy-Authorization"] = proxy.authorization.reveal()
        try:
            async with asyncio.timeout(deadline):
                response = await session.request(
                    request.method,
                    request.url,
                    headers=headers,
                    data=request.form,
                    allow_redirects=False,
                    proxy=proxy.url if proxy else None,
                    proxy_headers=proxy_headers or None,
                    read_bufsize=request.buffer,
                )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise failures.explain(error, request.url, deadline, proxied=proxy is not None) from None
        zone = response.zone if isinstance(response, _Response) and proxy is None else None
        return Answer(response, request.url, from_private=zone is Zone.PRIVATE)

    async def close(self) -> None:
        """Close every connection."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    def _session(self, reach: Reach, proxied: bool) -> aiohttp.ClientSession:
        session = self._sessions.get((reach, proxied))
        if session is None:
            # What a proxied connection dials is the proxy, which the configuration names.
            guard = socket_guard(Reach.LISTED if proxied else reach, self._listed)
            connector = Connector(
                limit=self._limit,
                ssl=self._own if reach in _HOME else self._away,
                socket_factory=guard,
                keepalive_timeout=_KEEPALIVE_SECONDS,
            )
            session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                headers={"User-Agent": f"mirror/{mirror.__version__}", "Accept-Encoding": "identity"},
                max_field_size=_FIELD_LIMIT,
                response_class=_Response,
            )
            self._sessions[reach, proxied] = session
        return session
