"""One question to one endpoint: login, redirects and encodings dealt with, the status turned into an error."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from yarl import URL

from mirror.errors import (
    NotOffered,
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.oci.media_types import ACCEPT
from mirror.upstream import certificates, coding, failures, guests, redirect
from mirror.upstream.body import read_whole
from mirror.upstream.breakers import Breakers
from mirror.upstream.endpoints import FAILURES, LAST_SECONDS, Breaker
from mirror.upstream.guard import Reach
from mirror.upstream.health import EndpointHealth, ProbeResult
from mirror.upstream.login import Login
from mirror.upstream.observations import Observations
from mirror.upstream.pauses import Pauses
from mirror.upstream.retry import parse_retry_after
from mirror.upstream.secret import Secret
from mirror.upstream.token_service import TokenServiceAway
from mirror.upstream.transport import Answer, Request, Transport

_ABSENT = frozenset({404, 410})
_DENIED = frozenset({401, 402, 403, 451})
_LATER = frozenset({408, 425, 429})
_BAD_REQUEST = frozenset({400, 422})
# Registries without HEAD, and filters before them (moby#28085: docker asks by GET after any HEAD that failed).
_HEAD_FAILS = frozenset({500, 502})
_PAGES_PASS = frozenset({("ping", "GET"), ("blob", "GET")})
# Of a question that a registry need not understand these speak of us or of the way, and not of the question.
_OF_US = _ABSENT | _DENIED | _LATER | {407}
# What a signed URL says when its time is over: S3, GCS and Azure use 400, 401 and 403.
_EXPIRED = frozenset({400, 401, 403})
_FRESH_LOCATIONS = 2
_CERTIFICATE_SECONDS = 60.0
_PING_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Ask:
    """What an operation wants of a repository: `path` follows `/v2/<repository>/`, its query included.

    `kind` is one of ping, manifest, blob, tags, referrers.
    """

    kind: str
    method: str
    repository: str
    path: str
    headers: Mapping[str, str] = field(default_factory=lambda: {"Accept": ACCEPT})
    buffer: int = 64 * 1024


class Endpoint:
    """One base URL of an upstream: requests go to `<base>/v2/<repository>/…`."""

    def __init__(
        self,
        base: URL,
        transport: Transport,
        login: Login,
        listed: redirect.Listed,
        observations: Observations,
    ) -> None:
        self.base = base
        self.name = str(base).rstrip("/")
        self.login = login
        self.breakers = Breakers(asyncio.get_running_loop().time)
        self.probes: set[asyncio.Future[Any]] = set()
        self.last_error = ""
        self._judged = 0.0
        self._transport = transport
        self._listed = listed
        self._observations = observations
        self._pauses = Pauses(asyncio.get_running_loop().time)
        self._reach = redirect.reach_of_endpoint(base)
        self._certificate_says = ""
        self._certificate_until = 0.0

    async def close(self) -> None:
        """Close every connection."""
        for probe in self.probes:
            probe.cancel()
        await asyncio.gather(*self.probes, return_exceptions=True)
        await self._transport.close()

    def was_silent(self, seconds: float) -> None:
        """Leave the endpoint alone: it sent nothing for so long, while another one answered."""
        self.breaker.rest()
        self.last_error = f"{self.name} sent no answer within {seconds:.0f} s"
        self._judged = asyncio.get_running_loop().time()

    @property
    def breaker(self) -> Breaker:
        """The endpoint's own breaker."""
        return self.breakers.endpoint

    @property
    def counts_pulls(self) -> bool:
        """Whether GETs of manifests are counted here, and HEADs not."""
        return self._observations.counts_pulls

    def health(self) -> EndpointHealth:
        """Return how this endpoint fares."""
        wait = self.breaker.wait()
        return EndpointHealth(self.name, self.breaker.state, wait, self.last_error, self.login.state, self._judged)

    async def probe(self) -> ProbeResult:
        """Ask for `/v2/` with the login we have, and say what came of it; the breaker is not asked."""
        source = ""
        try:
            credential = await self.login.credential("")
            source = credential.source if credential is not None else ""
            answer = await self.ask(Ask("ping", "GET", "", "", {"Accept": "application/json"}))
            body = await read_whole(answer, _PING_BODY, "an answer to a ping", self.name)
        except UpstreamDenied as error:
            if source:
                return ProbeResult(self.name, source, False, error.what, error.remedy)
            misnamed = await self.login.misnamed("")
            wants = "it answers, and wants a login that is not configured"
            return ProbeResult(self.name, "", not misnamed, wants, misnamed)
        except UpstreamError as error:
            return ProbeResult(self.name, source, False, error.what, error.remedy)
        if body.lstrip().startswith(b"<"):
            return ProbeResult(self.name, source, False, f"{self.name} answers with a web page", failures.WEB_PAGE)
        what = {"ok": "it answers, and our login works", "none": "it answers anonymous requests"}
        return ProbeResult(self.name, source, True, what.get(self.login.state, "it answers, and asks for no login"))

    async def ask(self, ask: Ask) -> Answer:
        """Return the answer, a 200 or 206, with its body still to be read.

        Raise UpstreamError. Nothing is repeated here but what belongs to one question: one login, a fresh signed
        URL, one encoded answer.
        """
        if (wait := self._pauses.left(ask.kind, ask.repository)) > 0:
            raise UpstreamUnavailable(
                f"{self.name} asked us to wait and is asked again in {wait:.0f} s", "", self.name, wait
            )
        if (wait := self.breakers.wait(ask.repository)) > 0:
            raise failures.Lasting(
                f"{self.name} failed {FAILURES} times for '{ask.repository}' and is asked again in {wait:.0f} s",
                "",
                self.name,
                wait,
            )
        self.breakers.begin(ask.repository)
        try:
            async with asyncio.timeout(LAST_SECONDS):
                answer = await self._readable(ask)
        except TimeoutError:
            error = UpstreamUnavailable(f"{self.name} sent no answer within {LAST_SECONDS:.0f} s", "", self.name)
            self._note(ask, error)
            raise error from None
        except UpstreamError as error:
            if isinstance(error, failures.CertificateRefused) and error.endpoint == failures.origin(self.base):
                error.add(await self._certificate())
            if isinstance(error, UpstreamDenied) and not error.remedy:
                error.remedy = await self.login.denied_remedy(ask.repository)
            self._note(ask, error)
            error.endpoint = self.name
            raise
        except BaseException:
            self.breakers.abandoned(ask.repository)
            raise
        self.breakers.succeeded(ask.repository)
        self._pauses.end(ask.kind, ask.repository)
        self._judged = asyncio.get_running_loop().time()
        self.last_error = ""
        return answer

    async def _certificate(self) -> str:
        """Return what the refused certificate says; looked at again after a minute."""
        now = asyncio.get_running_loop().time()
        if now >= self._certificate_until:
            self._certificate_says = await certificates.describe(self.base, self._reach)
            self._certificate_until = now + _CERTIFICATE_SECONDS
        return self._certificate_says

    def _note(self, ask: Ask, error: UpstreamError) -> None:
        if isinstance(error, HeadFails):
            self.breakers.abandoned(ask.repository)
            return
        self._observations.failed(error)
        self._judged = asyncio.get_running_loop().time()
        if isinstance(error, UpstreamNotFound | NotOffered):
            self.breakers.succeeded(ask.repository)
            return
        self.last_error = str(error)
        if isinstance(error, TokenServiceAway):
            self.breakers.abandoned(ask.repository)
        elif isinstance(error, _Slower):
            error.retry_after = self._pauses.begin(ask.kind, ask.repository, error.retry_after)
            self.breakers.succeeded(ask.repository)
        elif isinstance(error, failures.NoConnection) and error.endpoint == failures.origin(self.base):
            self.breakers.unreachable(ask.repository)
        elif isinstance(error, UpstreamUnavailable):
            self.breakers.failed(ask.repository)
        else:
            self.breakers.succeeded(ask.repository)

    async def _readable(self, ask: Ask) -> Answer:
        for again in (True, False):
            answer = await self._landed(ask)
            try:
                self._check(answer, ask)
            except UpstreamError:
                answer.close()
                raise
            # A blob is kept as it comes; what is read whole is decoded on the way, and of HEAD nothing is read.
            codings = answer.codings
            if not codings or (ask.kind != "blob" and coding.is_decodable(codings)):
                return answer
            answer.close()
            if not again:
                raise UpstreamInvalid(
                    f"{failures.origin(answer.url)} sends bodies encoded although asked not to", coding.REMEDY
                )
        raise AssertionError("the second answer returns or raises")

    async def _landed(self, ask: Ask) -> Answer:
        """Return the answer at the end of all redirects; a signed URL that is over is asked for afresh."""
        for left in reversed(range(_FRESH_LOCATIONS + 1)):
            answer, away = await self._follow(ask, await self._registry(ask))
            if not away or answer.status not in _EXPIRED:
                return answer
            answer.close()
            if not left:
                raise UpstreamUnavailable(
                    f"{failures.origin(answer.url)} refuses what {self.name} signed for it ({answer.status})",
                    "if it goes on, compare the clocks",
                )
        raise AssertionError("the last try returns or raises")

    async def _registry(self, ask: Ask) -> Answer:
        """Return the registry's own answer, after a login if it asks for one: each way to log in is tried once."""
        url = self.url(ask)
        sent = await self.login.authorization(ask.repository)
        answer = await self._send(ask, url, self._reach, sent)
        if answer.status == 401:
            answer.close()
            async with contextlib.aclosing(self.login.renewals(ask.repository, answer, sent)) as renewals:
                async for sent in renewals:
                    answer = await self._send(ask, url, self._reach, sent)
                    if answer.status != 401:
                        break
                    answer.close()
        if answer.status != 401:
            self.login.accepted(sent)
        return answer

    def url(self, ask: Ask) -> URL:
        """Return where `ask` goes."""
        repository = f"{ask.repository}/" if ask.repository else ""
        return URL(f"{self.name}/v2/{repository}{ask.path}", encoded=True)

    async def _send(self, ask: Ask, url: URL, reach: Reach, authorization: Secret | None) -> Answer:
        headers = dict(ask.headers)
        if authorization is not None:
            headers["Authorization"] = authorization.reveal()
        clock = asyncio.get_running_loop().time
        began = clock()
        answer = await self._transport.send(Request(ask.method, url, headers, None, ask.buffer), reach, LAST_SECONDS)
        self._observations.answered(clock() - began)
        if limit := answer.header("ratelimit-limit"):
            self._observations.budget(limit, answer.header("ratelimit-remaining"))
        return answer

    async def _follow(self, ask: Ask, answer: Answer) -> tuple[Answer, bool]:
        """Return the answer at the end of the redirects, and whether it is another origin's than the endpoint's.

        The login goes along only as long as no other origin had a say in where to go.
        """
        private, away = True, False
        for _ in range(redirect.MOST_HOPS):
            if answer.status not in redirect.STATUSES:
                return answer, away
            answer.close()
            private = private and answer.from_private
            target = redirect.next_url(answer.url, answer.status, answer.header("Location"))
            away = away or not redirect.same_origin(target, self.base)
            if away:
                answer = await self._visit(ask, target, private)
            else:
                answer = await self._send(ask, target, self._reach, await self.login.authorization(ask.repository))
        if answer.status in redirect.STATUSES:
            answer.close()
            raise UpstreamInvalid(f"{self.name} redirects more than {redirect.MOST_HOPS} times")
        return answer, away

    async def _visit(self, ask: Ask, url: URL, private: bool) -> Answer:
        """Return another origin's answer; a registry there that wants a token is logged in to as nobody.

        Raise UpstreamDenied for what a registry there does not give to everybody.
        """
        reach = redirect.reach_of(url, self._listed, private)
        sent = await self.login.guests.authorization(url, private)
        answer = await self._send(ask, url, reach, sent)
        if redirect.same_origin(url, self.base):
            return answer
        if answer.status == 401:
            answer.close()
            sent = await self.login.guests.renew(answer, private, sent)
            if sent is not None:
                answer = await self._send(ask, url, reach, sent)
        refusal = guests.refusal(answer, self.name)
        if refusal is not None:
            answer.close()
            raise refusal
        return answer

    def _check(self, answer: Answer, ask: Ask) -> None:
        status, where = answer.status, failures.origin(answer.url)
        named = f"{ask.kind} of '{ask.repository}'" if ask.repository else ask.kind
        if ask.kind == "referrers" and _is_not_offered(answer):
            raise NotOffered(f"{where} offers no referrers API")
        if status in (200, 206):
            # Of a blob the digest decides; who asks by GET looks into it.
            if answer.is_web_page and (ask.kind, ask.method) not in _PAGES_PASS:
                raise failures.web_page(answer.url)
        elif status in _ABSENT:
            raise UpstreamNotFound(f"{where} has no such {named}")
        elif status in _DENIED:
            raise UpstreamDenied(f"{where} does not give us that {named} ({status})")
        elif status in _HEAD_FAILS and ask.method == "HEAD":
            raise HeadFails(f"{where} answers {status} to HEAD")
        elif status in _LATER or (status >= 500 and status != 501):
            later = parse_retry_after(answer.header("Retry-After"))
            kind = _Slower if status == 429 or later else UpstreamUnavailable
            raise kind(f"{where} answers {status}", retry_after=later)
        else:
            kind_of = BadRequest if status in _BAD_REQUEST else UpstreamInvalid
            raise kind_of(f"{where} answers {status} to a request for a {named}")


class BadRequest(UpstreamInvalid):
    """The endpoint refuses how it was asked; asked in another way it may answer."""


class HeadFails(UpstreamInvalid):
    """HEAD is answered 500 or 502: what that means for the endpoint a GET says."""


def _is_not_offered(answer: Answer) -> bool:
    """Tell whether the answer about referrers is that of a registry that knows of none, 404 apart."""
    status = answer.status
    if status == 200:
        return answer.is_web_page
    # What leads elsewhere has been followed by now.
    odd = 200 < status < 206 or 300 <= status < 400
    return odd or status == 501 or (400 <= status < 500 and status not in _OF_US)


class _Slower(UpstreamUnavailable):
    """The endpoint works, and wants to be asked less."""
