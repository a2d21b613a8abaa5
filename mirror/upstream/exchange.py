"""One question to one endpoint: login, redirects and encodings dealt with, the status turned into an error."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from yarl import URL

from mirror.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.oci.media_types import ACCEPT, bare
from mirror.upstream import failures, redirect
from mirror.upstream.endpoints import LAST_SECONDS, Breaker
from mirror.upstream.guard import Reach
from mirror.upstream.retry import parse_retry_after
from mirror.upstream.transport import Answer, Request, Transport

_LOGIN_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_ABSENT = frozenset({404, 410})
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
# What a signed URL says when it is over: S3, GCS and Azure use 400, 401 and 403.
_EXPIRED = frozenset({400, 401, 403})
_FRESH_LOCATIONS = 2


@dataclass(frozen=True, slots=True)
class Ask:
    """What an operation wants of a repository: `path` follows `/v2/<repository>/`, its query included."""

    kind: str  # ping, manifest, blob, tags, referrers: for the breaker's pauses, metrics and texts
    method: str
    repository: str
    path: str
    headers: Mapping[str, str] = field(default_factory=lambda: {"Accept": ACCEPT})
    buffer: int = 64 * 1024


class Login(Protocol):
    """What makes the Authorization header of one endpoint."""

    async def authorization(self, repository: str) -> str | None:
        """Return the header for a request to `repository`, or None to ask without."""
        ...

    async def renew(self, repository: str, refused: Answer, sent: str | None) -> str | None:
        """Return a new header after a 401, or None when there is nothing else to try."""
        ...


class Endpoint:
    """One base URL of an upstream: requests go to `<base>/v2/<repository>/…`."""

    def __init__(self, base: URL, transport: Transport, login: Login | None, listed: redirect.Listed) -> None:
        self.base = base
        self.name = str(base)
        self.transport = transport
        self.login = login
        self.breaker = Breaker(asyncio.get_running_loop().time)
        self.last_error = ""
        self._listed = listed
        self._reach = redirect.reach_of_endpoint(base)

    async def ask(self, ask: Ask) -> Answer:
        """Return the answer, a 2xx, with its body still to be read. Raise UpstreamError; nothing is retried here
        but what belongs to one question: one login, a fresh signed URL, one encoded answer."""
        self.breaker.begin()
        try:
            async with asyncio.timeout(LAST_SECONDS):
                answer = await self._plain(ask)
        except TimeoutError:
            self.breaker.failed()
            raise UpstreamUnavailable(
                f"{failures.origin(self.base)} sent no answer within {LAST_SECONDS:.0f} s", "", self.name
            ) from None
        except UpstreamError as error:
            error.endpoint = self.name
            self.last_error = str(error)
            if isinstance(error, UpstreamUnavailable) and not error.retry_after:
                self.breaker.failed()
            else:
                self.breaker.succeeded()
            raise
        except BaseException:
            self.breaker.abandoned()
            raise
        self.breaker.succeeded()
        self.last_error = ""
        return answer

    async def _plain(self, ask: Ask) -> Answer:
        for last in (False, True):
            answer = await self._landed(ask)
            try:
                _check(answer, ask)
            except BaseException:
                answer.close()
                raise
            if answer.header("Content-Encoding").lower() in ("", "identity"):
                return answer
            answer.close()
            if last:
                break
        raise UpstreamInvalid(
            f"{failures.origin(answer.url)} sends bodies encoded although asked not to",
            "a proxy on the way may compress: exempt this registry there",
        )

    async def _landed(self, ask: Ask) -> Answer:
        for _ in range(_FRESH_LOCATIONS + 1):
            answer = await self._registry(ask)
            answer, away = await self._follow(ask, answer)
            if not away or answer.status not in _EXPIRED:
                return answer
            answer.close()
        raise UpstreamUnavailable(
            f"{failures.origin(answer.url)} refuses the address that {failures.origin(self.base)} signed for it "
            f"({answer.status})",
            "if it goes on, compare the clocks",
        )

    async def _registry(self, ask: Ask) -> Answer:
        url = self.url(ask)
        sent = await self.login.authorization(ask.repository) if self.login else None
        answer = await self._send(ask, url, self._reach, sent)
        if answer.status != 401 or self.login is None:
            return answer
        answer.close()
        renewed = await self.login.renew(ask.repository, answer, sent)
        return answer if renewed is None else await self._send(ask, url, self._reach, renewed)

    def url(self, ask: Ask) -> URL:
        """Return where to send `ask`."""
        repository = f"{ask.repository}/" if ask.repository else ""
        return URL(f"{self.name.rstrip('/')}/v2/{repository}{ask.path}", encoded=True)

    async def _send(self, ask: Ask, url: URL, reach: Reach, authorization: str | None) -> Answer:
        headers = dict(ask.headers)
        if authorization:
            headers["Authorization"] = authorization
        return await self.transport.send(Request(ask.method, url, headers, None, ask.buffer), reach, LAST_SECONDS)

    async def _follow(self, ask: Ask, answer: Answer) -> tuple[Answer, bool]:
        private, away = True, False
        for _ in range(redirect.MOST_HOPS):
            if answer.status not in redirect.STATUSES:
                return answer, away
            answer.close()
            private = private and answer.from_private
            target = redirect.next_url(answer.url, answer.status, answer.header("Location"))
            at_home = not away and redirect.same_origin(target, self.base)
            away = not at_home
            reach = self._reach if at_home else redirect.reach_of(target, self._listed, private)
            authorization = await self.login.authorization(ask.repository) if at_home and self.login else None
            answer = await self._send(ask, target, reach, authorization)
        if answer.status not in redirect.STATUSES:
            return answer, away
        answer.close()
        raise UpstreamInvalid(f"{failures.origin(self.base)} redirects more than {redirect.MOST_HOPS} times")


def _check(answer: Answer, ask: Ask) -> None:
    status, where = answer.status, failures.origin(answer.url)
    if status in (200, 206):
        if ask.kind != "ping" and bare(answer.header("Content-Type")) in _LOGIN_PAGES:
            raise UpstreamInvalid(
                f"{where} answers with a web page", "is it a registry, or does a portal or proxy ask for a login?"
            )
        return
    named = f"'{ask.repository}'" if ask.repository else "that"
    if status in _ABSENT:
        raise UpstreamNotFound(f"{where} has no such {ask.kind} in {named}")
    if status in (401, 402, 403, 451):
        raise UpstreamDenied(f"{where} does not give {named} to us ({status})")
    if status in _LATER or status >= 500:
        later = parse_retry_after(answer.header("Retry-After"))
        raise UpstreamUnavailable(f"{where} answers {status}", "", "", later)
    raise UpstreamInvalid(f"{where} answers {status} to a {ask.kind} of {named}")
