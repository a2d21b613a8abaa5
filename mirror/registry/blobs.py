"""Blobs: GET and HEAD of one, whole or ranges of it, and DELETE where it is hosted here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import HttpVersion11, web

from mirror.content.answers import BlobAnswer, ByteRange, RangeUnsatisfiable, Target
from mirror.errors import Corrupt, MirrorError, StoreUnreadable
from mirror.registry import audit, ranges
from mirror.registry.access import Access
from mirror.registry.clients import principal_of
from mirror.registry.errors import RangeInvalid
from mirror.registry.face import Content, Hosted
from mirror.registry.flow import ClientGone, abort
from mirror.registry.manifests import hosted_target
from mirror.registry.multipart import Multipart
from mirror.registry.patience import Patience
from mirror.registry.responses import Answer, Responses, namespace_field
from mirror.registry.routes import Route
from mirror.registry.sending import Sender, close_chunks

# A blob up to this size leaves in one piece with its head: one read and one write.
SMALL = 64 * 1024


class Cut(Exception):
    """A body broke off after its head was out and the connection was aborted; `answer` says how much was sent."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class Blobs:
    """Answers blobs from open files, or as an upstream sends them."""

    def __init__(self, content: Content, responses: Responses, sender: Sender, access: Access) -> None:
        self._content = content
        self._responses = responses
        self._sender = sender
        self._access = access

    async def __call__(self, request: web.BaseRequest, route: Route, arrived: float) -> Answer:
        """Answer one request that came at `arrived` on the loop's clock.

        Raises MirrorError before the head is out and Cut, from its cause, after it.
        """
        digest = route.digest
        headers = request.headers
        target = self._content.resolve(route.name, route.ns, route.prefix)
        known = "If-None-Match" in headers and ranges.has_already(headers, digest)
        if known or request.method == "HEAD":
            async with Patience(request, arrived):
                head = await self._content.blob_head(target, digest, self._access.visible(principal_of(request)))
            fields = _fields(route, head.cache)
            if known:
                answer = self._responses.compose(request, 304, fields)
            else:
                answer = self._responses.compose(request, 200, f"Content-Length: {head.size}\r\n{fields}")
            answer.cache, answer.upstream, answer.why = head.cache, head.upstream, head.why
            return answer
        wanted: ByteRange | None = None
        if "Range" in headers and (asked := ranges.wanted(headers, digest)):
            wanted = asked[0]
            if len(asked) > 1:
                several = await self._several(request, route, target, asked, arrived)
                if isinstance(several, Answer):
                    return several
                wanted = several
        found = self._content.blob_now(target, digest)
        if found is not None:
            if wanted is not None:
                _narrow(found, wanted)
        else:
            async with Patience(request, arrived):
                may_pull = self._access.visible(principal_of(request))
                found = await _in_range(self._content.blob(target, digest, wanted, may_pull))
        try:
            return await self._send(request, route, found, wanted)
        except StoreUnreadable as error:
            # Nothing has gone out: what the disk does not give, an upstream may.
            found.close()
            async with Patience(request, arrived):
                found = await _in_range(self._content.blob_around(target, digest, wanted, error))
            return await self._send(request, route, found, wanted)
        finally:
            found.close()
            await close_chunks(found.chunks)

    async def _send(
        self, request: web.BaseRequest, route: Route, found: BlobAnswer, wanted: ByteRange | None
    ) -> Answer:
        status, framing = _framing(found, wanted)
        fields = f"{framing}{_fields(route, found.cache)}"
        file, start, stop = found.file, found.start, found.stop
        if file is not None and stop is not None and file.ready() >= stop:
            if stop - start > SMALL:
                await self._sender.prepare(file, start, stop)  # before the head: a disk that gives nothing is an error
            else:
                await file.load(start, stop)
                body = file.read(start, stop)
                if len(body) != stop - start:
                    raise Corrupt("a stored blob is shorter than it was")
                answer = self._responses.compose(request, status, fields, body)
                answer.cache, answer.upstream, answer.why = found.cache, found.upstream, found.why
                return answer
        delimited = stop is not None or request.version >= HttpVersion11
        if stop is None and delimited:
            fields += "Transfer-Encoding: chunked\r\n"
        answer = self._responses.compose(request, status, fields, close=not delimited)
        answer.cache, answer.upstream, answer.why = found.cache, found.upstream, found.why
        await self._stream(request, answer, lambda: self._body(request, answer, found), reset=not delimited)
        return answer

    async def _several(
        self, request: web.BaseRequest, route: Route, target: Target, asked: tuple[ByteRange, ...], arrived: float
    ) -> Answer | ByteRange | None:
        """Answer several ranges; or return the only one there is, or None, where the blob is to be sent whole."""
        digest = route.digest
        may_pull = self._access.visible(principal_of(request))
        found = self._content.blob_now(target, digest)
        if found is None:
            async with Patience(request, arrived):  # for the size; the first byte begins a download as the whole would
                found = await _in_range(self._content.blob(target, digest, ByteRange(0, 0), may_pull))
        try:
            if found.file is None or found.total is None:
                return None  # what is not stored comes in one piece: each range would be a request to upstream
            spans = ranges.spans(asked, found.total)
            if spans is None:
                return None
            if not spans:
                raise RangeInvalid(found.total)
            if len(spans) == 1:
                return ByteRange(spans[0][0], spans[0][1] - 1)
            parts = Multipart(spans, found.total)
            try:
                await parts.prepare(self._sender, found.file)
            except StoreUnreadable:
                return None  # what the disk does not give of the whole, an upstream may
            fields = f"Content-Length: {parts.length}\r\n{_fields(route, found.cache, parts.media_type)}"
            answer = self._responses.compose(request, 206, fields)
            answer.cache, answer.upstream, answer.why = found.cache, found.upstream, found.why
            file = found.file

            def ask(one: ByteRange) -> Awaitable[BlobAnswer]:
                return self._content.blob(target, digest, one, may_pull)

            await self._stream(request, answer, lambda: parts.send(request, answer, self._sender, file, ask))
            return answer
        finally:
            found.close()
            await close_chunks(found.chunks)

    async def _stream(
        self,
        request: web.BaseRequest,
        answer: Answer,
        body: Callable[[], Awaitable[None]],
        *,
        reset: bool = False,
    ) -> None:
        """Send the head and what `body` sends; raise Cut, with the connection aborted, if not all of it goes."""
        complete = False
        try:
            try:
                await answer.prepare(request)
            except ConnectionError as error:
                raise ClientGone from error
            await body()
            complete = True
        except Exception as error:
            raise Cut(answer) from error
        finally:
            if not complete:
                abort(request, reset=reset)

    async def _body(self, request: web.BaseRequest, answer: Answer, found: BlobAnswer) -> None:
        if found.file is not None and found.stop is not None:
            await self._sender.file(request, answer, found.file, found.start, found.stop, found.divert)
        elif found.chunks is not None and found.stop is not None:
            await self._sender.chunks(request, answer, found.chunks, found.stop - found.start)
        elif found.chunks is not None:
            await self._sender.unmeasured(request, answer, found.chunks)
        else:
            raise MirrorError("content gave a blob without bytes")


