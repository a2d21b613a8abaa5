"""One pass over a request: parse, admit, answer, and say in one line what happened."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.hdrs import USER_AGENT

from mirror.content.answers import UploadState
from mirror.content.events import Asked, asking
from mirror.errors import MirrorError, NotHere, NotYet, RangeOutOfOrder
from mirror.registry.access import Access
from mirror.registry.blobs import BlobDeletion, Blobs, Cut
from mirror.registry.catalog import Catalog
from mirror.registry.clients import Clients
from mirror.registry.errors import (
    RangeInvalid,
    Unauthorized,
    Unsupported,
    body_of,
    code_of,
    detail_of,
    message_of,
    retry_after,
    row_of,
)
from mirror.registry.face import Catalog as Listing
from mirror.registry.face import Content, Events, Hosted, RequestLog, Requests
from mirror.registry.face import Uploads as Taking
from mirror.registry.flow import ClientGone
from mirror.registry.gate import PROBES, Gate
from mirror.registry.health import Health
from mirror.registry.manifests import Manifests, ManifestWrites
from mirror.registry.memory import Memory
from mirror.registry.pace import Pace
from mirror.registry.patience import Patience
from mirror.registry.referrers import Referrers
from mirror.registry.releases import Releases
from mirror.registry.responses import Answer, Responses, namespace_field
from mirror.registry.routes import Kind, Route, parse
from mirror.registry.sending import Sender
from mirror.registry.tags import Tags
from mirror.registry.token import TokenService
from mirror.registry.uploads import Uploads, place_fields

_BODY_LIMIT = 64 * 1024
_ROUTES_REMEMBERED = 4096
_TARGET_REMEMBERED = 512  # longer request targets are parsed each time, so that the memory stays small
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")

_METHODS = frozenset({"GET", "HEAD"})
_CLIENT_LEFT = "client left"
_CLIENT_CLOSED = 499  # nginx's word in its log for a request whose client left before the answer; nobody is sent it
# Stands for a target until it is parsed, and for one that cannot be: its text is not repeated in the log.
_UNPARSED = Route(Kind.NOWHERE, "", folder="(malformed)")

_Handler = Callable[[web.BaseRequest, Route, float], Awaitable[Answer]]


class Dispatcher:
    """The handler that `web.Server` calls for every request. It lets no exception out but cancellation.

    `rate` is requests a second for each client, 0 for no limit. Without a `gate`, clients pull without a login or not
    at all, as `clients` says. Deadlines of slow clients are the connections' part. `manifest_limit` is in bytes.
    """

    def __init__(
        self,
        content: Content,
        clients: Clients,
        requests: Requests,
        log: RequestLog,
        events: Events,
        *,
        rate: float = 0,
        sender: Sender | None = None,
        gate: Gate | None = None,
        uploads: Taking | None = None,
        hosted: Hosted | None = None,
        catalog: Listing | None = None,
        manifest_limit: int = 4 * 1024 * 1024,
        memory: Memory | None = None,
    ) -> None:
        self._content = content
        self._clients = clients
        self._gate = gate or Gate(Access("pull" if clients.anonymous else "none"), clients, content.resolve)
        self._requests = requests
        self._log = log
        self._events = events
        self._clock = time.monotonic  # the loop's clock as well
        self._memory = memory or Memory()
        self._pace = Pace(rate, self._clock) if rate else None
        self._responses = responses = Responses()
        releases = Releases(content, responses)
        health = Health(content, responses, events, self._clock)
        self._handlers: dict[Kind, _Handler] = {
            Kind.MANIFEST: Manifests(content, responses, self._gate.access),
            Kind.BLOB: Blobs(content, responses, sender or Sender(), self._gate.access),
            Kind.TAGS: Tags(content, responses),
            Kind.REFERRERS: Referrers(content, responses),
            Kind.PING: self._ping,
            Kind.GRAPH: releases,
            Kind.SIGNATURE: releases,
            Kind.LIVE: health,
            Kind.READY: health,
        }
        if self._gate.logins is not None:
            self._handlers[Kind.TOKEN] = TokenService(
                self._gate.access, self._gate.logins, clients, content.resolve, responses, self._gate.overlooked
            )
        if uploads is not None:
            self._handlers[Kind.UPLOAD] = Uploads(content, uploads, responses, self._gate.access)
        if catalog is not None:
            self._handlers[Kind.CATALOG] = Catalog(catalog, responses, self._gate.access)
        # What takes other methods than GET and HEAD; which, it says itself.
        self._writers: dict[Kind, _Handler] = {
            kind: handler for kind, handler in self._handlers.items() if kind in (Kind.TOKEN, Kind.UPLOAD)
        }
        if hosted is not None:
            self._writers[Kind.MANIFEST] = ManifestWrites(content, hosted, responses, manifest_limit, self._gate.access)
            self._writers[Kind.BLOB] = BlobDeletion(content, hosted, responses)
        self._routes: dict[str, Route] = {}
        self._prefix = os.urandom(4).hex()
        self._count = 0

    def leave(self, *, replaced: bool = False) -> None:
        """Say on /readyz and with every answer that this process is about to end; not on /readyz if `replaced`."""
        self._responses.leaving = True
        self._responses.replaced = replaced

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request completely, and note it."""
        arrived = self._clock()
        target = request.raw_path
        route = self._routes.get(target, _UNPARSED)
        client = self._clients.address(request)
        identity = self._identify(request)
        trouble = ""
        try:
            if route is _UNPARSED:
                route = self._parse(target)
            answer = await self._answer(request, route, client, identity, arrived)
        except MirrorError as error:
            answer = self._refuse(request, route, error, identity)
            trouble = str(error)
            if not row_of(error).told:
                self._events.warning("request_fault", request=identity, error=trouble)
        except ClientGone:
            answer = Answer(_CLIENT_CLOSED, b"", False, 0)
            trouble = _CLIENT_LEFT
        except Cut as cut:
            answer = cut.answer
            answer.force_close()
            trouble = self._explain(cut.__cause__, identity)
        except Exception as error:  # noqa: BLE001 - the last resort: what aiohttp would say instead is HTML
            self._events.error("request_failed", request=identity, exc_info=error)
            answer = self._refuse(request, route, MirrorError(type(error).__name__), identity)
            trouble = type(error).__name__
        try:
            await answer.prepare(request)
            await answer.write_eof()
        except ConnectionError:
            trouble = trouble or _CLIENT_LEFT
        if request.body_exists and request.transport is not None:
            if request.content.exception() is not None:
                request.protocol.force_close()
            elif self._is_to_be_cut(request, route):
                request.transport.close()
        try:
            self._note(request, route, answer, client, identity, trouble, self._clock() - arrived)
        except Exception as error:  # noqa: BLE001 - it would make aiohttp send a second answer behind this one
            self._events.error("request_not_noted", request=identity, exc_info=error)
        return answer

    async def _answer(
        self, request: web.BaseRequest, route: Route, client: str, identity: str, arrived: float
    ) -> Answer:
        kind = route.kind
        if self._memory.full and kind not in PROBES:
            raise NotYet("clients hold all the memory that they may here", "ask again")
        if self._pace is not None and kind not in PROBES:
            async with Patience(request, arrived):
                await self._pace.wait(client)
        reads = request.method in _METHODS
        if not reads or kind not in self._gate.free:
            await self._admit(request, route, client, arrived)
        handler = (self._handlers if reads else self._writers).get(kind)
        if handler is None:
            raise NotHere("there is nothing at this path")
        if not reads:
            asking.set(self._asked(request, identity, client))
        if not self._content.settled:
            await self._content.settle()
        return await handler(request, route, arrived)

    async def _admit(self, request: web.BaseRequest, route: Route, client: str, arrived: float) -> None:
        """Return if a request may go on to its handler: by its method, and by who sends it."""
        if route.kind in PROBES:
            raise Unsupported("this can only be read")
        principal = await self._gate.identify(request, route, client, arrived)
        if request.method not in _METHODS and route.kind not in self._writers:
            raise Unsupported("this can only be read")
        if not self._content.settled:
            await self._content.settle()
        await self._gate.authorise(request, route, principal, client)

    def _asked(self, request: web.BaseRequest, identity: str, client: str) -> Asked:
        """Return what webhooks are told of a request that writes."""
        host = request.headers.get("Host", "")
        base = f"{self._clients.scheme(request)}://{host}" if host else ""
        return Asked(identity, client, host, request.method, request.headers.get(USER_AGENT, ""), base)

    async def _ping(self, request: web.BaseRequest, route: Route, _arrived: float) -> Answer:
        """Answer /v2/ without asking any upstream: clients choose this mirror by it."""
        return self._responses.whole(request, 200, "application/json", b"{}", namespace_field(route.ns))

    def _parse(self, target: str) -> Route:
        """Parse a request target and remember it: the same few are asked for again and again."""
        route = parse(target)
        if len(target) <= _TARGET_REMEMBERED and route.kind is not Kind.UPLOAD:
            if len(self._routes) >= _ROUTES_REMEMBERED:
                del self._routes[next(iter(self._routes))]
            self._routes[target] = route
        return route

    def _identify(self, request: web.BaseRequest) -> str:
        """Return the request's id: the client's own if it is sane."""
        given = request.headers.get("X-Request-Id")
        if given is not None and _REQUEST_ID.fullmatch(given) is not None:
            return given
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    def _refuse(self, request: web.BaseRequest, route: Route, error: MirrorError, identity: str) -> Answer:
        """Return the answer that the error table has for `error`."""
        row = row_of(error)
        fields = f"X-Request-Id: {identity}\r\n"
        seconds = retry_after(error)
        if seconds:
            fields += f"Retry-After: {seconds}\r\n"
        if isinstance(error, Unauthorized):
            fields += f"WWW-Authenticate: {error.challenge}\r\n"
        elif isinstance(error, Unsupported):
            fields += f"Allow: {', '.join(error.allowed)}\r\n"
        elif isinstance(error, RangeInvalid):
            fields += f"Content-Range: bytes */{error.total}\r\n"
        elif isinstance(error, RangeOutOfOrder):
            fields += place_fields(route, UploadState(route.upload, error.offset))
        body = body_of(code_of(error, route.kind), message_of(error), detail_of(error))
        close = request.body_exists and self._is_unread(request, route)
        return self._responses.whole(request, row.status, "application/json", body, fields, close=close)

    def _is_unread(self, request: web.BaseRequest, route: Route) -> bool:
        """Tell whether a request's body is one that is not read: aiohttp takes what is short, the rest closes."""
        if route.kind in self._writers and request.content.at_eof():
            return False
        length = request.content_length
        return length is None or length > _BODY_LIMIT or "Expect" in request.headers

    def _is_to_be_cut(self, request: web.BaseRequest, route: Route) -> bool:
        """Tell whether a body that nobody read ends the connection at once.

        A refused push is read for a while (aiohttp's lingering): a reset would take the reason from its client.
        """
        lingers = route.kind in self._writers and "Expect" not in request.headers
        return not lingers and self._is_unread(request, route)

    def _explain(self, cause: BaseException | None, identity: str) -> str:
        """Say why a body broke off. A client's leaving is everyday; what is no error of the tree is a fault of ours."""
        if isinstance(cause, ClientGone):
            return _CLIENT_LEFT
        if isinstance(cause, MirrorError):
            self._events.warning("answer_cut", request=identity, error=str(cause))
            return str(cause)
        self._events.error("answer_cut", request=identity, exc_info=cause)
        return type(cause).__name__

    def _note(
        self,
        request: web.BaseRequest,
        route: Route,
        answer: Answer,
        client: str,
        identity: str,
        trouble: str,
        seconds: float,
    ) -> None:
        kind = route.kind
        self._requests.request(kind, request.method, answer.status, answer.cache, answer.upstream, answer.sent, seconds)
        if kind in PROBES and answer.status == 200:
            return
        self._log.line(
            id=identity,
            client=client,
            method=request.method,
            name=route.folder,
            status=answer.status,
            bytes=answer.sent,
            seconds=seconds,
            digest=route.digest_text,
            cache=answer.cache,
            upstream=answer.upstream,
            why=trouble or answer.why,
            agent=request.headers.get(USER_AGENT, ""),
        )
