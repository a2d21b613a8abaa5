"""Bytes on a client's connection: waiting for the client, noticing that it is gone, and cutting it off."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

from aiohttp import web

_RESET = struct.pack("ii", 1, 0)
_LOOK = 5.0  # seconds between looks at a transport whose socket takes nothing


class ClientGone(Exception):
    """The client left, or was cut off."""


def abort(request: web.BaseRequest, *, reset: bool = False) -> None:
    """Cut the connection: the only exit once a head is out and the body cannot be finished (faults.md E8).

    What is left out makes the body short of its Content-Length or its last chunk, which every client notices. A body
    that only the end of the connection delimits needs `reset`, or its end would look clean.
    """
    transport = request.transport
    if transport is None:
        return
    if reset:
        peer = transport.get_extra_info("socket")
        if peer is not None and peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def limit_unsent(request: web.BaseRequest, count: int) -> None:
    """Let the kernel hold about `count` bytes that it has not sent to the client yet, or 0: as many as it likes.

    That is megabytes of its memory, which count for a container's limit, for each client that reads nothing.
    """
    peer = request.transport.get_extra_info("socket") if request.transport is not None else None
    if peer is not None and peer.family != socket.AF_UNIX:
        with suppress(OSError):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, count)


async def write(request: web.BaseRequest, content: bytes | memoryview) -> None:
    """Send bytes and wait until the connection takes more; raise ClientGone."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ClientGone
    transport.write(content)
    if request.protocol.writing_paused:
        await flush(request)


async def flush(request: web.BaseRequest) -> None:
    """Wait until the client has taken what was written; raise ClientGone.

    Without a deadline: who watches the connections aborts one that stands still, and that ends the wait.
    """
    try:
        await request.writer.drain()
    except ConnectionError as error:
        raise ClientGone from error
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ClientGone


async def writable(fd: int, transport: asyncio.Transport) -> None:
    """Wait until the socket `fd`, a duplicate of the transport's, takes bytes; raise ClientGone."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    loop.add_writer(fd, _wake, waiter)
    try:
        # The transport may close without a sign on the duplicate: it reads the client's FIN, the duplicate only writes.
        while not transport.is_closing():
            if (await asyncio.wait((waiter,), timeout=_LOOK))[0]:
                return
    finally:
        loop.remove_writer(fd)
    raise ClientGone


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
