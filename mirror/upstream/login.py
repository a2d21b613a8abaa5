"""How one endpoint is logged in to: the challenge it gave, the credential we have, the token that came of them."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Literal

from yarl import URL

from mirror.errors import UpstreamError, UpstreamInvalid, UpstreamLoginRefused, UpstreamUnavailable
from mirror.upstream import auth, challenge, failures, redirect
from mirror.upstream.body import read_whole
from mirror.upstream.credential import Credential, CredentialSource
from mirror.upstream.endpoints import Breaker
from mirror.upstream.guard import Reach
from mirror.upstream.lanes import Lane
from mirror.upstream.realm import RealmRule, Suffixes
from mirror.upstream.retry import parse_retry_after
from mirror.upstream.secret import Secret
from mirror.upstream.tokens import TokenCache
from mirror.upstream.transport import Answer, Request, Transport

REFUSED_SECONDS = 30.0  # faults.md 2.1, 401 loop
_TOKEN_SECONDS = 15.0
_TOKEN_BODY = 1 << 20
# quay.io takes bursts of two token requests (protocol.md 3.4).
_TOKEN_REQUESTS = 2
_MOST_HOPS = 3
_MOST_REFUSALS = 64

CredentialState = Literal["none", "unknown", "ok", "refused"]


class TokenServiceAway(UpstreamUnavailable):
    """The token service cannot be asked: that says nothing about the registry itself."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the endpoint last asked for, and whether it said so from a private address."""

    challenges: tuple[challenge.Challenge, ...]
    url: URL
    from_private: bool


