"""The token services that one registry names: who may be asked, how often, and what they granted."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, replace
from typing import Self

from yarl import URL

from mirror.errors import UpstreamError, UpstreamInvalid, UpstreamUnavailable
from mirror.line import Line
from mirror.upstream import auth, challenge, failures, redirect
from mirror.upstream.body import read_whole
from mirror.upstream.challenge import Challenge
from mirror.upstream.credential import Credential
from mirror.upstream.endpoints import Breaker
from mirror.upstream.guard import Reach
from mirror.upstream.realm import RealmRule
from mirror.upstream.retry import parse_retry_after
from mirror.upstream.secret import Secret
from mirror.upstream.tokens import TokenCache
from mirror.upstream.transport import Answer, Request, Transport

TOKEN_SECONDS = 15.0
_TOKEN_BODY = 1 << 20
# quay.io takes bursts of two token requests (protocol.md 3.4).
_TOKEN_REQUESTS = 2
_MOST_HOPS = 3


class TokenServiceAway(UpstreamUnavailable):
    """The token service cannot be asked: that says nothing about the registry itself."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a registry asked for, in the order to try it, and whether it said so from a private address.

    `repository` is what the request was about, empty for none.
    """

    challenges: tuple[Challenge, ...]
    url: URL
    from_private: bool
    repository: str = ""

    @classmethod
    def read(cls, answer: Answer, repository: str = "") -> Self | None:
        """Return what a 401 to a request about `repository` asks for; None if it does not say."""
        challenges = challenge.parse(answer.header_lines("WWW-Authenticate"))
        return cls(auth.in_order(challenges), answer.url, answer.from_private, repository) if challenges else None

    def beginning_with(self, chosen: Challenge) -> Self:
        """Return the same, with `chosen` as the first to try."""
        return replace(self, challenges=(chosen, *(one for one in self.challenges if one is not chosen)))


class TokenServices:
    """The token services of the registry at `base`, asked behind one breaker and one lane.

    `own` is the reach of what is at the registry's own origin; None: no more than that of a redirect.
    """

    def __init__(
        self,
        base: URL,
        transport: Transport,
        realms: RealmRule,
        tokens: TokenCache,
        listed: redirect.Listed,
        own: Reach | None,
    ) -> None:
        self._base = base
        self._transport = transport
        self._realms = realms
        self._tokens = tokens
        self._listed = listed
        self._own = own
        self._lane = Line(_TOKEN_REQUESTS)
        self._breaker = Breaker(asyncio.get_running_loop().time)

    async def header(
        self,
        chosen: Challenge,
        credential: Credential | None,
        repository: str,
        asked: Asked,
        refused: Secret | None = None,
    ) -> Secret:
        """Return the header that meets `chosen`, from the cache unless that holds the `refused` one.

        Raise UpstreamError as `auth.log_in` does, UpstreamInvalid for a realm that may not be asked, and
        TokenServiceAway.
        """
        scope = auth.pull_scope(chosen.get("scope"), repository, asked.repository)

        async def obtain() -> auth.Grant:
            return await self._converse(chosen, credential, scope, asked)

        if not grants_token(chosen, credential):
            return (await obtain()).header
        return await self._tokens.get(self._key(chosen, credential, scope), obtain, refused)

    async def _converse(self, chosen: Challenge, credential: Credential | None, scope: str, asked: Asked) -> auth.Grant:
        await self._realms.load()
        conversation = auth.log_in(chosen, credential, scope, lambda realm: self._realms.check(realm, asked.url))
        try:
            request = next(conversation)
            while True:
                request = conversation.send(await self._ask(request, asked.from_private))
        except StopIteration as end:
            grant: auth.Grant = end.value
            return grant
        except TokenServiceAway:
            raise
        except UpstreamUnavailable as error:
            raise TokenServiceAway(error.what, error.remedy, retry_after=error.retry_after) from None

    async def _ask(self, request: auth.TokenRequest, from_private: bool) -> auth.TokenAnswer:
        if (wait := self._breaker.wait()) > 0:
            raise TokenServiceAway(
                f"the token service {failures.origin(request.url)} failed and is asked again in {wait:.0f} s",
                retry_after=wait,
            )
        self._breaker.begin()
        try:
            async with self._lane.place():
                answer = await self._fetch(request, from_private)
        except UpstreamUnavailable as error:
            self._breaker.failed()
            raise TokenServiceAway(error.what, error.remedy, retry_after=error.retry_after) from None
        except UpstreamError:
            self._breaker.succeeded()
            raise
        except BaseException:
            self._breaker.abandoned()
            raise
        if answer.status >= 500:
            self._breaker.failed()
        else:
            self._breaker.succeeded()
        return answer

    async def _fetch(self, request: auth.TokenRequest, from_private: bool) -> auth.TokenAnswer:
        url, private = request.url, from_private
        for _ in range(_MOST_HOPS + 1):
            headers = {"Accept": "application/json"}
            if request.authorization:
                headers["Authorization"] = request.authorization.reveal()
            method = "GET" if request.form is None else "POST"
            answer = await self._transport.send(
                Request(method, url, headers, request.form), self._reach(url, private), TOKEN_SECONDS
            )
            if answer.status not in redirect.STATUSES or method == "POST":
                later = parse_retry_after(answer.header("Retry-After"))
                body = await read_whole(answer, _TOKEN_BODY, "a token", str(self._base), TOKEN_SECONDS)
                return auth.TokenAnswer(answer.status, body, later)
            answer.close()
            private = private and answer.from_private
            target = redirect.next_url(url, answer.status, answer.header("Location"))
            url = self._realms.check(str(target), url)
            if not redirect.same_origin(url, request.url):
                request = auth.TokenRequest(url)
        raise UpstreamInvalid(f"the token service {failures.origin(request.url)} redirects without end")

    def _reach(self, url: URL, private: bool) -> Reach:
        if self._own is not None and redirect.same_origin(url, self._base):
            return self._own
        return redirect.reach_of(url, self._listed, private)

    def _key(self, chosen: Challenge, credential: Credential | None, scope: str) -> str:
        who = credential.fingerprint() if credential is not None else "anonymous"
        parts = (str(self._base), who, chosen.get("realm"), chosen.get("service"), scope)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def grants_token(chosen: Challenge, credential: Credential | None) -> bool:
    """Tell whether meeting `chosen` gets a token from a service, rather than sending the credential as it is."""
    return chosen.scheme == "bearer" and not (credential is not None and credential.registry_token)
