"""One client's connection: aiohttp's protocol, which also knows what the connection is waiting for."""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web
from aiohttp.hdrs import CONTENT_LENGTH
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from mirror import logs
from mirror.registry.malformed import MAX_HEAD, MAX_HEADERS, MAX_LINE, TLS_ON_PLAIN, explain

if TYPE_CHECKING:
    from mirror.registry.connections import Connections
    from mirror.registry.memory import Body

_log = logs.get(__name__)

# What is read at once: no more than a head may be, since it is taken in before anything looks at it.
_READ = 1 << 16
# Of a body it is what asyncio reads by itself: a push in smaller steps takes a tenth more of a processor.
_READ_BODY = 1 << 18
_SMALL = 1 << 13  # bytes that count for nothing before the next look at all connections
# What a connection takes that holds nothing, as measured, TLS's own buffers included.
_PLAIN, _TLS = 24 * 1024, 128 * 1024
# A head is held as it came and as text, in which a byte that is no UTF-8 takes two; what is read ahead comes on top.
_COPIES = 4
_QUEUE = 2  # requests that the parser has ready at most; with one, each would pause its connection
_END = b"\r\n\r\n"

# struct tcp_info (linux/tcp.h): where the count of unacknowledged segments, of acknowledged and of unsent bytes are.
# Its first byte is the state: closed by a reset, or by the peer's FIN (net/tcp_states.h).
_TCP_INFO_SIZE = 148
_ENDED = (7, 8)
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


