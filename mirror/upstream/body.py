"""Bodies as they arrive: blobs in large pieces under a progress watch, small ones whole and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from mirror.errors import UpstreamInterrupted, UpstreamInvalid
from mirror.upstream import coding, failures
from mirror.upstream.transport import BLOB_BUFFER, Answer

STALL_SECONDS = 15.0  # DESIGN 2.9: 15 s without a byte
CRAWL_SECONDS = 60.0  # faults.md 2.1, slow-loris: under CRAWL_RATE over so long
CRAWL_RATE = 16 * 1024


class _StoppedError(Exception):
    """Set on a stream by the watch; its text says why."""


class Watch:
    """Ends a body that stalls or crawls, judging only the time in which its reader waited for bytes.

    One timer a body looks every few seconds: aiohttp's own read timeout is set anew with every piece, and never
    fires at one byte a second (faults.md E10).
    """

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        self._loop = asyncio.get_running_loop()
        self._since = 0.0  # when the reader began to wait; 0: it is not waiting
        self._waited = 0.0  # seconds of waiting in this window
        self._window_bytes = 0
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(STALL_SECONDS / 4, self._look)

    def begin(self) -> None:
        """The reader starts to wait for bytes."""
        self._since = self._loop.time()

    def end(self) -> None:
        """The reader has got what it waited for."""
        self._waited += self._loop.time() - self._since
        self._since = 0.0

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        waiting = now - self._since if self._since else 0.0
        if waiting >= STALL_SECONDS:
            self._content.set_exception(_StoppedError(f"sent nothing for {STALL_SECONDS:.0f} s"))
            return
        if self._waited + waiting >= CRAWL_SECONDS:
            arrived = self._content.total_bytes - self._window_bytes
            if arrived < CRAWL_RATE * CRAWL_SECONDS:
                self._content.set_exception(_StoppedError(f"sent {arrived} bytes in {CRAWL_SECONDS:.0f} s"))
                return
            self._window_bytes = self._content.total_bytes
            self._waited = -waiting
        self._timer = self._loop.call_later(STALL_SECONDS / 4, self._look)


class BlobBody:
    """A blob's bytes from `start` on. Must be closed; being read to its end closes it too.

    `start` is 0 where upstream ignored the Range, `total` the whole blob's size in bytes or None if upstream does
    not say. `begun` is what was read of it already.
    """

    def __init__(
        self, answer: Answer, start: int, stop: int | None, total: int | None, endpoint: str, begun: bytes = b""
    ) -> None:
        self.start = start
        self.total = total
        self.endpoint = endpoint
        self._answer = answer
        self._left = None if stop is None else stop - start
        self._received = 0
        self._begun = begun
        self._done: Callable[[int], None] | None = None
        self._watch = Watch(answer.content)
        self._failed: UpstreamInterrupted | None = None

    def when_done(self, call: Callable[[int], None]) -> None:
        """Have `call` called once, with the bytes received, when the body is closed."""
        self._done = call

    async def read(self) -> bytes:
        """Return the next bytes, up to about 1 MiB, or b"" at the clean end.

        Raise UpstreamInterrupted when the body stops short, stalls or crawls: all bytes returned before are good.
        """
        if self._failed is not None:
            raise self._failed
        if self._begun:
            begun, self._begun = self._begun, b""
            return self._count(begun)
        content = self._answer.content
        self._watch.begin()
        try:
            piece = await content.read(BLOB_BUFFER)
        except (aiohttp.ClientError, OSError, _StoppedError) as error:
            piece = self._count(_rescue(content))
            if self._left != 0:
                self._failed = self._interrupted(str(error) if isinstance(error, _StoppedError) else "")
            self.close_now()
        else:
            self._watch.end()
            piece = self._count(piece)
            if not piece:
                if self._left:
                    self._failed = self._interrupted("")
                self.close_now()
        if self._failed is not None and not piece:
            raise self._failed from None
        return piece

    def _count(self, piece: bytes) -> bytes:
        """Note what came, and return it without what is over: a part may be followed by what nobody asked for."""
        if self._left is not None:
            piece = piece[: self._left] if len(piece) > self._left else piece
            self._left -= len(piece)
        self._received += len(piece)
        return piece

    async def close(self) -> None:
        """Give back the connection and the place in the lane. Safe to call twice."""
        self.close_now()

    def close_now(self) -> None:
        """As `close`, for callers that cannot wait."""
        self._watch.stop()
        self._answer.close()
        if self._done is not None:
            done, self._done = self._done, None
            done(self._received)

    def _interrupted(self, why: str) -> UpstreamInterrupted:
        where = failures.origin(self._answer.url)
        why = why or "ended the body early"
        missing = "" if self._left is None else f", {self._left} bytes are missing"
        return UpstreamInterrupted(f"{where} {why}{missing}", "", self.endpoint)


def _rescue(content: aiohttp.StreamReader) -> bytes:
    """Return what arrived before the stream failed: those bytes are good, and aiohttp would drop them."""
    content.set_exception(None)  # type: ignore[arg-type] # the only way to read on after a failure
    return content.read_nowait(-1)


async def read_whole(answer: Answer, limit: int, what: str, endpoint: str, seconds: float = 60.0) -> bytes:
    """Return a small body. Raise UpstreamInvalid if it is larger than `limit` bytes, UpstreamInterrupted if it
    breaks off or is not there within `seconds`. What came gzipped is returned as it was before, within the limit."""
    where = failures.origin(answer.url)
    announced = answer.header("Content-Length")
    try:
        if not coding.is_decodable(answer.codings):
            raise UpstreamInvalid(f"{where} sends {what} encoded although asked not to", coding.REMEDY, endpoint)
        if announced.isascii() and announced.isdecimal() and int(announced[:20]) > limit:
            raise UpstreamInvalid(f"{where} sends {what} of {announced} bytes, over the limit of {limit}", "", endpoint)
        pieces: list[bytes] = []
        size = 0
        async with asyncio.timeout(seconds):
            while piece := await answer.content.read(limit + 1 - size):
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise UpstreamInvalid(f"{where} sends {what} over the limit of {limit} bytes", "", endpoint)
    except TimeoutError:
        raise UpstreamInterrupted(f"{where} did not send {what} within {seconds:.0f} s", "", endpoint) from None
    except (aiohttp.ClientError, OSError):
        raise UpstreamInterrupted(f"{where} ended {what} early", "", endpoint) from None
    finally:
        answer.close()
    body = b"".join(pieces)
    if not answer.codings:
        return body
    try:
        body = await asyncio.to_thread(coding.decode, body, limit)
    except coding.NotDecodableError as error:
        raise UpstreamInvalid(f"{where} sends {what} encoded, and {error}", "", endpoint) from None
    if len(body) > limit:
        raise UpstreamInvalid(f"{where} sends {what} over the limit of {limit} bytes", "", endpoint)
    return body
