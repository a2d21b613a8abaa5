"""A blob's way onto the wire: sendfile over plain HTTP, read and write over TLS, or an upstream body passed through."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable

from aiohttp import HttpVersion11, web

from mirror.content.answers import Readable
from mirror.errors import StoreFull, StoreUnreadable, UpstreamInvalid
from mirror.registry.flow import ClientGone, flush, writable, write
from mirror.registry.responses import Answer

# A whole-file sendfile was measured to block the loop for 180 to 370 ms, a window of this size for about 1 ms.
WINDOW = 2 * 1024 * 1024
STEP = 256 * 1024

_Divert = Callable[[int], AsyncIterator[bytes]]


class Sender:
    """Sends bodies, in windows of `window` bytes over plain HTTP and steps of `step` over TLS.

    Every method sends exactly what it was asked for, adds it to `answer.sent`, and otherwise raises: ClientGone for
    the client's part, anything else for the body's. The caller then aborts the connection.
    """

    def __init__(self, window: int = WINDOW, step: int = STEP) -> None:
        self._window = window
        self._step = step

    async def prepare(self, file: Readable, start: int, stop: int) -> None:
        """Have the first of what `file` is to send in the page cache. Raises what reading the file does."""
        await file.load(start, min(stop, start + self._window))

    async def file(
        self, request: web.BaseRequest, answer: Answer, file: Readable, start: int, stop: int, divert: _Divert | None
    ) -> None:
        """Send bytes start..stop of a file; what it cannot hold for want of room, or give, comes from `divert`."""
        transport = request.transport
        if transport is None:
            raise ClientGone
        try:
            if transport.get_extra_info("sslcontext") is None:
                await self._sendfile(request, transport, answer, file, start, stop)
            else:
                await self._read_and_write(request, answer, file, start, stop)
        except (StoreFull, StoreUnreadable):
            if divert is None:
                raise
            position = start + answer.sent
            rest = divert(position)
            try:
                await self.chunks(request, answer, rest, stop - position)
            finally:
                await close_chunks(rest)

    async def chunks(self, request: web.BaseRequest, answer: Answer, chunks: AsyncIterator[bytes], count: int) -> None:
        """Send exactly `count` bytes as they come."""
        left = count
        async for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                raise UpstreamInvalid("the body is longer than was said")
            await write(request, chunk)
            answer.sent += len(chunk)
        if left:
            raise UpstreamInvalid("the body is shorter than was said")

    async def unmeasured(self, request: web.BaseRequest, answer: Answer, chunks: AsyncIterator[bytes]) -> None:
        """Send a body of unknown length as it comes: in HTTP's chunks, or to HTTP/1.0 until the connection ends."""
        framed = request.version >= HttpVersion11
        async for chunk in chunks:
            if chunk:
                await write(request, b"%x\r\n%b\r\n" % (len(chunk), chunk) if framed else chunk)
                answer.sent += len(chunk)
        if framed:
            await write(request, b"0\r\n\r\n")

    async def _sendfile(
        self,
        request: web.BaseRequest,
        transport: asyncio.Transport,
        answer: Answer,
        file: Readable,
        start: int,
        stop: int,
    ) -> None:
        """Send by the kernel, through a duplicate of the connection's descriptor.

        Not by loop.sendfile: a transport aborted meanwhile (a watchdog, a shutdown) leaves that one waiting for
        ever, and a closed descriptor in the selector that breaks whoever gets its number next.
        """
        await self._empty(request, transport)
        out = os.dup(transport.get_extra_info("socket").fileno())
        try:
            position = start
            while position < stop:
                end = await self._next(file, position, stop, self._window)
                while position < end:
                    if transport.is_closing():
                        raise ClientGone
                    try:
                        sent = _send_now(out, file.fd, position, end - position)
                    except OSError as error:
                        raise file.failed(error, position) from error
                    position += sent
                    answer.sent += sent
                    if position < end:
                        await writable(out, transport)
                if position < stop:
                    await asyncio.sleep(0)  # one window a turn of the loop
        finally:
            os.close(out)

    async def _read_and_write(
        self, request: web.BaseRequest, answer: Answer, file: Readable, start: int, stop: int
    ) -> None:
        position = start
        while position < stop:
            end = await self._next(file, position, stop, self._step)
            content = file.read(position, end)
            if len(content) != end - position:
                raise EOFError("the file is shorter than was said")
            await write(request, content)
            position = end
            answer.sent += len(content)
            await asyncio.sleep(0)

    async def _next(self, file: Readable, position: int, stop: int, most: int) -> int:
        """Return the end of the next window: bytes that are ready and in the page cache."""
        ready = file.ready()
        if ready <= position:
            ready = await file.more(position)
            if ready <= position:
                raise EOFError("the file is shorter than was said")
        end = min(ready, stop, position + most)
        await file.load(position, end)
        return end

    async def _empty(self, request: web.BaseRequest, transport: asyncio.Transport) -> None:
        """Wait until the transport's own buffer is empty: what is sent beside it must not overtake it."""
        if not transport.get_write_buffer_size():
            return
        transport.set_write_buffer_limits(high=0)
        try:
            while transport.get_write_buffer_size():
                await flush(request)
        finally:
            transport.set_write_buffer_limits()


async def close_chunks(chunks: AsyncIterator[bytes] | None) -> None:
    """Let go of a body that is passed through, finished or not; safe to repeat."""
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()


def _send_now(out: int, file: int, position: int, count: int) -> int:
    """Hand bytes to the socket and return how many it took: 0 if it is full."""
    try:
        sent = os.sendfile(out, file, position, count)
    except BlockingIOError:
        return 0
    except (ConnectionError, TimeoutError) as error:
        raise ClientGone from error
    if not sent:
        raise EOFError("the file is shorter than was said")
    return sent
