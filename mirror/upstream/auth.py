"""The 401 conversation without I/O: a generator that yields token requests and is sent their answers.

    conversation = log_in(challenges, credential, repository, check_realm)
    request = next(conversation)
    try:
        while True:
            request = conversation.send(answer_to(request))
    except StopIteration as end:
        grant = end.value

(RFC 6749 and distribution's token and OAuth2 documents; what registries really do is in their quirks' tests.)
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yarl import URL

from mirror.errors import UpstreamDenied, UpstreamInvalid, UpstreamLoginRefused, UpstreamUnavailable
from mirror.upstream import failures
from mirror.upstream.challenge import Challenge
from mirror.upstream.credential import Credential
from mirror.upstream.secret import Secret

_CLIENT_ID = "mirror"
# Answers to POST that mean "not this way": GCR 404, Artifactory 401, ACR 400, others 405 (protocol.md 3.1).
_NO_POST = frozenset({400, 401, 404, 405})
_NO_GET = frozenset({404, 405})
_DEFAULT_LIFETIME = 60.0
_LONGEST_LIFETIME = 3600.0
_SHORTEST_LIFETIME = 30.0
_LARGEST_TOKEN = 64 * 1024
# Registries name one or two; a hostile one must not have the login tried without end.
_MOST_CHALLENGES = 4


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What to ask a token service: GET, or POST when there is a form."""

    url: URL
    authorization: Secret = field(default_factory=lambda: Secret(""))
    form: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What it said. `retry_after` is in seconds."""

    status: int
    body: bytes
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """An Authorization header and for how many seconds it is good."""

    header: Secret
    lifetime: float


Conversation = Generator[TokenRequest, TokenAnswer, Grant]


def in_order(challenges: Sequence[Challenge]) -> tuple[Challenge, ...]:
    """Return the challenges in the order to try them: bearer before basic, whatever a registry names first.

    RFC 9110, 11.6.1, leaves the choice to the client; a registry that gives tokens may take nothing else.
    """
    return tuple(sorted(challenges, key=lambda one: one.scheme != "bearer"))


def usable(challenges: Sequence[Challenge], credential: Credential | None) -> list[Challenge]:
    """Return the challenges that can be met: bearer always, basic with a password; at most four."""
    met = [
        one
        for one in challenges
        if (one.scheme == "bearer" and one.get("realm"))
        or (one.scheme == "basic" and credential is not None and credential.has_password)
    ]
    return met[:_MOST_CHALLENGES]


def pull_scope(asked: str, repository: str, before: str = "") -> str:
    """Return the scope to ask for: pulling `repository` and nothing more, whatever the challenge offers.

    A challenge may name the repository with a prefix of the registry's own, which is that of its others as well: one
    for the repository `before` shows it. A challenge that names no repository at all (public ECR: `aws`) is taken as it
    is. Without a repository no scope is asked: that is a login alone.
    """
    if not repository:
        return ""
    named = [
        one.removeprefix("repository:").rpartition(":")[0] for one in asked.split() if one.startswith("repository:")
    ]
    if asked and not named:
        return asked
    for known in filter(None, (repository, before)):
        for name in named:
            if name.endswith(f"/{known}"):
                return f"repository:{name.removesuffix(known)}{repository}:pull"
    return f"repository:{repository}:pull"


def log_in(
    challenge: Challenge, credential: Credential | None, scope: str, check_realm: Callable[[str], URL]
) -> Conversation:
    """Answer `challenge` as `credential` (None: anonymously); `check_realm` raises for a realm that may not be asked.

    Raise UpstreamLoginRefused when the login is refused whatever is asked for, UpstreamDenied when it works but not
    for this scope, UpstreamUnavailable or UpstreamInvalid when the token service is away or makes no sense.
    """
    if challenge.scheme == "basic":
        assert credential is not None
        return Grant(Secret(credential.basic), _LONGEST_LIFETIME)
    if credential is not None and credential.registry_token:
        return Grant(Secret(f"Bearer {credential.registry_token.reveal()}"), _LONGEST_LIFETIME)
    service = _TokenService(check_realm(challenge.get("realm")), challenge.get("service"), credential)
    answer = yield from service.ask(scope)
    if answer.status in (401, 403):
        if credential is None:
            raise UpstreamDenied(f"{service.name} gives no anonymous token for that ({answer.status})")
        # Some services refuse what does not exist or is not ours (ghcr): a login without a scope tells the two apart.
        if scope and (yield from service.ask("")).status == 200:
            raise UpstreamDenied(f"{service.name} gives our login no token for that ({answer.status})")
        raise UpstreamLoginRefused(
            f"{service.name} refuses our login ({answer.status})", f"renew it: {credential.source or 'the credential'}"
        )
    return read_grant(answer, service.name)


class _TokenService:
    """How one token service is asked."""

    def __init__(self, realm: URL, service: str, credential: Credential | None) -> None:
        self._realm = realm
        self._service = service
        self._credential = credential
        self.name = failures.origin(realm)

    def ask(self, scope: str) -> Generator[TokenRequest, TokenAnswer, TokenAnswer]:
        credential = self._credential
        if credential is not None and credential.identity_token:
            refresh = {"grant_type": "refresh_token", "refresh_token": credential.identity_token.reveal()}
            answer = yield self._post(refresh, scope)
            if answer.status not in _NO_POST or not credential.username:
                return answer
            as_password = Credential(credential.username, credential.identity_token)
            return (yield self._get(Secret(as_password.basic), scope))
        if credential is None or not credential.has_password:
            return (yield self._get(Secret(""), scope))
        answer = yield self._get(Secret(credential.basic), scope)
        if answer.status in _NO_GET:
            password = {
                "grant_type": "password",
                "username": credential.username,
                "password": credential.password.reveal(),
            }
            answer = yield self._post(password, scope)
        return answer

    def _get(self, authorization: Secret, scope: str) -> TokenRequest:
        # The realm's own query stays; a parameter that it has already is not said twice.
        asked = {"service": self._service, "scope": scope}
        if self._credential is not None and self._credential.username:
            asked["account"] = self._credential.username
        there = self._realm.query
        url = self._realm
        if new := {name: value for name, value in asked.items() if value and name not in there}:
            query = URL.build(query=new).raw_query_string
            own = self._realm.raw_query_string
            url = URL(f"{self._realm.with_query(None)}?{own}{'&' if own else ''}{query}", encoded=True)
        return TokenRequest(url, authorization)

    def _post(self, form: Mapping[str, str], scope: str) -> TokenRequest:
        fields = {**form, "service": self._service, "client_id": _CLIENT_ID}
        if scope:
            fields["scope"] = scope
        return TokenRequest(self._realm, form=fields)


def read_grant(answer: TokenAnswer, name: str, now: float | None = None) -> Grant:
    """Return the token of a token service's answer. `now` is Unix time, for a JWT without `iat`.

    Raise UpstreamUnavailable for 408, 429 and 5xx, UpstreamInvalid for whatever else holds no token.
    """
    if answer.status in (408, 425, 429) or answer.status >= 500:
        raise UpstreamUnavailable(
            f"the token service {name} answers {answer.status}", "", retry_after=answer.retry_after
        )
    if answer.status != 200:
        raise UpstreamInvalid(f"the token service {name} answers {answer.status}")
    try:
        document = json.loads(answer.body)
        token = document.get("token") or document.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        raise UpstreamInvalid(f"the token service {name} does not answer in JSON") from None
    if not isinstance(token, str) or not 0 < len(token) <= _LARGEST_TOKEN or not _is_visible(token):
        raise UpstreamInvalid(f"the token service {name} answers without a usable token")
    return Grant(Secret(f"Bearer {token}"), _lifetime(token, document.get("expires_in"), now))


def _is_visible(token: str) -> bool:
    return all("!" <= character <= "~" for character in token)


def _lifetime(token: str, expires_in: Any, now: float | None) -> float:
    """Return for how many seconds a token is good: what a JWT says itself, else `expires_in`, else a minute.

    quay leaves `expires_in` out of the answer, though its tokens live an hour.
    """
    claims = _claims(token)
    until, start = _number(claims.get("exp")), _number(claims.get("iat"))
    if until:
        # From its own start, where it says one: that needs no agreement of clocks.
        own = until - (start or (time.time() if now is None else now))
        if own > 0:
            return min(own, _LONGEST_LIFETIME)
    stated = _number(expires_in)
    return min(max(stated, _SHORTEST_LIFETIME), _LONGEST_LIFETIME) if stated > 0 else _DEFAULT_LIFETIME


def _claims(token: str) -> dict[str, Any]:
    """Return a JWT's claims, unverified: a hint about its lifetime and nothing else."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _number(value: Any) -> float:
    """Return a finite number; 0 for everything else."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
    return float(value) if usable else 0.0
