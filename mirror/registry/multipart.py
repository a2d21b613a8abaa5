"""Several ranges of one blob in one body: multipart/byteranges (RFC 9110, 14.6; RFC 2046, 5.1)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web

from mirror.content.answers import BlobAnswer, ByteRange, Readable
from mirror.errors import Corrupt, MirrorError
from mirror.registry.flow import write
from mirror.registry.ranges import Span
from mirror.registry.responses import Answer
from mirror.registry.sending import Sender, close_chunks

_TYPE = "application/octet-stream"
_SMALL = 64 * 1024  # bytes: up to this a part is one read and one write


class Multipart:
    """A body that holds `spans` of a blob of `total` bytes; its head says `media_type` and `length` (bytes)."""

    def __init__(self, spans: list[Span], total: int) -> None:
        boundary = secrets.token_hex(16)  # which no content holds by accident, nor by intention
        self._parts: list[tuple[bytes, Span]] = []
        for start, stop in spans:
            head = f"--{boundary}\r\nContent-Type: {_TYPE}\r\nContent-Range: bytes {start}-{stop - 1}/{total}\r\n\r\n"
            self._parts.append((f"\r\n{head}".encode() if self._parts else head.encode(), (start, stop)))
        self._end = f"\r\n--{boundary}--\r\n".encode()
        self._total = total
        self.media_type = f"multipart/byteranges; boundary={boundary}"
        self.length = sum(len(head) + stop - start for head, (start, stop) in self._parts) + len(self._end)

    async def prepare(self, sender: Sender, file: Readable) -> None:
        """Have the first of what `file` is to send in the page cache, if it has it. Raises what reading it does."""
        start, stop = self._parts[0][1]
        if file.ready() >= stop:
            await sender.prepare(file, start, stop)

    async def send(
        self,
        request: web.BaseRequest,
        answer: Answer,
        sender: Sender,
        file: Readable,
        ask: Callable[[ByteRange], Awaitable[BlobAnswer]],
    ) -> None:
        """Send the body: from `file` what it has when its turn comes, else what `ask` gives. Raises as Sender does."""
        for head, (start, stop) in self._parts:
            if file.ready() < stop:
                await _add(request, answer, head)
                await self._asked(request, answer, sender, ask, (start, stop))
            elif stop - start > _SMALL:
                await _add(request, answer, head)
                await sender.file(request, answer, file, start, stop, None)
            else:
                await file.load(start, stop)
                content = file.read(start, stop)
                if len(content) != stop - start:
                    raise Corrupt("a stored blob is shorter than it was")
                await _add(request, answer, head + content)
                await asyncio.sleep(0)
        await _add(request, answer, self._end)

    async def _asked(
        self,
        request: web.BaseRequest,
        answer: Answer,
        sender: Sender,
        ask: Callable[[ByteRange], Awaitable[BlobAnswer]],
        span: Span,
    ) -> None:
        start, stop = span
        part = await ask(ByteRange(start, stop - 1))
        try:
            if (part.start, part.stop, part.total) != (start, stop, self._total):
                raise MirrorError(f"content gave bytes {part.start}..{part.stop} of {part.total} for {span}")
            if part.chunks is not None:
                await sender.chunks(request, answer, part.chunks, stop - start)
            elif part.file is not None:
                await sender.file(request, answer, part.file, start, stop, None)
        finally:
            part.close()
            await close_chunks(part.chunks)


async def _add(request: web.BaseRequest, answer: Answer, content: bytes) -> None:
    await write(request, content)
    answer.sent += len(content)
