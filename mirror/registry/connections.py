"""All connections of a worker: accepting them one at a time, watching that they move, and draining them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import resource
import socket
import ssl
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import Enum, auto

from aiohttp import http_parser, web
from aiohttp.streams import EMPTY_PAYLOAD

from mirror import logs
from mirror.errors import ConfigurationError, Problem
from mirror.metrics import (
    ACCEPT_PAUSES,
    ACCEPTED,
    CONNECTIONS,
    CUT,
    FAULTS,
    HELD_BYTES,
    LOOP_LAG,
    MEMORY_SHORT,
    Metrics,
)
from mirror.registry.connection import Connection, has_left, refusal
from mirror.registry.malformed import PLAIN_ON_TLS
from mirror.registry.memory import Memory
from mirror.registry.tls import ServerTls
from mirror.shares import Share, Shares

_log = logs.get(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_RESERVE = 64  # descriptors kept for files, upstreams and the store while clients take the others
_HANDSHAKE = 10.0  # seconds for a TLS handshake
_USER_TIMEOUT = 60  # seconds that sent bytes may stay unacknowledged by a peer that is gone (tcp(7))
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_COUNT = 30, 10, 3
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_GRACE = 0.5  # seconds that a drain gives a new connection to bring its first request
_BATCH = 16  # connections that are taken at one wake-up
_LOOKED_AT = 64  # those that are closed at once among them, which cost little
_LOOK = 0.001  # seconds after which a worker that left connections to others looks whether they took them
_PATIENCE = 0.02  # seconds for which it does: one that hangs must not hold up clients
_LAGS = 0.005  # seconds of a turn of the loop above which a worker is behind
_LIGHT = 256 * 1024  # bytes up to which a connection is none of those that take much
_TELL_AGAIN = 60.0  # seconds
_SLICE = 256  # connections that are looked at in one turn of the loop


class _Taken(Enum):
    """What became of what waited in a listening socket."""

    NONE = auto()
    BEGUN = auto()
    CLOSED = auto()


class Connections(web.Server):
    """The server that `handler` answers for.

    `connections` is this worker's share of the limit, `connections_per_client` counts by peer address; both 0 for no
    limit. Timeouts are in seconds: `header_timeout` from the connect, or from the first byte of a later request, to
    the end of its head; `idle_timeout` between requests; `write_stall` without the peer taking (or, while its body
    is awaited, sending) a byte. Raises ConfigurationError where aiohttp has no compiled parser.
    """

    def __init__(
        self,
        handler: Handler,
        metrics: Metrics,
        *,
        connections: int = 4096,
        connections_per_client: int = 0,
        header_timeout: float = 10.0,
        idle_timeout: float = 75.0,
        write_stall: float = 60.0,
        share: Share | None = None,
        memory: Memory | None = None,
    ) -> None:
        require_compiled_parser()
        super().__init__(self._answer)
        self._handler = handler
        self._metrics = metrics
        self.memory = memory or Memory()
        self.memory.over = self._over
        self._relieving = False
        self._most = connections or math.inf
        self._most_per_client = connections_per_client
        self._header_timeout = header_timeout or math.inf
        self._idle_timeout = idle_timeout or math.inf
        self._write_stall = write_stall or math.inf
        self._listeners: dict[socket.socket, ServerTls | None] = {}
        self._clients: Counter[str] = Counter()
        self._establishing: set[asyncio.Task[None]] = set()
        self._open = 0
        self._accepted = 0  # since the last report
        self._reported = 0
        self._reported_held = 0
        self._share = share or Share(Shares(1), 0)
        self._lag = 0.0
        self._turn_began = 0.0
        self._left_since = 0.0  # since when what waits is left to other workers, or 0
        self._paused = False
        self._told_at = self._told_short_at = -math.inf
        self._draining = False
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._highest = max(descriptors - _RESERVE, descriptors // 2)
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def open(self) -> int:
        """Connections that are open, those in a TLS handshake too."""
        return self._open

    def tell_once(self, event: str, address: object, client: str, remedy: str) -> None:
        """Log what goes on for each connection of some clients: once for each port in the life of a service."""
        host, port = address[:2] if isinstance(address, tuple) else (address, 0)
        if self._share.is_first(port):
            _log.info(event, address=f"{host}:{port}" if port else str(host), client=client, remedy=remedy)

    def listen(self, listener: socket.socket, tls: ServerTls | None = None) -> None:
        """Accept from a listening socket, until `drain` closes it; other processes may accept from it too."""
        listener.setblocking(False)
        if listener.family != socket.AF_UNIX:
            _tune(listener)
        self._listeners[listener] = tls
        self._count(0)
        if self._sweeper is None:
            self._sweeper = self._loop.create_task(self._sweep_forever())
        if not self._paused:
            self._loop.add_reader(listener, self._accept, listener)

    async def drain(self, timeout: float, *, idle: float = 0.0) -> None:
        """Stop listening, let answers under way end for up to `timeout` seconds, then abort what is left.

        The listeners are closed, not only left alone: a client that connects is refused and takes its next mirror at
        once, and a successor can have the address. Connections that wait for a request are given `idle` seconds for
        it, so that none is closed just when one comes. May be called again while it runs, with less time.
        """
        self._draining = True
        self._share.leave()
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            while self._open < self._most and self._take(listener) is not _Taken.NONE:
                pass  # what the kernel has taken for us already would be reset
            listener.close()
        self._listeners.clear()
        deadline = self._loop.time() + timeout
        while self._open and self._loop.time() < deadline:
            for connection in self.connections:
                if connection.transport is None:
                    continue
                now = self._loop.time()
                rested = now - max(_own(connection).idle_since, _own(connection).accepted_at) >= idle
                if rested and _own(connection).between_requests(now - _GRACE):
                    connection.force_close()
                else:
                    _own(connection).answer_with(self._answer_last)
            await asyncio.sleep(0.02)
        await asyncio.sleep(0)
        for connection, transport in list(self._connections.items()):
            if _own(connection).counted:
                self._cut(_own(connection), transport, "drain")
        for task in self._establishing:
            task.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        # Aborted transports tell their protocols, and those their handlers, in the next turns of the loop.
        for _ in range(3):
            await asyncio.sleep(0)
        self._report()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        connection = _own(handler)
        task = connection._task_handler  # noqa: SLF001 - what it holds for a request goes when that has ended
        if task is not None:
            task.add_done_callback(lambda _: self.memory.forget(connection))
        else:
            self.memory.forget(connection)
        self._gone(connection)

    def _answer(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        # A body where none belongs is how a second request is smuggled past a proxy in front.
        if request.content is not EMPTY_PAYLOAD:
            if request.method in ("GET", "HEAD"):
                return self._refuse("GET and HEAD take no body")
            # The parser takes an empty coding for none, which another reader may not (RFC 9112, 6.1).
            if "Transfer-Encoding" in request.headers and "Content-Length" in request.headers:
                return self._refuse("a body has a Transfer-Encoding or a Content-Length, not both")
        return self._handler(request)

    async def _refuse(self, why: str) -> web.StreamResponse:
        return refusal(400, why)

    async def _answer_last(self, request: web.BaseRequest) -> web.StreamResponse:
        response = await self._answer(request)
        response.force_close()
        return response

    def _accept(self, listener: socket.socket) -> None:
        """Take what waits, a few at a time: the other workers are woken too, and a burst is shared between them.

        A worker that is behind takes one, and one that has more than its share leaves what waits to the others for a
        moment: who wakes first would otherwise have all of it before they are awake.
        """
        now = self._loop.time()
        most = _BATCH if self._lag <= _LAGS else 1
        room = self._share.room()
        if room is not None and room < most:
            if not room and now - (self._left_since or now) < _PATIENCE:
                self._left_since = self._left_since or now
                self._loop.remove_reader(listener)
                self._loop.call_later(_LOOK, self._look_again, listener)
                return
            most = room or most
        self._left_since = 0.0
        for _ in range(_LOOKED_AT):
            taken = self._take(listener)
            most -= taken is _Taken.BEGUN
            if taken is _Taken.NONE or not most or self._paused:
                break
        if not self._turn_began:
            self._turn_began = now
            self._loop.call_soon(self._turned)

    def _look_again(self, listener: socket.socket) -> None:
        if not self._paused and listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def _turned(self) -> None:
        """Note how long the turn of the loop was in which connections were taken, up to their first steps."""
        self._lag = self._loop.time() - self._turn_began
        self._turn_began = 0.0

    def _take(self, listener: socket.socket) -> _Taken:
        """Take one connection, if there is one."""
        try:
            sock, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return _Taken.NONE
        except OSError as error:
            self._pause("descriptors" if error.errno in _NO_DESCRIPTORS else "accept")
            return _Taken.NONE
        client = str(address[0]) if listener.family != socket.AF_UNIX else ""
        self._accepted += 1
        # Nobody who sends no more is answered. A crowd that hangs up would have as much of a worker as who waits.
        left = has_left(sock)
        if left or (client and 0 < self._most_per_client <= self._clients[client]):
            sock.close()
            self._metrics.add(CUT, "left" if left else "per_client")
            return _Taken.CLOSED
        sock.setblocking(False)
        self._count(1)
        self._clients[client] += 1
        tls = self._listeners[listener]
        task = self._loop.create_task(self._establish(sock, client, tls.context if tls else None, listener))
        self._establishing.add(task)
        task.add_done_callback(self._establishing.discard)
        if self._open >= self._most:
            self._pause("connections")
        elif sock.fileno() >= self._highest:
            self._pause("descriptors")
        return _Taken.BEGUN

    async def _establish(
        self, sock: socket.socket, client: str, context: ssl.SSLContext | None, listener: socket.socket
    ) -> None:
        connection = Connection(self, client, loop=self._loop, tls=context is not None)
        self.memory.weigh(connection)
        timeouts = {"ssl_handshake_timeout": _HANDSHAKE, "ssl_shutdown_timeout": 5.0} if context else {}
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock, ssl=context, **timeouts)
        except (OSError, asyncio.CancelledError) as error:
            # A handshake that failed (ssl.SSLError is an OSError) or was given up; the transport has closed the socket.
            if isinstance(error, asyncio.CancelledError):
                sock.close()
            else:
                self._metrics.add(CUT, "handshake")
                if getattr(error, "reason", None) == "HTTP_REQUEST" and listener.fileno() >= 0:
                    self.tell_once("plain_http_on_tls_port", listener.getsockname(), client, PLAIN_ON_TLS)
            # Its frames hold the future that holds it, and with them what TLS keeps of a connection: a third of a
            # megabyte, until the collector comes by.
            traceback.clear_frames(error.__traceback__)
            self.memory.forget(connection)
            self._gone(connection)

    def _count(self, change: int) -> None:
        self._open += change
        if not self._draining and not self._paused:
            self._share.count(self._open)

    def _gone(self, connection: Connection) -> None:
        if not connection.counted:
            return
        connection.counted = False
        self._count(-1)
        self._clients[connection.client] -= 1
        if self._clients[connection.client] <= 0:
            del self._clients[connection.client]
        if self._paused:
            self._resume()

    def _pause(self, why: str) -> None:
        self._paused = True
        for listener in self._listeners:
            self._loop.remove_reader(listener)
        self._share.leave()
        self._metrics.add(ACCEPT_PAUSES, why)
        if self._loop.time() - self._told_at > _TELL_AGAIN:
            self._told_at = self._loop.time()
            _log.warning("accepting_paused", why=why, connections=self._open)

    def _resume(self) -> None:
        if self._draining or self._open >= self._most or not self._descriptors_left():
            return
        self._paused = False
        self._count(0)
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def _descriptors_left(self) -> bool:
        # A new descriptor gets the lowest free number, so the number says how many are taken.
        try:
            descriptor = os.dup(next(iter(self._listeners)).fileno())
        except OSError:
            return False
        os.close(descriptor)
        return descriptor < self._highest

    async def _sweep_forever(self) -> None:
        period = min(1.0, self._header_timeout / 4, self._idle_timeout / 4, self._write_stall / 4)
        while True:
            await asyncio.sleep(period)
            try:
                await self._sweep()
            except Exception:  # noqa: BLE001 - without the sweeper nothing watches the connections any more
                self._metrics.add(FAULTS, "sweep")
                _log.exception("sweep_failed")

    async def _sweep(self) -> None:
        if self._paused:
            self._resume()
        self._report()
        for number, (connection, transport) in enumerate(list(self._connections.items()), 1):
            why = self._overdue(_own(connection), transport, self._loop.time()) if _own(connection).counted else ""
            if why:
                self._cut(_own(connection), transport, why)
            elif _own(connection).is_left(transport):
                transport.abort()
            self.memory.weigh(_own(connection))
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        self.memory.admit()
        self.memory.give_back()

    def _over(self) -> None:
        if not self._relieving:
            self._relieving = True
            self._loop.call_soon(self._relieve)

    def _relieve(self) -> None:
        """Cut connections until there is room: first who holds most for longest, then who is idle for longest."""
        now = self._loop.time()
        memory = self.memory
        open_ = [(_own(one), transport) for one, transport in self._connections.items() if _own(one).counted]
        for connection in self._connections:
            memory.weigh(_own(connection))
        self._relieving = False
        if memory.enough:
            memory.admit()
            return
        self._metrics.set(MEMORY_SHORT, to=time.time())
        if now - self._told_short_at > _TELL_AGAIN:
            self._told_short_at = now
            _log.warning("memory_short", held=memory.held, connections=self._open)
        busy = [one for one in open_ if one[0].weighed > _LIGHT]
        busy.sort(key=lambda one: -one[0].weighed * (1 + one[0].stalled_for(one[1], now)))
        idle = [one for one in open_ if one[0].weighed <= _LIGHT and one[0].between_requests(now - _GRACE)]
        idle.sort(key=lambda one: one[0].idle_since)
        for connection, transport in (*busy, *idle):
            if memory.enough:
                break
            self._cut(connection, transport, "memory")
            # Its pages follow in the next turns of the loop; what a handler still holds is counted until that ends.
            memory.forget(connection)
        memory.admit()

    def _overdue(self, connection: Connection, transport: asyncio.Transport, now: float) -> str:
        """Return why this connection must end now, or nothing."""
        if connection.idle and not transport.is_closing() and not transport.get_write_buffer_size():
            connection.progress()
            if connection.head_since or not connection.served:
                since = connection.head_since or connection.accepted_at
                return "header_timeout" if now - since >= self._header_timeout else ""
            return "idle" if now - connection.idle_since >= self._idle_timeout else ""
        return "write_stall" if connection.stalled_for(transport, now) >= self._write_stall else ""

    def _cut(self, connection: Connection, transport: asyncio.Transport, why: str) -> None:
        self._metrics.add(CUT, why)
        if why != "idle":
            _log.info("connection_cut", why=why, client=connection.client)
        if why in ("header_timeout", "idle"):
            connection.force_close()
            return
        # Whoever sends the body may hold a duplicate of the descriptor: this ends the connection for all of them.
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None:  # a TLS connection that is lost already has none
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        transport.abort()

    def _report(self) -> None:
        accepted, self._accepted = self._accepted, 0
        self._metrics.add(ACCEPTED, by=accepted)
        # By the difference: a worker has a second server, for its metrics.
        change, self._reported = self._open - self._reported, self._open
        self._metrics.add(CONNECTIONS, by=change)
        change, self._reported_held = self.memory.held - self._reported_held, self.memory.held
        self._metrics.add(HELD_BYTES, by=change)


async def sample_loop_lag(metrics: Metrics, period: float = 0.1) -> None:
    """Measure every `period` seconds how late the loop wakes a sleeper, until cancelled."""
    while True:
        begun = time.monotonic()
        await asyncio.sleep(period)
        metrics.observe(LOOP_LAG, value=max(0.0, time.monotonic() - begun - period))


def require_compiled_parser() -> None:
    """Raise ConfigurationError unless llhttp parses requests: the pure Python parser is laxer about smuggled ones."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        problem = Problem(
            "parser",
            "aiohttp runs without its compiled HTTP parser",
            "",
            "install aiohttp from a wheel and unset AIOHTTP_NO_EXTENSIONS",
        )
        raise ConfigurationError([problem])


def _tune(listener: socket.socket) -> None:
    """Set what accepted connections inherit from their listening socket (Linux)."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT * 1000)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _own(handler: web.RequestHandler) -> Connection:
    assert isinstance(handler, Connection)
    return handler
