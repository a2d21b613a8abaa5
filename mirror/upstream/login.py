"""How one endpoint is logged in to: the challenge it gave, the credential we have, what came of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Literal

from yarl import URL

from mirror.errors import UpstreamDenied, UpstreamError, UpstreamInvalid, UpstreamLoginRefused, UpstreamUnavailable
from mirror.upstream import auth, failures, redirect
from mirror.upstream.challenge import Challenge
from mirror.upstream.credential import Credential, CredentialSource, hosts_of
from mirror.upstream.guests import Guests
from mirror.upstream.realm import RealmRule
from mirror.upstream.secret import Secret
from mirror.upstream.token_service import TOKEN_SECONDS, Asked, TokenServices, grants_token
from mirror.upstream.tokens import TokenCache
from mirror.upstream.transport import Answer, Request, Transport

REFUSED_SECONDS = 30.0  # faults.md 2.1, 401 loop
_MOST_REFUSALS = 64

CredentialState = Literal["none", "unknown", "ok", "refused"]


class Login:
    """The logins of one endpoint. `state` says how the credential fares, `guests` where it redirects the API to."""

    def __init__(
        self,
        base: URL,
        transport: Transport,
        credentials: CredentialSource,
        realms: RealmRule,
        tokens: TokenCache,
        listed: redirect.Listed,
    ) -> None:
        self._base = base
        self._transport = transport
        self._credentials = credentials
        self._reach = redirect.reach_of_endpoint(base)
        self._services = TokenServices(base, transport, realms, tokens, listed, self._reach)
        self._hosts = hosts_of(base)
        self._asked: Asked | None = None
        self._takes_tokens = False
        self._refused: dict[str, tuple[float, UpstreamLoginRefused]] = {}
        self._clock = asyncio.get_running_loop().time
        self.guests = Guests(transport, realms, tokens, listed)
        self.state: CredentialState = "unknown"

    async def credential(self, repository: str) -> Credential | None:
        """Return whom we are for `repository`; None: nobody."""
        return await self._credentials.find(self._hosts, repository)

    async def denied_remedy(self, repository: str) -> str:
        """Return what may help where the endpoint does not give us `repository`."""
        if self.state not in ("none", "unknown"):
            return "it does not exist, or our login may not pull it"
        otherwise = "it does not exist, or needs a login: `credentials` of the upstream, or `pull_secrets`"
        return await self.misnamed(repository) or otherwise

    async def misnamed(self, repository: str) -> str:
        """Return what helps where our login stands under another name than it is looked up by; empty elsewhere."""
        try:
            found = await self.credential(repository)
            key = "" if found is not None else await self._credentials.misnamed(self._hosts)
        except UpstreamLoginRefused as error:
            return str(error)
        if not key:
            return ""
        # The endpoint as a URL, which clients are not shown.
        what = f"pull_secrets has an entry for {key}, but the endpoint is {failures.origin(self._base)}"
        return f"{what}: name it after that host, if meant for it"

    async def authorization(self, repository: str) -> Secret | None:
        """Return the header for a request to `repository`; None to ask without, as long as nobody asked for one.

        Raise UpstreamLoginRefused while a refusal of this very credential is remembered.
        """
        credential = await self.credential(repository)
        self._recall(credential)
        if self._asked is None:
            return None
        ways = auth.usable(self._asked.challenges, credential)
        if not ways:
            return None
        try:
            return await self._header(ways[0], credential, repository, self._asked)
        except UpstreamLoginRefused as error:
            if len(ways) > 1:
                return None  # the 401 to come has the others tried
            self._remember(credential, error)
            raise
        except (UpstreamInvalid, UpstreamUnavailable):
            # What it asked for may be out of date: the next request asks without, and learns anew.
            self._asked = None
            raise

    async def renewals(self, repository: str, refused: Answer, sent: Secret | None) -> AsyncGenerator[Secret]:
        """Yield what else to send after the 401 `refused` to a request with `sent`, until one is not answered by 401.

        Each challenge is met once. At the end, raise UpstreamLoginRefused if the credential as such is refused, or
        why no challenge could be met; end without an error if this is about the repository alone.
        """
        credential = await self.credential(repository)
        # gcr.io says how to log in at /v2/ only.
        asked = Asked.read(refused, repository) or self._asked or await self._ask_ping()
        if asked is None:
            return
        tried = [sent]
        granted, as_it_is, problem = False, None, None
        ways = auth.usable(asked.challenges, credential)
        for chosen in ways:
            try:
                header = await self._header(chosen, credential, repository, asked, sent)
            except UpstreamDenied:
                raise
            except UpstreamError as error:
                problem = problem or error
                continue
            self._asked = asked.beginning_with(chosen)
            if header not in tried:
                tried.append(header)
                yield header
            if not grants_token(chosen, credential):
                as_it_is = header
            elif self._takes_tokens:
                return  # and not this one: the repository is not for us
            else:
                granted = True
        self._asked = None if problem else asked
        if not ways and credential is None:
            self.state = "none"
        if as_it_is is not None and not granted:
            await self._judge(credential, as_it_is, problem)
        elif problem is not None and not granted:
            self._remember(credential, problem)
            raise problem

    async def _header(
        self,
        chosen: Challenge,
        credential: Credential | None,
        repository: str,
        asked: Asked,
        refused: Secret | None = None,
    ) -> Secret:
        header = await self._services.header(chosen, credential, repository, asked, refused)
        if grants_token(chosen, credential):
            self.state = "none" if credential is None else "ok"
        elif self.state == "none":
            self.state = "unknown"  # until `accepted` or `_judge` knows
        return header

    def accepted(self, sent: Secret | None) -> None:
        """Note that the answer to `sent` was no 401."""
        if sent is None:
            return
        if sent.reveal().startswith("Bearer "):
            self._takes_tokens = True
        if self.state != "none":
            self.state = "ok"

    async def _judge(self, credential: Credential | None, sent: Secret, problem: UpstreamError | None) -> None:
        """Tell a refused login from a refused repository, after a 401 that a login sent as it is did not avert.

        It is tried at /v2/; raise UpstreamLoginRefused if it is refused there too, or else what kept a token from us.
        """
        if (await self._ping(sent)).status != 401:
            self.state = "ok"
            return
        renew = f"renew it: {credential.source}" if credential is not None else ""
        error = problem or UpstreamLoginRefused(f"{failures.origin(self._base)} refuses our login (401)", renew)
        self._remember(credential, error)
        raise error

    async def _ask_ping(self) -> Asked | None:
        answer = await self._ping(None)
        return Asked.read(answer) if answer.status == 401 else None

    async def _ping(self, authorization: Secret | None) -> Answer:
        headers = {"Authorization": authorization.reveal()} if authorization else {}
        url = URL(f"{str(self._base).rstrip('/')}/v2/", encoded=True)
        answer = await self._transport.send(Request("GET", url, headers), self._reach, TOKEN_SECONDS)
        answer.close()
        return answer

    def _recall(self, credential: Credential | None) -> None:
        if credential is None or not self._refused:
            return
        until, error = self._refused.get(credential.fingerprint(), (0.0, None))
        if error is not None and self._clock() < until:
            raise UpstreamLoginRefused(error.what, error.remedy)

    def _remember(self, credential: Credential | None, error: UpstreamError) -> None:
        """Keep a refusal for a while; another error is none."""
        if not isinstance(error, UpstreamLoginRefused):
            return
        self.state = "refused"
        if credential is not None:
            if len(self._refused) >= _MOST_REFUSALS:
                self._refused.clear()
            self._refused[credential.fingerprint()] = (self._clock() + REFUSED_SECONDS, error)
