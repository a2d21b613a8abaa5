"""Manifests: GET and HEAD, and PUT and DELETE where they are hosted here."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing

from aiohttp import web
from aiohttp.hdrs import IF_NONE_MATCH

from mirror.content.answers import ManifestAnswer, Target
from mirror.errors import ManifestRefused, TooLarge
from mirror.line import Line
from mirror.oci.digest import Digest
from mirror.registry import audit, ranges
from mirror.registry.access import Access
from mirror.registry.clients import Principal, address_of, principal_of
from mirror.registry.connection import connection_of
from mirror.registry.errors import Unsupported
from mirror.registry.face import Content, Hosted
from mirror.registry.flow import ClientGone
from mirror.registry.patience import Patience
from mirror.registry.responses import Answer, Responses, field_value, namespace_field, warning_field
from mirror.registry.routes import Route
from mirror.registry.uploads import read_body

_LARGE = 128 * 1024  # bytes of a manifest that is pushed …
_LARGE_ONES = 4  # … above which so many are taken at once: each is held whole, and several times what came of it
_SPARE = 1  # of them, which one client leaves to the others
_WITHIN = 60.0  # seconds in which such a one must have come, whoever drips would keep its place for ever …
_PACE = 64 * 1024  # … and more where the limit is more than that many bytes a second
_WAITING = 1024  # that wait until there is a place


class Manifests:
    """Answers manifests, always whole: a Range is ignored."""

    def __init__(self, content: Content, responses: Responses, access: Access) -> None:
        self._content = content
        self._responses = responses
        self._access = access

    async def __call__(self, request: web.BaseRequest, route: Route, arrived: float) -> Answer:
        """Answer one request that came at `arrived` on the loop's clock; raises MirrorError."""
        content = self._content
        target = content.resolve(route.name, route.ns, route.prefix)
        found = content.manifest_now(target, route.reference)
        if found is None:
            async with Patience(request, arrived):
                may_pull = self._access.visible(principal_of(request))
                found = await content.manifest(target, route.reference, request.method == "HEAD", may_pull)
        return self._answer(request, route, found)

    def _answer(self, request: web.BaseRequest, route: Route, found: ManifestAnswer) -> Answer:
        digest = str(found.digest)
        about = (
            f'Docker-Content-Digest: {digest}\r\nETag: "{digest}"\r\nX-Cache: {found.cache}\r\n'
            f"{namespace_field(route.ns)}{warning_field(found.warning)}"
        )
        if IF_NONE_MATCH in request.headers and ranges.has_already(request.headers, found.digest):
            answer = self._responses.compose(request, 304, about)
        else:
            media_type = field_value(found.media_type, "application/octet-stream")
            answer = self._responses.compose(
                request,
                200,
                f"Content-Type: {media_type}\r\nContent-Length: {found.size}\r\n{about}",
                found.body or b"",
            )
        answer.cache, answer.upstream, answer.why = found.cache, found.upstream, found.why
        return answer


class ManifestWrites:
    """Takes manifests of at most `limit` bytes, and deletes them and their tags.

    PUT    …/manifests/<tag or digest>   201: taken   Location, Docker-Content-Digest, OCI-Subject
    PUT    …/manifests/<digest>?tag=…    201: taken   the same, OCI-Tag
    DELETE …/manifests/<tag or digest>   202: deleted
    """

    def __init__(self, content: Content, hosted: Hosted, responses: Responses, limit: int, access: Access) -> None:
        self._content = content
        self._hosted = hosted
        self._responses = responses
        self._limit = limit
        self._access = access
        self._large = Line(_LARGE_ONES, _WAITING, "too many large manifests are being pushed", _SPARE)
        hosted.deletions.told = audit.deleted

    async def __call__(self, request: web.BaseRequest, route: Route, _arrived: float) -> Answer:
        """Answer one request; raises MirrorError. Without a deadline: a push that has begun is better ended."""
        target = hosted_target(self._content, route)
        principal = principal_of(request)
        who = principal.name
        if request.method == "PUT":
            return await self._put(request, route, target, principal)
        if isinstance(route.reference, Digest):
            await self._hosted.delete_manifest(target, route.reference, who, address_of(request))
        else:
            await self._hosted.delete_tag(target, route.reference, who)
            audit.accepted(request, "delete", target.name, tags=[route.reference])
        return self._responses.compose(request, 202, f"Content-Length: 0\r\n{namespace_field(route.ns)}")

    async def _put(self, request: web.BaseRequest, route: Route, target: Target, principal: Principal) -> Answer:
        async with AsyncExitStack() as held:
            held.callback(connection_of(request).taking, 0)
            body = await self._read(request, held)
            content_type = request.headers.get("Content-Type", "")
            quota = self._access.quota(principal, target.name)
            stored = await self._hosted.put_manifest(
                target, route.reference, body, content_type, route.tags, principal.name, quota
            )
        named = [route.reference] if isinstance(route.reference, str) else []
        audit.accepted(request, "push", target.name, stored.digest, [*named, *route.tags])
        folder = route.path.rpartition("/")[0]
        query = f"?ns={route.ns}" if route.ns is not None else ""
        fields = (
            f"Content-Length: 0\r\nLocation: {folder}/{stored.digest}{query}\r\n"
            f"Docker-Content-Digest: {stored.digest}\r\n{namespace_field(route.ns)}"
        )
        if stored.subject is not None:
            fields += f"OCI-Subject: {stored.subject}\r\n"
        if route.tags:
            fields += f"OCI-Tag: {', '.join(dict.fromkeys(route.tags))}\r\n"
        return self._responses.compose(request, 201, fields)

    async def _read(self, request: web.BaseRequest, held: AsyncExitStack) -> bytes:
        """Return a request's body, which is never longer than a manifest may be.

        A large one takes a place until `held` ends; nothing is read of it before that.
        """
        length = request.content_length
        if length is not None and length > self._limit:
            raise self._too_large()
        is_large = length is not None and length > _LARGE
        body = bytearray()
        connection = connection_of(request)
        try:
            async with asyncio.timeout(None) as deadline, aclosing(read_body(request)) as pieces:
                if is_large:
                    await self._wait(request, held, deadline)
                async for piece in pieces:
                    body += piece
                    if len(body) > self._limit:
                        raise self._too_large()
                    if len(body) > _LARGE and not is_large:
                        is_large = True
                        await self._wait(request, held, deadline)
                    connection.taking(len(body))
        except ClientGone as error:
            raise ManifestRefused("the body broke off", "push the manifest anew") from error
        except TimeoutError:
            raise ManifestRefused(
                f"the manifest did not arrive within {self._within:.0f} seconds", "push the manifest anew"
            ) from None
        return bytes(body)

    async def _wait(self, request: web.BaseRequest, held: AsyncExitStack, deadline: asyncio.Timeout) -> None:
        """Wait for a place to take a large manifest, which must have come soon after that."""
        with connection_of(request).held_back():
            client = address_of(request)
            await held.enter_async_context(self._large.place(client, client))
        deadline.reschedule(asyncio.get_running_loop().time() + self._within)

    @property
    def _within(self) -> float:
        return max(_WITHIN, self._limit / _PACE)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the manifest has more than {self._limit} bytes", "limits.manifest in mirror.yaml says so")


def hosted_target(content: Content, route: Route) -> Target:
    """Return the repository that a request wants to change; raise Unsupported where nothing is hosted."""
    target = content.resolve(route.name, route.ns, route.prefix)
    if not target.hosted:
        raise Unsupported(f"{target.name} is not hosted here", "push to a name of your own")
    return target