class Login:
    """The logins of one endpoint. `state` says how the credential fares."""

    def __init__(
        self,
        base: URL,
        transport: Transport,
        credentials: CredentialSource,
        realms: RealmRule,
        suffixes: Suffixes,
        tokens: TokenCache,
        listed: redirect.Listed,
    ) -> None:
        self._base = base
        self._transport = transport
        self._credentials = credentials
        self._realms = realms
        self._suffixes = suffixes
        self._tokens = tokens
        self._listed = listed
        # As it is spelled, and as it is without the scheme's own port.
        self._hosts = dict.fromkeys((base.raw_authority.rpartition("@")[2], base.host_port_subcomponent or ""))
        self._lane = Lane(_TOKEN_REQUESTS)
        self._asked: _Asked | None = None
        self._refused: dict[str, tuple[float, UpstreamLoginRefused]] = {}
        self._clock = asyncio.get_running_loop().time
        self.breaker = Breaker(self._clock)
        self.state: CredentialState = "unknown"

    async def credential(self, repository: str) -> Credential | None:
        """Return whom we are for `repository`; None: nobody."""
        for host in self._hosts:
            if (found := await self._credentials.find(host, repository)) is not None:
                return found
        return None

    async def authorization(self, repository: str) -> Secret | None:
        """Return the header for a request to `repository`; None to ask without, as long as nobody asked for one.

        Raise UpstreamLoginRefused while a refusal of this very credential is remembered.
        """
        credential = await self.credential(repository)
        self._recall(credential)
        if self._asked is None:
            return None
        try:
            return await self._header(self._asked, credential, repository, None)
        except (UpstreamInvalid, UpstreamUnavailable):
            # What it asked for may be out of date: the next request asks without, and learns anew.
            self._asked = None
            raise

    async def renew(self, repository: str, refused: Answer, sent: Secret | None) -> Secret | None:
        """Return a new header after the 401 `refused`; None when nothing else can be tried.

        Raise UpstreamLoginRefused if the token service refuses the credential as such.
        """
        credential = await self.credential(repository)
        challenges = challenge.parse(refused.header_lines("WWW-Authenticate"))
        asked: _Asked | None = self._asked
        if challenges:
            asked = _Asked(tuple(challenges), refused.url, refused.from_private)
        elif asked is None:
            asked = await self._ask_ping()  # gcr.io says how to log in at /v2/ only
        if asked is None:
            return None
        header = await self._header(asked, credential, repository, sent)
        self._asked = asked  # it led to a login, or to none as nobody has one
        return None if header == sent else header

    async def _header(
        self, asked: _Asked, credential: Credential | None, repository: str, refused: Secret | None
    ) -> Secret | None:
        chosen = auth.choose(asked.challenges, credential)
        if chosen is None:
            if credential is None:
                self.state = "none"
            return None
        scope = auth.pull_scope(chosen.get("scope"), repository)

        async def obtain() -> auth.Grant:
            return await self._converse(chosen, credential, scope, asked)

        if chosen.scheme == "basic" or (credential is not None and credential.registry_token):
            if self.state == "none":
                self.state = "unknown"  # until `accepted` or `judge` knows
            return (await obtain()).header
        try:
            header = await self._tokens.get(self._key(chosen, credential, scope), obtain, refused)
        except UpstreamLoginRefused as error:
            self._remember(credential, error)
            raise
        self.state = "none" if credential is None else "ok"
        return header

    async def _converse(
        self, chosen: challenge.Challenge, credential: Credential | None, scope: str, asked: _Asked
    ) -> auth.Grant:
        await self._suffixes.load()
        conversation = auth.log_in(chosen, credential, scope, lambda realm: self._realms.check(realm, asked.url))
        try:
            request = next(conversation)
            while True:
                request = conversation.send(await self._ask_service(request, asked.from_private))
        except StopIteration as end:
            grant: auth.Grant = end.value
            return grant
        except TokenServiceAway:
            raise
        except UpstreamUnavailable as error:
            raise TokenServiceAway(error.what, error.remedy, retry_after=error.retry_after) from None

    async def _ask_service(self, request: auth.TokenRequest, from_private: bool) -> auth.TokenAnswer:
        if (wait := self.breaker.wait()) > 0:
            raise TokenServiceAway(
                f"the token service {failures.origin(request.url)} failed and is asked again in {wait:.0f} s",
                retry_after=wait,
            )
        self.breaker.begin()
        try:
            async with self._lane:
                answer = await self._fetch(request, from_private)
        except UpstreamUnavailable as error:
            self.breaker.failed()
            raise TokenServiceAway(error.what, error.remedy, retry_after=error.retry_after) from None
        except UpstreamError:
            self.breaker.succeeded()
            raise
        except BaseException:
            self.breaker.abandoned()
            raise
        if answer.status >= 500:
            self.breaker.failed()
        else:
            self.breaker.succeeded()
        return answer

    async def _fetch(self, request: auth.TokenRequest, from_private: bool) -> auth.TokenAnswer:
        url, private = request.url, from_private
        for _ in range(_MOST_HOPS + 1):
            headers = {"Accept": "application/json"}
            if request.authorization:
                headers["Authorization"] = request.authorization.reveal()
            method = "GET" if request.form is None else "POST"
            answer = await self._transport.send(
                Request(method, url, headers, request.form), self._reach(url, private), _TOKEN_SECONDS
            )
            if answer.status not in redirect.STATUSES or method == "POST":
                later = parse_retry_after(answer.header("Retry-After"))
                body = await read_whole(answer, _TOKEN_BODY, "a token", str(self._base), _TOKEN_SECONDS)
                return auth.TokenAnswer(answer.status, body, later)
            answer.close()
            private = private and answer.from_private
            target = redirect.next_url(url, answer.status, answer.header("Location"))
            url = self._realms.check(str(target), url)
            if not redirect.same_origin(url, request.url):
                request = auth.TokenRequest(url)
        raise UpstreamInvalid(f"the token service {failures.origin(request.url)} redirects without end")

    def _reach(self, url: URL, private: bool) -> Reach:
        if redirect.same_origin(url, self._base):
            return redirect.reach_of_endpoint(self._base)
        return redirect.reach_of(url, self._listed, private)

    async def _ask_ping(self) -> _Asked | None:
        answer = await self._ping(None)
        challenges = challenge.parse(answer.header_lines("WWW-Authenticate"))
        if answer.status != 401 or not challenges:
            return None
        return _Asked(tuple(challenges), answer.url, answer.from_private)

    def accepted(self, sent: Secret | None) -> None:
        """Note that the answer to `sent` was no 401."""
        if sent is not None and self.state != "none":
            self.state = "ok"

    async def judge(self, repository: str, sent: Secret) -> None:
        """Tell a refused login from a refused repository, after a 401 that `sent` did not avert.

        A token was granted, so that login works; a login that is sent as it is may be tried at /v2/. Raise
        UpstreamLoginRefused if it is refused there too.
        """
        credential = await self.credential(repository)
        if credential is None or not (sent.reveal().startswith("Basic ") or credential.registry_token):
            return
        if (await self._ping(sent)).status != 401:
            self.state = "ok"
            return
        error = UpstreamLoginRefused(
            f"{failures.origin(self._base)} refuses our login (401)", f"renew it: {credential.source}"
        )
        self._remember(credential, error)
        raise error

    async def _ping(self, authorization: Secret | None) -> Answer:
        headers = {"Authorization": authorization.reveal()} if authorization else {}
        url = URL(f"{str(self._base).rstrip('/')}/v2/", encoded=True)
        answer = await self._transport.send(
            Request("GET", url, headers), redirect.reach_of_endpoint(self._base), _TOKEN_SECONDS
        )
        answer.close()
        return answer

    def _recall(self, credential: Credential | None) -> None:
        if credential is None or not self._refused:
            return
        until, error = self._refused.get(credential.fingerprint(), (0.0, None))
        if error is not None and self._clock() < until:
            raise UpstreamLoginRefused(error.what, error.remedy)

    def _remember(self, credential: Credential | None, error: UpstreamLoginRefused) -> None:
        self.state = "refused"
        if credential is not None:
            if len(self._refused) >= _MOST_REFUSALS:
                self._refused.clear()
            self._refused[credential.fingerprint()] = (self._clock() + REFUSED_SECONDS, error)

    def _key(self, chosen: challenge.Challenge, credential: Credential | None, scope: str) -> str:
        who = credential.fingerprint() if credential is not None else "anonymous"
        parts = (str(self._base), who, chosen.get("realm"), chosen.get("service"), scope)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()