class BlobDeletion:
    """Deletes blobs that no manifest of their repository names: 202."""

    def __init__(self, content: Content, hosted: Hosted, responses: Responses) -> None:
        self._content = content
        self._hosted = hosted
        self._responses = responses

    async def __call__(self, request: web.BaseRequest, route: Route, _arrived: float) -> Answer:
        """Answer one request; raises MirrorError."""
        target = hosted_target(self._content, route)
        await self._hosted.delete_blob(target, route.digest, principal_of(request).name)
        audit.accepted(request, "delete", target.name, route.digest)
        fields = f"Content-Length: 0\r\nDocker-Content-Digest: {route.digest}\r\n{namespace_field(route.ns)}"
        return self._responses.compose(request, 202, fields)


def _fields(route: Route, cache: str, media_type: str = "application/octet-stream") -> str:
    digest = str(route.digest)
    return (
        f"Content-Type: {media_type}\r\n"
        f'Docker-Content-Digest: {digest}\r\nETag: "{digest}"\r\nX-Cache: {cache}\r\n'
        "Accept-Ranges: bytes\r\nCache-Control: max-age=31536000, immutable\r\n"
        f"{namespace_field(route.ns)}"
    )


def _framing(found: BlobAnswer, wanted: ByteRange | None) -> tuple[int, str]:
    """Return the status and how long the body is; 206 only for exactly what was asked, always with the total."""
    total, start, stop = found.total, found.start, found.stop
    if total is None or stop is None:
        if (total, start, stop) == (None, 0, None):
            return 200, ""
    elif wanted is not None and wanted.resolve(total) == (start, stop):
        return 206, f"Content-Length: {stop - start}\r\nContent-Range: bytes {start}-{stop - 1}/{total}\r\n"
    elif (start, stop) == (0, total):
        return 200, f"Content-Length: {total}\r\n"
    raise MirrorError(f"content gave bytes {start}..{stop} of {total} for {wanted}")


async def _in_range(answer: Awaitable[BlobAnswer]) -> BlobAnswer:
    try:
        return await answer
    except RangeUnsatisfiable as error:
        raise RangeInvalid(error.total) from None


def _narrow(found: BlobAnswer, wanted: ByteRange) -> None:
    """Reduce a whole blob to the range asked for; raise RangeInvalid and close it if there is none."""
    if found.total is None:
        return
    span = wanted.resolve(found.total)
    if span is None:
        found.close()
        raise RangeInvalid(found.total)
    found.start, found.stop = span
    if found.stop != found.total:
        found.divert = None  # what is passed through is checked by its end, which is not asked for