class _Deaf:
    """Stands where aiohttp parses what comes, once nothing that comes matters any more."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:  # noqa: ARG002 - aiohttp's signature
        return False, b""

    def feed_eof(self) -> None:
        pass


class Connection(RequestHandler):
    """What the sweeper asks each connection: is it idle, in the middle of a head, or stuck in an answer?

    And how much is held for it: of one request that is answered and one behind it, of a head that is not complete, of
    bodies on their way. What comes behind a request that waits is not read.
    """

    __slots__ = (
        "_answering",
        "_body",
        "_length",
        "_mark",
        "_mark_at",
        "_memory",
        "_own",
        "_taken",
        "_unparsed",
        "accepted_at",
        "chunks",
        "client",
        "counted",
        "head_since",
        "waiting",
        "weighed",
    )

    def __init__(self, server: Connections, client: str, *, loop: asyncio.AbstractEventLoop, tls: bool = False) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=0,
            tcp_keepalive=False,  # inherited from the listening socket
            access_log=None,  # type: ignore[arg-type] # None is how aiohttp spells "no access log"
            lingering_time=5.0,
        )
        self.client = client  # the peer's address, empty for a unix socket
        self.accepted_at = loop.time()
        self.counted = True  # until the connection is closed
        self.chunks = 0  # reads from the socket so far
        self.waiting: Waiting | None = None
        self.head_since = 0.0  # when a head began that is not complete, or 0
        self.weighed = 0  # bytes that the worker's memory counts for it
        self._memory = server.memory
        self._own = _TLS if tls else _PLAIN
        self._unparsed = 0  # bytes of a head that is not complete
        self._body: StreamReader = EMPTY_PAYLOAD  # the newest request's, while it comes
        self._length = 0  # its bytes, where that was said
        self._taken = 0
        self._answering: Body | None = None
        # aiohttp's own takes 32 requests ahead.
        self._max_msg_queue_size, self._msg_queue_resume_size = _QUEUE, 0
        self._parser = HttpRequestParser(
            self,
            loop,
            self._read_bufsize,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,  # a digest is of the bytes as they were sent
            max_msg_queue_size=_QUEUE,
        )
        self._mark: object = None
        self._mark_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._keepalive_handle = _NoTimer()  # type: ignore[assignment] # see _NoTimer
        super().connection_made(transport)
        if self._own == _TLS:
            transport.set_read_buffer_limits(_READ)  # type: ignore[attr-defined] # of asyncio's TLS transport
        else:
            self._read_by(0)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._messages.clear()
        self._unparsed = 0
        super().connection_lost(exc)
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.end()

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        super().data_received(data)
        self.chunks += 1
        count = self._request_count - before
        # By far the most reads: a small request of a connection that waits for one.
        if (
            count != 1
            or len(data) > _SMALL
            or self._waiter is None
            or self._unparsed
            or self._messages[-1][1] is not EMPTY_PAYLOAD
        ):
            self._look_into(data, count)

    def _look_into(self, data: bytes, count: int) -> None:
        """Count what came, in which `count` heads ended, and read on only if there is room for it."""
        if self._parser is None:
            return
        waiter, messages = self._waiter, self._messages
        if messages and self._current_request is not None:
            self._break_body(self._current_request)
        most = self._unparsed + len(data)
        in_body = self._body is not EMPTY_PAYLOAD  # so far: what follows a body's end is left out, at most one read
        if count and messages[-1][1] is not EMPTY_PAYLOAD:
            self._body = messages[-1][1]
            length = messages[-1][0].headers.get(CONTENT_LENGTH, "")  # type: ignore[union-attr] # no error has a body
            self._length = int(length) if length.isdecimal() else 0
            self._unparsed = 0
        elif count and data:
            # What follows the last of them.
            self._unparsed = len(data.rpartition(_END)[2]) if _END in data else 0
        elif data and not in_body:
            self._unparsed = most
        if self._body.is_eof():
            self._body = EMPTY_PAYLOAD
        if self._own == _PLAIN and (in_body or self._body is not EMPTY_PAYLOAD):
            self._read_by(self._length - self._body.total_bytes if self._body is not EMPTY_PAYLOAD else 0)
        if self._unparsed > MAX_HEAD or (most > MAX_HEAD and any(_length(one) > MAX_HEAD for one, _ in messages)):
            self._refuse_head()
        if not self._unparsed or waiter is None or waiter.done():
            self.head_since = 0.0
        elif not self.head_since:
            self.head_since = self._loop.time()
        if waiter is None and messages and not self._buffer_paused:
            self._pause_reading_for_buffer()
        if self._reading_paused or (most > _SMALL and not in_body):
            self._memory.weigh(self)

    def _read_by(self, left: int) -> None:
        """Have asyncio read as much at once as fits what comes, of which `left` bytes surely are of a body."""
        if self.transport is not None:
            self.transport.max_size = _READ_BODY if left >= _READ_BODY else _READ  # type: ignore[attr-defined]

    def _refuse_head(self) -> None:
        """Answer 431 when it is this head's turn, and take nothing any more."""
        refused = _ErrInfo(400, LineTooLong(b"", MAX_HEAD), f"a head of more than {MAX_HEAD} bytes")
        ahead = list(takewhile(lambda found: _length(found[0]) <= MAX_HEAD, self._messages))
        self._messages.clear()
        self._messages.extend((*ahead, (refused, EMPTY_PAYLOAD)))
        self._unparsed = 0
        self._parser = None
        self._payload_parser = _Deaf()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def weigh(self) -> int:
        """Return how many bytes are held for it."""
        held = self._own + self._taken + _COPIES * self._unparsed
        if self.transport is not None:
            held += self.transport.get_write_buffer_size()
        if self._answering is not None:
            held += self._answering.share
        for message, _ in self._messages:
            held += _COPIES * _length(message)
        request = self._current_request
        if request is not None:
            held += _COPIES * _length(request._message) + getattr(request.content, "_size", 0)  # noqa: SLF001
        return held

    def taking(self, count: int) -> None:
        """Say that `count` bytes of a request's body are held to be taken as a whole."""
        before, self._taken = self._taken, count
        if max(before, count) > _SMALL:
            self._memory.weigh(self)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Read nothing more of it while the block runs."""
        if self._buffer_paused:
            yield
            return
        self._pause_reading_for_buffer()
        self._memory.weigh(self)
        try:
            yield
        finally:
            self._resume_reading_for_buffer()

    def answering(self, body: Body | None) -> None:
        """Say which large body is on its way to the peer."""
        self._answering = body
        self._memory.weigh(self)

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

    def is_left(self, transport: asyncio.Transport) -> bool:
        """Whether the peer has gone and nothing says so: its socket is not looked at while reading is paused."""
        sock: socket.socket | None = transport.get_extra_info("socket")
        return self._buffer_paused and sock is not None and has_left(sock)

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
            found = explain(exc, first)
            if found.remedy is TLS_ON_PLAIN:
                # Clients that are allowed plain HTTP try TLS first, each time.
                if self._manager is not None and self.transport is not None:
                    address = self.transport.get_extra_info("sockname")
                    self._manager.tell_once("tls_on_plain_port", address, self.client, found.remedy)  # type: ignore[attr-defined] # of Connections
            else:
                remedy = found.remedy
                _log.warning("request_malformed", client=self.client, why=why, said=first, remedy=remedy, same=why)
            told = str(found)
        else:
            _log.error("request_failed", client=self.client, path=request.path, exc_info=exc)
            told = "this request failed here; the log says why"
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, no other can follow it")
        return refusal(status, told)


def has_left(sock: socket.socket) -> bool:
    """Whether the peer sends no more, having closed or reset its connection; never known of a unix socket."""
    return sock.family != socket.AF_UNIX and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _ENDED


def connection_of(request: web.BaseRequest) -> Connection:
    """Return the connection that a request came by."""
    connection = request.protocol
    assert isinstance(connection, Connection)
    return connection


def _length(message: RawRequestMessage | _ErrInfo) -> int:
    """Return about how many bytes a head has."""
    if isinstance(message, _ErrInfo):
        return 0
    return len(message.path) + sum(len(name) + len(value) + 4 for name, value in message.raw_headers)


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
