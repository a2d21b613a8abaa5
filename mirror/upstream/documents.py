"""Plain documents that are kept beside registries (the update graph, signatures), over http, https or from a file."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from mirror.config import Config, effective_proxy
from mirror.errors import (
    NotHere,
    UpstreamDenied,
    UpstreamError,
    UpstreamInterrupted,
    UpstreamInvalid,
    UpstreamUnavailable,
)
from mirror.line import Line
from mirror.metrics import Metrics
from mirror.oci.media_types import bare
from mirror.outside import Outside
from mirror.upstream import certificates, document_urls, failures, redirect, tls
from mirror.upstream.body import BlobBody
from mirror.upstream.endpoints import LAST_SECONDS
from mirror.upstream.guard import Reach
from mirror.upstream.observations import Observations
from mirror.upstream.proxy import Egress
from mirror.upstream.retry import Retry, RetryAllowance, parse_retry_after
from mirror.upstream.transport import Answer, Request, Transport

_CONNECTIONS = 8
# Nobody waits at the other end as a node does: a Retry-After of half a minute is worth its while.
_BUDGET_SECONDS = 60.0
# How long a server that nobody reached is left alone: a set asks for hundreds of signatures, one after another.
AWAY_SECONDS = 30.0
_OBSERVED_AS = "documents"

_ABSENT = frozenset({404, 410})
_DENIED = frozenset({401, 402, 403, 451})
_LATER = frozenset({408, 425, 429})
_PAGES = frozenset({"text/html", "application/xhtml+xml"})


def open_documents(
    config: Config, environ: Mapping[str, str], metrics: Metrics | None = None, outside: Outside | None = None
) -> Documents:
    """Return what fetches documents. Opens no connection yet; needs a running event loop.

    `environ` is where HTTPS_PROXY and its kin are looked up; `outside` opens the files of file: URLs, by default this
    process does. Raise ConfigurationError for a CA or a proxy that cannot be used.
    """
    context = tls.Contexts(config.ca).for_endpoint(None)
    egress = Egress(effective_proxy(config, environ))
    observations = Observations(_OBSERVED_AS, metrics)
    opener = os.open if outside is None else outside.open
    return Documents(
        Transport(context, context, egress, limit=_CONNECTIONS), egress, observations, opener, offline=config.offline
    )


@dataclass(slots=True)
class _Origin:
    """What is remembered of one server: documents of another are not to wait for it."""

    retry: Retry
    away: UpstreamUnavailable | None = None
    away_until: float = 0.0


class Documents:
    """Fetches documents, at most eight at a time. Must be closed. Make it with `open_documents`."""

    def __init__(
        self,
        transport: Transport,
        egress: Egress,
        observations: Observations,
        opener: Callable[[Path, int], int],
        *,
        offline: bool,
    ) -> None:
        self._transport = transport
        self._egress = egress
        self._observations = observations
        self._opener = opener
        self._offline = offline
        self._lane = Line(_CONNECTIONS)
        self._origins: dict[URL, _Origin] = {}

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def get(
        self, url: str, *, limit: int, accept: str = "*/*", params: Mapping[str, str] | None = None
    ) -> bytes | None:
        """Return the document at `url`, at most `limit` bytes; None where there is none (404, 410, no such file).

        `params` are added to the query. Redirects are followed (five, never from https to http), passing failures
        tried again. `file:///…` is read from disk, also while offline.

        Raise UpstreamUnavailable when it cannot be had now (UpstreamInterrupted: it broke off), UpstreamDenied for 401
        and 403, UpstreamInvalid for what is too large or no document, NotHere while offline, ConfigurationError for a
        URL that can never be asked for.
        """
        asked = document_urls.checked(url, params or {})
        if asked.scheme == "file":
            return await asyncio.to_thread(document_urls.read_file, asked, limit, self._opener)
        if self._offline:
            raise NotHere(
                f"{asked.origin()} is not asked and the mirror is offline", "set `offline: false`, or give a file: URL"
            )
        clock = asyncio.get_running_loop().time
        origin = self._origins.setdefault(asked.origin(), _Origin(Retry(RetryAllowance(), budget=_BUDGET_SECONDS)))
        if origin.away is not None and clock() < origin.away_until:
            wait = origin.away_until - clock()
            what = f"{origin.away.what}; it is asked again in {math.ceil(wait)} s"
            raise UpstreamUnavailable(what, origin.away.remedy, origin.away.endpoint, wait)
        try:
            return await origin.retry.run(lambda: self._ask(asked, limit, accept))
        except UpstreamUnavailable as error:
            if not isinstance(error, _Later | UpstreamInterrupted):
                origin.away, origin.away_until = error, clock() + AWAY_SECONDS
            raise

    async def _ask(self, url: URL, limit: int, accept: str) -> bytes | None:
        async with self._lane.place():
            try:
                answer = await self._landed(url, accept)
                try:
                    if answer.status in _ABSENT:
                        return None
                    _check(answer)
                    return await self._body(answer, limit)
                finally:
                    answer.close()
            except UpstreamError as error:
                self._observations.failed(error)
                raise

    async def _landed(self, url: URL, accept: str) -> Answer:
        """Return the answer at the end of all redirects."""
        home = redirect.reach_of_endpoint(url)
        answer = await self._send(url, home, accept)
        private = True
        for _ in range(redirect.MOST_HOPS):
            if answer.status not in redirect.STATUSES:
                return answer
            answer.close()
            private = private and answer.from_private
            target = redirect.next_url(answer.url, answer.status, answer.header("Location"))
            at_home = redirect.same_origin(target, url)
            answer = await self._send(
                target, home if at_home else redirect.reach_of(target, redirect.Listed(), private), accept
            )
        if answer.status in redirect.STATUSES:
            answer.close()
            raise UpstreamInvalid(
                f"{url.origin()} redirects more than {redirect.MOST_HOPS} times", "", failures.origin(url)
            )
        return answer

    async def _send(self, url: URL, reach: Reach, accept: str) -> Answer:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            answer = await self._transport.send(Request("GET", url, {"Accept": accept}), reach, LAST_SECONDS)
        except failures.AddressForbidden:
            raise UpstreamInvalid(
                f"{url.origin()} lies in a private network, where no server outside it may lead",
                "if that is right, configure that very address",
                failures.origin(url),
            ) from None
        except UpstreamUnavailable as error:
            direct = self._egress.for_url(url) is None
            if direct and isinstance(error, failures.CertificateRefused):
                error.add(await certificates.describe(url, reach))
            elif direct:
                way = f"a firewall must let this host reach {url.host} port {url.port}, or `proxy` name the way out"
                error.remedy = f"{error.remedy}; {way}" if error.remedy else way
            raise
        self._observations.answered(clock() - began)
        return answer

    async def _body(self, answer: Answer, limit: int) -> bytes:
        where = failures.origin(answer.url)
        announced = answer.header("Content-Length")
        if announced.isascii() and announced.isdecimal() and int(announced[:20]) > limit:
            raise UpstreamInvalid(f"{where} sends a document of {announced[:20]} bytes, over the limit of {limit}")
        body = BlobBody(answer, 0, None, None, where)
        body.when_done(self._observations.received)
        content = bytearray()
        try:
            while piece := await body.read():
                content += piece
                if len(content) > limit:
                    raise UpstreamInvalid(f"{where} sends a document over the limit of {limit} bytes")
        finally:
            body.close_now()
        return bytes(content)


class _Later(UpstreamUnavailable):
    """The server is there, and cannot give the document now."""


def _check(answer: Answer) -> None:
    """Raise UpstreamError unless the answer is a 200 with a document for a body."""
    status, where = answer.status, failures.origin(answer.url)
    if status in _DENIED:
        raise UpstreamDenied(
            f"{where} does not give us that document ({status})",
            "it must be readable without a login: check the address, and whether a firewall or proxy answers instead",
            where,
        )
    if status in _LATER or status >= 500:
        later = parse_retry_after(answer.header("Retry-After"))
        raise _Later(f"{where} answers {status}", "try again later", where, later)
    if status == 407:
        raise UpstreamInvalid("the egress proxy wants a login (407)", "check `proxy` and its login", where)
    if status != 200:
        raise UpstreamInvalid(f"{where} answers {status}", "is the address right?", where)
    if bare(answer.header("Content-Type")) in _PAGES:
        raise UpstreamInvalid(
            f"{where} answers with a web page", "is the address right, or does a portal or proxy want a login?", where
        )
    if answer.header("Content-Encoding").strip().lower() not in ("", "identity"):
        raise UpstreamInvalid(
            f"{where} sends documents encoded although asked not to",
            "a proxy on the way may compress: exempt this server there",
            where,
        )
