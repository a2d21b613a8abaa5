"""The logins that a scripted registry can ask for, and its token endpoint."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from tests.peers.answers import Answer, Recorded, error


@dataclass
class BasicLogin:
    """Every request under /v2/ needs one of these logins; `challenges` are the lines of the 401."""

    users: Mapping[str, str]
    challenges: Sequence[str] = ('Basic realm="scripted"',)


@dataclass
class TokenLogin:
    """Every request under /v2/ needs a token from `/token` (or from `realm`).

    `expires_in` None leaves it out of the answer; `lifetime` is how long a token really lives in seconds;
    `jwt` makes tokens that carry `exp`. `private` repositories need a user, `denied` ones are for nobody.
    With `refuse_unknown` the token endpoint itself answers 403 for denied repositories, as ghcr does.
    """

    users: Mapping[str, str] = field(default_factory=dict)
    refresh_tokens: Iterable[str] = ()
    anonymous: bool = True
    private: Iterable[str] = ()
    denied: Iterable[str] = ()
    refuse_unknown: bool = False
    expires_in: int | None = 300
    lifetime: float = 300.0
    jwt: bool = False
    post: int = 200  # the status that answers POST: 200 works, else the server has no POST
    field: str = "token"
    realm: str = "{self}/token"
    service: str = "scripted"
    scope: str = "repository:{name}:pull"
    ping_challenge_only: bool = False  # as gcr.io: 401 without WWW-Authenticate except on /v2/
    body: Callable[[str], bytes] | None = None  # makes the whole token answer from the token
    challenges: Sequence[str] = ("{bearer}",)  # the lines of the 401, with its own challenge in them


class TokenDesk:
    """Gives tokens out and knows them again: token -> user, scopes, until when (monotonic)."""

    def __init__(self) -> None:
        self.tokens: dict[str, tuple[str, tuple[str, ...], float]] = {}
        self._serial = 0

    def refuse(
        self, login: BasicLogin | TokenLogin | None, kind: str, name: str, record: Recorded, origin: str
    ) -> Answer | None:
        """Return the 401 that a request without the right login meets; None lets it pass."""
        given = record.headers.get("authorization", "")
        if login is None:
            return None
        if isinstance(login, BasicLogin):
            if self._basic_user(given, login.users):
                return None
            lines = [line.replace("{self}", origin) for line in login.challenges]
            return error(401, "UNAUTHORIZED", [("WWW-Authenticate", line) for line in lines])
        scope = login.scope.replace("{name}", name)
        token = given.removeprefix("Bearer ")
        _user, scopes, until = self.tokens.get(token, ("", (), 0.0))
        if given and until > time.monotonic() and (kind == "ping" or scope in scopes):
            return None
        parameters = f'realm="{login.realm.replace("{self}", origin)}",service="{login.service}"'
        if kind != "ping":
            parameters += f',scope="{scope}"'
        if given:
            parameters += ',error="insufficient_scope"' if until > time.monotonic() else ',error="invalid_token"'
        lines = [
            line.replace("{bearer}", f"Bearer {parameters}").replace("{self}", origin) for line in login.challenges
        ]
        challenge = [("WWW-Authenticate", line) for line in lines]
        if login.ping_challenge_only and kind != "ping":
            challenge = []
        return error(401, "UNAUTHORIZED", challenge)

    def _basic_user(self, given: str, users: Mapping[str, str]) -> str:
        scheme, _, encoded = given.partition(" ")
        if scheme.lower() != "basic":
            return ""
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        return user if user in users and users[user] == password else ""

    def token(self, login: BasicLogin | TokenLogin | None, record: Recorded) -> Answer:
        """Answer a request at the token endpoint."""
        if not isinstance(login, TokenLogin):
            return error(404, "UNKNOWN")
        given = record.headers.get("authorization", "")
        if record.method == "POST":
            if login.post != 200:
                return error(login.post, "UNSUPPORTED")
            form = {key: values[0] for key, values in parse_qs(record.body.decode()).items()}
            scopes = tuple(form.get("scope", "").split())
            if form.get("grant_type") == "refresh_token":
                user = "refresh" if form.get("refresh_token") in tuple(login.refresh_tokens) else ""
            else:
                named = form.get("username", "")
                user = named if login.users.get(named) == form.get("password") else ""
            if not user:
                return error(401, "UNAUTHORIZED")
        else:
            scopes = tuple(parse_qs(record.query).get("scope", []))
            user = self._basic_user(given, login.users)
            if not user and (given or not login.anonymous):
                return error(401, "UNAUTHORIZED")
        granted = tuple(scope for scope in scopes if self._grants(login, user, scope))
        if login.refuse_unknown and scopes and not granted:
            return error(403, "DENIED")
        return Answer(200, [("Content-Type", "application/json")], self._token_body(login, user, granted))

    def _grants(self, login: TokenLogin, user: str, scope: str) -> bool:
        name = scope.removeprefix("repository:").rpartition(":")[0]
        return name not in tuple(login.denied) and bool(user or name not in tuple(login.private))

    def _token_body(self, login: TokenLogin, user: str, scopes: tuple[str, ...]) -> bytes:
        self._serial += 1
        token = f"tok{self._serial}." + hashlib.sha256(f"{id(self)}{self._serial}".encode()).hexdigest()
        if login.jwt:
            claims = {"exp": int(time.time() + login.lifetime), "iat": int(time.time()), "jti": self._serial}
            parts = ({"alg": "RS256", "typ": "JWT"}, claims, {"signature": "not checked"})
            token = ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts)
        self.tokens[token] = (user, scopes, time.monotonic() + login.lifetime)
        if login.body is not None:
            return login.body(token)
        answer: dict[str, object] = {login.field: token}
        if login.expires_in is not None:
            answer["expires_in"] = login.expires_in
        return json.dumps(answer).encode()
