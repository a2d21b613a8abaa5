"""Our own token service: short-lived bearer tokens for what the rules grant (distribution: token, oauth documents).

GET with a Basic login, or none for an anonymous token; POST with a form for clients that try that first. What a client
may not do is left out of its token and is no error: the request that it then makes says so.

A login that is wrong is no error either where nothing but pulls is asked for, and anybody may do one of them: Docker
comes here with its login for Docker Hub, and passes over a mirror that refuses it. Where anything is to be pushed, or
nothing is asked for (`docker login`), it is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from aiohttp import web

from mirror.config.access import VERBS
from mirror.content.answers import Target
from mirror.errors import InvalidRequest, NotHere, NotYet
from mirror.registry import scopes
from mirror.registry.access import CATALOG, Access
from mirror.registry.bearer import LIFETIME
from mirror.registry.clients import ANONYMOUS, Clients, Principal, principal_of
from mirror.registry.errors import Unauthorized, Unsupported
from mirror.registry.logins import LoginRefused, Logins, basic
from mirror.registry.overlooked import Overlooked, Refusal, refusal_of
from mirror.registry.patience import Patience
from mirror.registry.responses import Answer, Responses
from mirror.registry.routes import Route

_FORM = "application/x-www-form-urlencoded"
_FORM_LIMIT = 16 * 1024
_MOST_FIELDS = 64


class TokenService:
    """Answers /token. Who asks by a login in the header was identified before."""

    def __init__(
        self,
        access: Access,
        logins: Logins,
        clients: Clients,
        resolve: Callable[[str, str | None, str | None], Target],
        responses: Responses,
        overlooked: Overlooked,
    ) -> None:
        self._access = access
        self._logins = logins
        self._clients = clients
        self._resolve = resolve
        self._responses = responses
        self._overlooked = overlooked

    async def __call__(self, request: web.BaseRequest, _route: Route, arrived: float) -> Answer:
        """Answer one request that came at `arrived` on the loop's clock; raises MirrorError."""
        principal, refusal = principal_of(request), refusal_of(request)
        if request.method in ("GET", "HEAD"):
            fields = _fields(request.raw_path.partition("?")[2])
        elif request.method == "POST":
            async with Patience(request, arrived):
                fields = _fields(await _read_form(request))
                try:
                    principal = await self._grant(fields, principal) if refusal is None else principal
                except (LoginRefused, NotYet) as error:
                    refusal = Refusal(repr(fields), self._clients.address(request), error)
                    principal = ANONYMOUS
        else:
            raise Unsupported("tokens are asked for by GET or POST", "", ("GET", "HEAD", "POST"))
        asked = scopes.parse(fields.get("scope", ()))
        if refusal is not None:
            if not self._anybody_may(asked):
                raise refusal.told()
            self._overlooked.note(refusal)
        if principal.granted is not None:
            raise Unauthorized("a token is given for a login, not for another token", "log in")
        if principal.is_anonymous and not self._access.admits_anonymous:
            raise Unauthorized("this registry gives no token without a login", "log in")
        token, issued = self._issue(principal, asked)
        body = {
            "token": token,
            "access_token": token,
            "expires_in": LIFETIME,
            "issued_at": datetime.fromtimestamp(issued, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return self._responses.whole(
            request, 200, "application/json", json.dumps(body).encode(), "Cache-Control: no-store\r\n"
        )

    async def _grant(self, fields: Mapping[str, Sequence[str]], principal: Principal) -> Principal:
        """Return whom the form of a POST names; without a grant type, whom the header does. Raises LoginRefused."""
        kind = _one(fields, "grant_type")
        if kind == "password":
            return await self._logins.identify(basic(_one(fields, "username"), _one(fields, "password")))
        # We give no refresh tokens; a robot's secret, which is as good, may stand in a pull secret as one.
        if kind == "refresh_token":
            return await self._logins.of_secret(_one(fields, "refresh_token"))
        if kind:
            raise InvalidRequest("grant_type is neither password nor refresh_token")
        return principal

    def _anybody_may(self, asked: Sequence[scopes.Scope]) -> bool:
        """Tell whether nothing but pulls is asked for, and one of them is for everybody."""
        if any(scope.kind != "repository" or scope.actions != {"pull"} for scope in asked):
            return False
        names = map(self._named, asked)
        return any(self._access.may(ANONYMOUS, "pull", name) for name in names if name is not None)

    def _named(self, scope: scopes.Scope) -> str | None:
        """Return the canonical name of what a scope names, None where that means nothing here."""
        try:
            return self._resolve(scope.name, None, None).name
        except NotHere:
            return None

    def _issue(self, principal: Principal, asked: Sequence[scopes.Scope]) -> tuple[str, int]:
        """Return a token for what is asked and may be done, and when it was made (Unix time)."""
        granted: dict[str, set[str]] = {}
        for scope in asked:
            if scope.kind == "registry":
                if f"registry:{scope.name}" == CATALOG and self._access.lists(principal):
                    granted[CATALOG] = {"*"}
                continue
            name = self._named(scope)
            if name is None:
                continue
            verbs = VERBS if "*" in scope.actions else scope.actions.intersection(VERBS)
            may = {verb for verb in self._access.verbs(principal, name) if verb in verbs}
            if may:
                granted.setdefault(name, set()).update(may)
        # A certificate is shown with each request, so its tokens need not name anybody.
        holder = ANONYMOUS if principal.kind == "certificate" else replace(principal, granted=None)
        access = {name: sorted(verbs) for name, verbs in granted.items()}
        return self._logins.issue(holder, access)


def _fields(text: str) -> dict[str, list[str]]:
    """Return the fields of a query or a form; raise InvalidRequest."""
    found: dict[str, list[str]] = {}
    try:
        for name, value in parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS):
            found.setdefault(name, []).append(value)
    except ValueError:
        raise InvalidRequest(f"there are more than {_MOST_FIELDS} fields") from None
    return found


def _one(fields: Mapping[str, Sequence[str]], name: str) -> str:
    values = fields.get(name, ())
    if len(values) > 1:
        raise InvalidRequest(f"the form has {name} twice")
    return values[0] if values else ""


async def _read_form(request: web.BaseRequest) -> str:
    """Return the form that a request carries; raise InvalidRequest."""
    if request.content_type != _FORM:
        raise InvalidRequest("the body is no form", f"send {_FORM}")
    if (request.content_length or 0) > _FORM_LIMIT:
        raise InvalidRequest("the form is too large")
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > _FORM_LIMIT:
            raise InvalidRequest("the form is too large")
    try:
        return body.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidRequest("the form is not encoded as forms are") from None
