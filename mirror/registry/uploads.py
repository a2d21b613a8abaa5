"""Blobs that clients push: beginning, sending, finishing and cancelling an upload (distribution-spec, Pushing blobs).

    POST   …/blobs/uploads/                       202: begun                   Location, Range, Docker-Upload-UUID
    POST   …/blobs/uploads/?mount=<digest>&from=  201: mounted, else as above  Location, Docker-Content-Digest
    POST   …/blobs/uploads/?digest=<digest>       201: taken whole             Location, Docker-Content-Digest
    PATCH  …/blobs/uploads/<id>                   202: appended                Location, Range, Docker-Upload-UUID
    GET    …/blobs/uploads/<id>                   204: how far it is           Location, Range, Docker-Upload-UUID
    PUT    …/blobs/uploads/<id>?digest=<digest>   201: finished                Location, Docker-Content-Digest
    DELETE …/blobs/uploads/<id>                   204: dropped

Chunks have no least length, so OCI-Chunk-Min-Length is not sent. `Range: 0-0` is one byte or none: the form that
clients know has no way to say "none".
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from aiohttp import HttpVersion11, web

from mirror.content.answers import Quota, Target, UploadState
from mirror.errors import DigestInvalid, Forbidden, MirrorError, SizeMismatch, UploadInvalid
from mirror.oci.digest import Digest
from mirror.registry.access import Access
from mirror.registry.clients import Principal, principal_of
from mirror.registry.errors import Unsupported
from mirror.registry.face import Content
from mirror.registry.face import Uploads as Taking
from mirror.registry.flow import ClientGone
from mirror.registry.responses import Answer, Responses, namespace_field
from mirror.registry.routes import Route

# distribution-spec, Pushing a blob in chunks: both ends inclusive, and no unit before it.
_CHUNK = re.compile(r"([0-9]{1,19})-([0-9]{1,19})")
_COLLECTION = ("POST",)
_LOCATION = ("GET", "HEAD", "PATCH", "PUT", "DELETE")
METHODS = frozenset(_COLLECTION + _LOCATION)


class Uploads:
    """Answers what is asked of uploads by clients that `access` lets push."""

    def __init__(self, content: Content, taking: Taking, responses: Responses, access: Access) -> None:
        self._content = content
        self._taking = taking
        self._responses = responses
        self._access = access

    async def __call__(self, request: web.BaseRequest, route: Route, _arrived: float) -> Answer:
        """Answer one request; raises MirrorError. How long that takes is up to the client and the disk."""
        method = request.method
        allowed = _LOCATION if route.upload else _COLLECTION
        if method not in allowed:
            raise Unsupported(f"{'an upload' if route.upload else 'this path'} takes {', '.join(allowed)}", "", allowed)
        target = self._content.resolve(route.name, route.ns, route.prefix)
        if not target.hosted:
            raise Forbidden(f"nothing is pushed to {target.name} here", "push to a name of your own")
        if method == "POST":
            return await self._post(request, route, target)
        if method in ("GET", "HEAD"):
            state = await self._taking.state(target, route.upload)
            return self._responses.compose(request, 204, place_fields(route, state))
        if method == "DELETE":
            await self._taking.cancel(target, route.upload)
            return self._responses.compose(request, 204, namespace_field(route.ns))
        return await self._take(request, route, target)

    async def _post(self, request: web.BaseRequest, route: Route, target: Target) -> Answer:
        wishes, who = route.wishes, principal_of(request)
        quota = self._access.quota(who, target.name)
        if wishes.mount is not None and await self._mount(route, target, wishes.mount, who, quota):
            return self._created(request, route, wishes.mount)
        digest = wishes.digest
        # A digest without a body is a hint, unless nothing is what it is the digest of.
        if digest is not None and (request.body_exists or digest == Digest.of(b"", digest.algorithm)):
            async with _reading(request) as chunks:
                await self._taking.put_whole(target, digest, chunks, request.content_length, who.name, quota)
            return self._created(request, route, digest)
        state = await self._taking.begin(target, who.name, wishes.algorithm)
        return self._accepted(request, route, state)

    async def _mount(self, route: Route, target: Target, digest: Digest, who: Principal, quota: Quota | None) -> bool:
        """Mount a blob and say whether that could be done: what stands in the way is not told, the client sends it."""
        source = None
        if route.wishes.source:
            try:
                source = self._content.resolve(route.wishes.source, route.ns, route.prefix)
            except MirrorError:
                return False
        access = self._access
        return await self._taking.mount(
            target, digest, source, lambda name: access.may(who, "pull", name), who.name, quota
        )

    async def _take(self, request: web.BaseRequest, route: Route, target: Target) -> Answer:
        """Append a body to an upload and, for PUT, make a blob of it."""
        digest = route.wishes.digest
        if request.method == "PUT" and digest is None:
            raise DigestInvalid("the digest is missing", "end an upload by PUT with ?digest=<digest>")
        quota = self._access.quota(principal_of(request), target.name)
        start, length = _span(request)
        if request.method == "PUT" and digest is not None:
            if request.body_exists:
                async with _reading(request) as chunks:
                    await self._taking.finish(target, route.upload, digest, chunks, start, length, quota)
            else:
                await self._taking.finish(target, route.upload, digest)
            return self._created(request, route, digest)
        async with _reading(request) as chunks:
            state = await self._taking.append(target, route.upload, chunks, start, length, quota)
        return self._accepted(request, route, state)

    def _accepted(self, request: web.BaseRequest, route: Route, state: UploadState) -> Answer:
        return self._responses.compose(request, 202, f"Content-Length: 0\r\n{place_fields(route, state)}")

    def _created(self, request: web.BaseRequest, route: Route, digest: Digest) -> Answer:
        folder = route.path.rpartition("/blobs/uploads")[0]
        return self._responses.compose(
            request,
            201,
            f"Content-Length: 0\r\nLocation: {folder}/blobs/{digest}{_query(route)}\r\n"
            f"Docker-Content-Digest: {digest}\r\n{namespace_field(route.ns)}",
        )


def place_fields(route: Route, state: UploadState) -> str:
    """Return the lines that say where an upload is and how far: Location, Range, Docker-Upload-UUID."""
    folder = route.path.rpartition("/blobs/uploads")[0]
    return (
        f"Location: {folder}/blobs/uploads/{state.id}{_query(route)}\r\nRange: 0-{max(state.offset - 1, 0)}\r\n"
        f"Docker-Upload-UUID: {state.id}\r\n{namespace_field(route.ns)}"
    )


def _query(route: Route) -> str:
    """Return what a location needs behind its path to be understood as this request was."""
    return f"?ns={route.ns}" if route.ns is not None else ""


def _span(request: web.BaseRequest) -> tuple[int | None, int | None]:
    """Return where a body belongs, and how long it is; None for what the request does not say.

    Raises UploadInvalid, SizeMismatch.
    """
    length = request.content_length
    given = request.headers.getall("Content-Range", ())
    if not given:
        return None, length
    found = _CHUNK.fullmatch(given[0].strip()) if len(given) == 1 else None
    if found is None or int(found[2]) < int(found[1]):
        raise UploadInvalid("Content-Range is not <first>-<last>", "give both ends in bytes, without a unit")
    start, stop = int(found[1]), int(found[2]) + 1
    if length is not None and length != stop - start:
        raise SizeMismatch(
            f"Content-Length is {length}, and Content-Range speaks of {stop - start} bytes", "let them agree"
        )
    return start, stop - start


@asynccontextmanager
async def _reading(request: web.BaseRequest) -> AsyncIterator[AsyncGenerator[bytes]]:
    """Give a request's body; raise UploadInvalid where it breaks off."""
    try:
        async with aclosing(read_body(request)) as chunks:
            yield chunks
    except ClientGone as error:
        raise UploadInvalid("the body broke off", "ask by GET how far the upload is, and go on there") from error


async def read_body(request: web.BaseRequest) -> AsyncGenerator[bytes]:
    """Yield a request's body as it comes; a client that waits to be told so is told to send it.

    Raises ClientGone where it breaks off. Without a deadline: who watches the connections cuts one that stands still.
    """
    transport = request.transport
    if not request.body_exists:
        return
    expects = request.headers.get("Expect", "").lower() == "100-continue"
    if expects and request.version >= HttpVersion11 and transport is not None:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    content = request.content
    while True:
        try:
            piece = await content.readany()
        except Exception as error:  # aiohttp raises whatever ended the connection, or what is wrong with the framing
            raise ClientGone from error
        if not piece:
            return
        yield piece
