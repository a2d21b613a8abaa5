"""Who is let in, and to what: every request is identified and its right decided before content is asked.

What a client without the right is told, where R is reading, W pushing or deleting, and a login is possible
("beside": something is open to anonymous clients too, "closed": nothing is):

                                beside                          closed
    GET /v2/, no credentials    401 Bearer                      401 Basic
    anonymous, R or W           401 Bearer, scope               401 Basic
    a token for less            401 Bearer, insufficient_scope  the same
    logged in, R                404, as for what is not here    the same
    logged in, W                403 DENIED                      the same
    a wrong login               after a second: 401, or as      401 after a second
                                anonymous where anybody may R
    a token that is over        401 Bearer, invalid_token       401 Basic

containers/image takes the way to log in from /v2/ alone, containerd from what it asked for, Docker from either; after a
Basic challenge skopeo sends an empty login where it has none, and Docker gives up: hence Bearer wherever something is
open (protocol.md 2.1, 2.3). Docker sends the login of Docker Hub to its mirrors (moby#30880), and passes one over that
refuses it: so a wrong login is no reason to refuse what needs none. `podman login` asks /v2/, which says the truth.
Where nobody can log in there is no challenge to meet: reading is 404, writing 403. Probes, and facts about releases
where these are public, are given to whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from aiohttp import web

from mirror.config.access import Verb
from mirror.content.answers import Target
from mirror.errors import Denied, Forbidden, InvalidRequest, MirrorError, NameUnknown, NotHere, NotYet
from mirror.registry import audit, scopes
from mirror.registry.access import CATALOG, Access
from mirror.registry.certificates import Certificates
from mirror.registry.clients import ANONYMOUS, Clients, Principal, set_principal
from mirror.registry.errors import Unauthorized, Unsupported
from mirror.registry.logins import LoginRefused, Logins
from mirror.registry.overlooked import Overlooked, Refusal, refusal_of, set_refusal
from mirror.registry.patience import Patience
from mirror.registry.robots import wider
from mirror.registry.routes import Kind, Route

Resolve = Callable[[str, str | None, str | None], Target]

# Which right each method of a route needs; what is not here is no method of it.
VERBS: Mapping[Kind, Mapping[str, Verb]] = {
    Kind.MANIFEST: {"GET": "pull", "HEAD": "pull", "PUT": "push", "DELETE": "delete"},
    Kind.BLOB: {"GET": "pull", "HEAD": "pull", "DELETE": "delete"},
    Kind.UPLOAD: {"POST": "push", "PATCH": "push", "PUT": "push", "GET": "push", "HEAD": "push", "DELETE": "push"},
    Kind.TAGS: {"GET": "pull", "HEAD": "pull"},
    Kind.REFERRERS: {"GET": "pull", "HEAD": "pull"},
}
# What anybody may be let read whose login is wrong.
_PULLS = frozenset(kind for kind, verbs in VERBS.items() if verbs.get("GET") == "pull")
# What stays open to load balancers and to whoever watches over the service.
PROBES = frozenset({Kind.LIVE, Kind.READY})
# What is as public as where it came from, and asked for by clusters' version operators, which have no login.
_FACTS = frozenset({Kind.GRAPH, Kind.SIGNATURE})
# What needs nothing but to be let in.
_UNNAMED = frozenset({Kind.PING, Kind.GRAPH, Kind.SIGNATURE, Kind.NOWHERE, Kind.TOKEN})
# What everybody may read where everybody may pull everything.
_OPEN = frozenset({Kind.MANIFEST, Kind.BLOB, Kind.TAGS, Kind.REFERRERS, Kind.GRAPH, Kind.SIGNATURE, Kind.NOWHERE})
_READS = frozenset({"GET", "HEAD"})
_NO_RULE = "no rule allows it"
_ACTIONS: Mapping[Verb, str] = {"pull": "pull", "push": "pull,push", "delete": "delete"}


class Gate:
    """Decides by `access` for whom `logins` and client certificates identify.

    `logins` None: nobody can log in by name. `certificates`: the listener asks clients for one. `external_url`: scheme
    and host as clients see us, else those of each request. `public_releases`: the update graph and release signatures
    need no login, and one that is shown for them is not looked at.
    """

    def __init__(
        self,
        access: Access,
        clients: Clients,
        resolve: Resolve,
        *,
        logins: Logins | None = None,
        certificates: bool = False,
        external_url: str | None = None,
        public_releases: bool = False,
    ) -> None:
        self.access = access
        self.logins = logins
        self._clients = clients
        self._resolve = resolve
        self._certificates = Certificates() if certificates else None
        self._external = tuple(external_url.split("://", 1)) if external_url else None
        self.overlooked = Overlooked()
        # GET and HEAD of these are answered as they come: one look at this set is all that an open mirror pays. Where
        # there are only robots beside anonymous clients, what anybody may read is not worth a look at a login either.
        is_free = access.is_open and not certificates and (logins is None or not logins.has_users)
        self.free = PROBES | (_OPEN if is_free else frozenset()) | (_FACTS if public_releases else frozenset())

    async def identify(self, request: web.BaseRequest, route: Route, client: str, arrived: float) -> Principal:
        """Return who sends a request from the address `client`; `principal_of` says it from then on.

        It came at `arrived` on the loop's clock. Whose login is wrong is anonymous as far as that may be a pull that
        anybody may do, which `authorise` and /token then see to.

        Raise Unauthorized where a login is wrong, or must be shown first; NotYet.
        """
        given = request.headers.getall("Authorization", ())
        if len(given) > 1:
            raise InvalidRequest("the request has more than one Authorization field")
        principal = ANONYMOUS
        if given:
            principal = await self._log_in(request, route, given[0], client, arrived)
        refused = refusal_of(request) is not None
        if principal.is_anonymous and self._certificates is not None and not refused:
            principal = self._certificates.principal(request) or principal
        if principal.is_anonymous and route.kind is not Kind.TOKEN:
            asks = route.kind is Kind.PING and not given and await self._login_exists()
            if asks or not self.access.admits_anonymous:
                raise Unauthorized("this registry asks who you are", "log in", self.challenge(request))
        set_principal(request, principal, client)
        return principal

    async def authorise(self, request: web.BaseRequest, route: Route, principal: Principal, client: str) -> None:
        """Return if `principal` may do what a request asks.

        Raise Unauthorized, NotHere, Forbidden or Unsupported as the table above has it, and NameUnknown for a name
        that means nothing here.
        """
        if route.kind in _UNNAMED:
            return
        if route.kind is Kind.CATALOG:
            if not self.access.lists(principal):
                raise await self._refusal(request, principal, "pull", CATALOG, client)
            return
        verb = VERBS[route.kind].get(request.method)
        if verb is None:
            raise Unsupported("this is no method of this route", "", tuple(VERBS[route.kind]))
        refusal = refusal_of(request)
        if refusal is not None:
            self._overlook(route, refusal)
            return
        name = self._canonical(route, verb, asks_only=request.method in _READS)
        if not self.access.may(principal, verb, name):
            raise await self._refusal(request, principal, verb, name, client)

    def challenge(self, request: web.BaseRequest, scope: str = "", error: str = "") -> str:
        """Return how to log in: by token where something is open to anonymous clients too, else by password."""
        if self.logins is None or not self.access.admits_anonymous:
            return scopes.BASIC
        return self._bearer(request, scope, error)

    def _bearer(self, request: web.BaseRequest, scope: str, error: str) -> str:
        if self._external is not None:
            scheme, host = self._external
            return scopes.challenge(scheme, host, scope, error)
        found = scopes.host_of(request.headers.get("Host"))
        if found is None:  # HTTP/1.0 has none
            return scopes.BASIC
        return scopes.challenge(self._clients.scheme(request), found, scope, error)

    async def _log_in(
        self, request: web.BaseRequest, route: Route, header: str, client: str, arrived: float
    ) -> Principal:
        if self.logins is None:
            return ANONYMOUS
        known = self.logins.recall(header)
        if known is not None:
            return known
        if not await self._login_exists() and not self.logins.concerns(header):
            return ANONYMOUS  # an open registry takes no offence at a login for another one
        try:
            async with Patience(request, arrived, client):
                return await self.logins.identify(header)
        except (LoginRefused, NotYet) as error:
            why = error
        is_basic = header[:6].lower() == "basic "
        by_token = why.error if isinstance(why, LoginRefused) and not is_basic else ""
        refusal = Refusal(header, client, why, self.challenge(request, error=by_token))
        reads = route.kind is Kind.TOKEN or (route.kind in _PULLS and request.method in _READS)
        if is_basic and reads and self.access.admits_anonymous:
            set_refusal(request, refusal)
            return ANONYMOUS
        raise refusal.told()

    def _overlook(self, route: Route, refusal: Refusal) -> None:
        """Return if a login that was not taken does not matter to a pull, else raise what the client is told."""
        try:
            name = self._canonical(route, "pull", asks_only=True)
            matters = not self.access.may(ANONYMOUS, "pull", name)
        except MirrorError:
            matters = True
        if matters:
            raise refusal.told()
        self.overlooked.note(refusal)

    async def _login_exists(self) -> bool:
        return self._certificates is not None or (self.logins is not None and await self.logins.exist())

    def _canonical(self, route: Route, verb: Verb, *, asks_only: bool) -> str:
        """Return the canonical name of what a request is about, which for a write must be hosted here.

        `asks_only`: it is about an upload, and changes nothing.
        """
        try:
            target = self._resolve(route.name, route.ns, route.prefix)
        except Denied as error:
            if verb == "pull":
                raise
            raise _is_proxied(route.name.partition("/")[0]) from error
        except NameUnknown as error:
            if verb == "pull":
                raise
            raise Forbidden(error.what, "push to a name whose first part is no host name") from None
        if verb != "pull":
            if target.upstream and asks_only:
                raise NotHere("there is no such upload")
            if target.upstream:
                raise _is_proxied(target.upstream)
            if not target.hosted:
                raise Forbidden(f"{target.name} was loaded or synced here as part of a set", "push to another name")
        return target.name

    async def _refusal(
        self, request: web.BaseRequest, principal: Principal, verb: Verb, name: str, client: str
    ) -> MirrorError:
        """Return the error for a right that is not there."""
        scope = CATALOG + ":*" if name == CATALOG else f"repository:{name}:{_ACTIONS[verb]}"
        if principal.is_anonymous and await self._login_exists():
            short = "" if principal.granted is None else "insufficient_scope"
            challenge = self.challenge(request, scope, short)
            return Unauthorized("clients without a login may not do this", "log in", challenge)
        if principal.granted is not None and self._allows(replace(principal, granted=None), verb, name):
            challenge = self._bearer(request, scope, "insufficient_scope")
            return Unauthorized("the token was given for something else", "ask for one with this scope", challenge)
        if name == CATALOG:
            audit.refused(verb, principal.name, client, _NO_RULE)
            return NotHere("there is nothing at this path")
        made_for = principal.scope
        if made_for is not None and not made_for.covers(verb, name):
            remedy = wider(principal.name, made_for, verb, name)
            audit.refused(verb, principal.name, client, "its token was made for less", name)
        else:
            # To pull: nobody is told that a rule would help, which would say that something is here.
            remedy = "" if verb == "pull" else "ask for a rule under clients in mirror.yaml"
            audit.refused(verb, principal.name, client, _NO_RULE, name)
        if verb == "pull":
            return NotHere(f"there is nothing here under this name that {_called(principal)} may pull", remedy)
        return Forbidden(f"{_called(principal)} may not {verb} here", remedy)

    def _allows(self, principal: Principal, verb: Verb, name: str) -> bool:
        return self.access.lists(principal) if name == CATALOG else self.access.may(principal, verb, name)


def _called(principal: Principal) -> str:
    return "a client without a login" if principal.is_anonymous else principal.name


def _is_proxied(upstream: str) -> Unsupported:
    return Unsupported(
        f"names under {upstream} are proxied", "push to a name of your own, or to the upstream registry itself"
    )
