"""Answers written in one piece: status line, fields and, where it is at hand, the body."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from mirror.errors import without_origins
from mirror.registry.connection import connection_of
from mirror.registry.flow import ClientGone, flush, limit_unsent, write
from mirror.registry.memory import Bodies

STEP = 64 * 1024  # bytes of a body that a connection buffers at most
_WARNING_LIMIT = 512
_UNPRINTABLE = re.compile(r"[^ -~]+")
_FIELD_VALUE = re.compile(r"[ -~]{1,255}")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class Answer(web.StreamResponse):
    """An answer whose head was composed beforehand.

    aiohttp's own response copies, completes and serialises a multidict for each answer; one string costs a third of
    that. `headers` of this class is therefore empty. Beside the bytes it carries what the request line tells.
    """

    def __init__(self, status: int, block: bytes, alive: bool, sent: int) -> None:
        super().__init__(status=status)
        self._block = block
        self._alive = alive
        self._request: web.BaseRequest | None = None
        self._ended = False
        self.sent = sent  # bytes of the body
        self.cache = ""
        self.upstream = ""
        self.why = ""

    @property
    def keep_alive(self) -> bool:
        """Whether the connection takes another request after this answer."""
        return self._alive

    def force_close(self) -> None:
        """Let this answer be the connection's last, and do not wait for its end: for one that was cut."""
        self._alive = False
        self._ended = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Write the block, once."""
        if self._request is None:
            transport = request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError
            self._request = request
            transport.write(self._block)
            self._block = b""
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp's signature; all is in the block
        """Wait until the client has taken the answer, at its own pace."""
        request = self._request
        if request is None or self._ended:
            return
        self._ended = True
        if request.protocol.writing_paused:
            try:
                await flush(request)
            except ClientGone:
                raise ConnectionResetError from None


class LargeAnswer(Answer):
    """An answer whose body leaves in steps, from memory that all who take the same body share."""

    def __init__(self, status: int, block: bytes, alive: bool, body: bytes, bodies: Bodies) -> None:
        super().__init__(status, block, alive, 0)
        self._content = body
        self._bodies = bodies

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp's signature
        """Write the body as the client takes it."""
        request = self._request
        if request is None or self._ended:
            return
        self._ended = True
        connection = connection_of(request)
        body = self._bodies.take(self._content)
        self._content = b""
        connection.answering(body)
        limit_unsent(request, STEP)
        try:
            with memoryview(body.content) as view:
                for start in range(0, len(view), STEP):
                    await write(request, view[start : start + STEP])
                    self.sent = min(start + STEP, len(view))
        except ClientGone:
            raise ConnectionResetError from None
        finally:
            self._bodies.release(body)
            connection.answering(None)
            limit_unsent(request, 0)


class Responses:
    """Composes answers. While `leaving`, every answer is its connection's last; `replaced`: others serve on."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.leaving = False
        self.replaced = False
        self._clock = clock
        self._bodies = Bodies()
        self._second = -1
        self._common = ""

    def compose(
        self, request: web.BaseRequest, status: int, fields: str, body: bytes = b"", *, close: bool = False
    ) -> Answer:
        """Return an answer. `fields` are complete lines (Content-Length among them) made of checked values.

        `body` is left out for HEAD. `close` makes this answer the connection's last.
        """
        now = int(self._clock())
        if now != self._second:
            self._second = now
            self._common = (
                "Docker-Distribution-API-Version: registry/2.0\r\nX-Content-Type-Options: nosniff\r\n"
                f"Date: {formatdate(now, usegmt=True)}\r\n"
            )
        alive = request.keep_alive and not close and not self.leaving
        if request.version == HttpVersion11:
            connection = "" if alive else "Connection: close\r\n"
        else:
            connection = "Connection: keep-alive\r\n" if alive else ""
        head = f"{_STATUS_LINES[status]}{fields}{self._common}{connection}\r\n".encode("ascii")
        if body and request.method != "HEAD":
            if len(body) > STEP:
                return LargeAnswer(status, head, alive, body, self._bodies)
            return Answer(status, head + body, alive, len(body))
        return Answer(status, head, alive, 0)

    def whole(
        self,
        request: web.BaseRequest,
        status: int,
        media_type: str,
        body: bytes,
        fields: str = "",
        *,
        close: bool = False,
    ) -> Answer:
        """Return an answer with a body of this media type, which must be a checked value."""
        return self.compose(
            request, status, f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n{fields}", body, close=close
        )


@lru_cache(256)
def field_value(text: str, otherwise: str) -> str:
    """Return `text` if it can stand in a field as it is, else `otherwise`. For what an upstream or a file supplied."""
    return text if _FIELD_VALUE.fullmatch(text) is not None else otherwise


def warning_field(text: str) -> str:
    """Return the Warning line for `text`, or nothing; clients print it to their users (protocol.md 1.4)."""
    if not text:
        return ""
    text = _UNPRINTABLE.sub(" ", without_origins(text)).replace("\\", "/").replace('"', "'")
    return f'Warning: 299 - "{text[:_WARNING_LIMIT]}"\r\n'


def namespace_field(ns: str | None) -> str:
    """Return the OCI-Namespace line: which namespace was answered for (distribution-spec, Registry Proxying)."""
    return f"OCI-Namespace: {ns}\r\n" if ns is not None else ""
