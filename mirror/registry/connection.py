"""One client's connection: aiohttp's protocol, which also knows what the connection is waiting for."""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
import termios
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from mirror import logs

if TYPE_CHECKING:
    from mirror.registry.connections import Connections

_log = logs.get(__name__)

# What one request's head may be. The parser limits each line and their number, but that still lets a client park half
# a megabyte here; nginx takes 32 KiB.
MAX_LINE = 8190
MAX_HEADERS = 64
_MAX_HEAD = 1 << 16

# struct tcp_info (linux/tcp.h): where the count of unacknowledged segments, of acknowledged and of unsent bytes are.
_TCP_INFO_SIZE = 148
_UNACKED, _BYTES_ACKED, _NOTSENT = 24, 120, 144


class Waiting(Protocol):
    """What waits on behalf of a request, before the head of its answer."""

    def end(self) -> None:
        """The client has left."""
        ...


class _NoTimer:
    """Stands where aiohttp keeps its keep-alive timer, so that it starts none: the sweeper closes idle connections."""

    def cancel(self) -> None:
        pass


class Connection(RequestHandler):
    """What the sweeper asks each connection: is it idle, in the middle of a head, or stuck in an answer?"""

    __slots__ = (
        "_head_bytes",
        "_mark",
        "_mark_at",
        "accepted_at",
        "chunks",
        "client",
        "counted",
        "head_since",
        "waiting",
    )

    def __init__(self, server: Connections, client: str, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=0,
            tcp_keepalive=False,  # inherited from the listening socket
            access_log=None,  # type: ignore[arg-type] # None is how aiohttp spells "no access log"
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
            lingering_time=5.0,
            auto_decompress=False,  # a digest is of the bytes as they were sent
        )
        self.client = client  # the peer's address, empty for a unix socket
        self.accepted_at = loop.time()
        self.counted = True  # until the connection is closed
        self.chunks = 0  # reads from the socket so far
        self.waiting: Waiting | None = None
        self.head_since = 0.0  # when a head began that is not complete, or 0
        self._head_bytes = 0
        self._mark: object = None
        self._mark_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._keepalive_handle = _NoTimer()  # type: ignore[assignment] # see _NoTimer
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.end()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.chunks += 1
        if self._messages and self._current_request is not None:
            self._break_body(self._current_request)
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.head_since = 0.0
            return
        # The parser has all of it and still no request: a head has begun.
        if not self.head_since:
            self.head_since = self._loop.time()
            self._head_bytes = 0
        self._head_bytes += len(data)
        if self._head_bytes > _MAX_HEAD and self.transport is not None:
            self.transport.write(b"HTTP/1.1 431 \r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.force_close()

    def _break_body(self, request: web.BaseRequest) -> None:
        """End a body whose chunks turn out malformed: aiohttp takes that for a next request and leaves it waiting."""
        found, _ = self._messages[-1]
        if isinstance(found, _ErrInfo) and not request.content.is_eof():
            request.content.set_exception(found.exc)

    @property
    def idle(self) -> bool:
        """Whether no request is being answered or waits to be."""
        return self._waiter is not None and not self._waiter.done()

    def between_requests(self, before: float) -> bool:
        """Whether nothing is lost by closing it: idle, with no request begun, and not just accepted since `before`."""
        return self.idle and not self.head_since and (self._request_count > 0 or self.accepted_at < before)

    @property
    def served(self) -> int:
        """Requests that came so far."""
        return self._request_count

    @property
    def idle_since(self) -> float:
        """When the last answer ended, on the loop's clock."""
        # Its keep-alive timeout being 0, aiohttp notes here the time at which an answer ended.
        return self._next_keepalive_close_time

    def progress(self) -> None:
        """Say that bytes of the answer moved: whoever sends a body may call this after each window."""
        self._mark = None

    def stalled_for(self, transport: asyncio.Transport, now: float) -> float:
        """Return for how many seconds the peer has neither taken nor sent what this connection waits for."""
        waiting, mark = self._look(transport)
        if not waiting or mark != self._mark:
            self._mark, self._mark_at = mark, now
        return now - self._mark_at

    def answer_with(self, handler: Any) -> None:
        """Give the next requests of this connection to `handler`."""
        self._request_handler = handler

    def _look(self, transport: asyncio.Transport) -> tuple[bool, object]:
        """Tell whether the peer's turn is awaited, and a value that changes whenever it takes or sends a byte."""
        buffered = transport.get_write_buffer_size()
        queued, taken = _sent(transport.get_extra_info("socket"))
        request = self._current_request
        reading = request is not None and not request.content.is_eof() and not self._reading_paused
        return bool(buffered or queued or reading), (taken, buffered, queued, self.chunks)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what the parser refused (400) or a handler let escape (500); the connection is closed after it."""
        if status == 400:
            status = 431 if isinstance(exc, LineTooLong) else 400
            first = (message or "").partition("\n")[0][:120]
            why = type(exc).__name__
            # Clients that are allowed plain HTTP try TLS first, so on a plain port that is everyday.
            if "HTTPS traffic" in first:
                _log.info("request_malformed", client=self.client, why=why, said=first, same=why)
            else:
                _log.warning("request_malformed", client=self.client, why=why, said=first, same=why)
        else:
            _log.error("request_failed", client=self.client, path=request.path, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, no other can follow it")
        return refusal(
            status, "the request is malformed" if status < 500 else "this request failed here; the log says why"
        )


def refusal(status: int, message: str) -> web.Response:
    """Return an error in the registry's form after which the connection is closed."""
    body = json.dumps({"errors": [{"code": "UNKNOWN", "message": message}]})
    response = web.Response(status=status, text=body, content_type="application/json")
    response.force_close()
    return response


def _sent(sock: socket.socket | None) -> tuple[int, int]:
    """Return what the kernel still has to deliver (0: nothing), and a count that grows as the peer takes it."""
    if sock is None:  # a TLS connection that is lost already, whose protocol is told in the next turn of the loop
        return 0, 0
    if sock.family != socket.AF_UNIX:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        if len(info) >= _TCP_INFO_SIZE:
            unacked = struct.unpack_from("=I", info, _UNACKED)[0]
            acked = struct.unpack_from("=Q", info, _BYTES_ACKED)[0]
            return unacked + struct.unpack_from("=I", info, _NOTSENT)[0], acked
    queued = struct.unpack("=i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return queued, -queued
