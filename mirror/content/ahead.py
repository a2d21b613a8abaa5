"""A range that a download has not come to: its bytes are the download's or upstream's, whichever come first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from mirror.content.fill import Fill
from mirror.content.pull import PROGRESS_LIMIT
from mirror.content.readers import GrowingFile
from mirror.content.through import pass_range
from mirror.content.workshop import Source
from mirror.errors import (
    Corrupt,
    NotYet,
    StoreFull,
    StoreUnreadable,
    UpstreamError,
    UpstreamInvalid,
    UpstreamUnavailable,
)
from mirror.upstream.body import BlobBody

WAIT_AHEAD = 1.0  # seconds of the download's measured rate that are waited for without asking upstream
_STEP = 256 * 1024  # bytes read at once
_DELAY, _LONGEST_DELAY = 0.2, 10.0  # seconds until upstream is asked again after it failed

_Result = TypeVar("_Result")


class Ahead:
    """Bytes start..stop of the blob that `fill` brings, whose size is known, to be read once by `pieces`.

    `file` is closed by `release`. A client gets its headers at once and never a refusal for want of a place: where
    there is none (`Beside`), it waits for one or for the download, whichever comes first. What is passed through
    cannot be verified, and a range is not the whole blob: nothing of it is held back.
    """

    def __init__(self, fill: Fill, file: GrowingFile, source: Source, start: int, stop: int) -> None:
        self._fill = fill
        self._file = file
        self._source = source
        self._position = start
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._has_place = False
        self._again = 0.0  # when upstream may be asked, on the loop's clock
        self._delay = _DELAY
        self._seen = fill.written
        self._moved = self._loop.time()  # when a byte came last, of the download or of this range
        self.passes = self._enter()  # whether upstream is asked at once

    async def release(self) -> None:
        """Give back the place and the file. Safe to call twice."""
        self._leave()
        self._file.close()

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yield the range. An empty piece says that it is being waited for: is anybody still listening?

        Raises what ended the download, and NotYet after two minutes without a byte.
        """
        try:
            async with aclosing(self._shared()) as shared:
                async for piece in shared:
                    yield piece
        except (StoreFull, StoreUnreadable):
            position, digest = self._position, self._fill.digest
            body = await self._source.client.get_blob(self._source.target.repository, digest, position, self._stop)
            try:
                async with aclosing(pass_range(self._source, digest, body, position, self._stop)) as rest:
                    async for piece in rest:
                        yield piece
            finally:
                await body.close()

    async def _shared(self) -> AsyncGenerator[bytes]:
        while self._position < self._stop:
            ready = min(self._file.ready(), self._stop)
            if ready > self._position:
                self._leave()
                yield await self._read(min(ready, self._position + _STEP))
            elif self._enter():
                async with aclosing(self._passed()) as passed:
                    async for piece in passed:
                        yield piece
            else:
                await self._wait()
                yield b""

    async def _read(self, end: int) -> bytes:
        start = self._position
        await self._file.load(start, end)
        content = self._file.read(start, end)
        if len(content) != end - start:
            raise Corrupt(f"the download of {self._fill.digest} is shorter than it was")
        self._advance(len(content))
        return content

    async def _passed(self) -> AsyncGenerator[bytes]:
        """Yield what upstream sends until the download is ahead; gives the place back, whatever comes of it."""
        fill, beside = self._fill, self._fill.beside
        total = fill.total or 0
        body: BlobBody | None = None
        try:
            ask = self._source.client.get_blob(self._source.target.repository, fill.digest, self._position, self._stop)
            body = await self._unless_overtaken(ask)
            if body is None:
                return
            if body.start != self._position or body.total not in (None, total):
                beside.close()
                return
            while self._position < self._stop and not beside.is_spent(total):
                piece = await self._unless_overtaken(body.read())
                if not piece:
                    return
                beside.count(len(piece))
                self._delay = _DELAY
                self._advance(len(piece))
                yield piece
        except (UpstreamUnavailable, NotYet) as error:
            self._again = self._loop.time() + max(self._delay, error.retry_after)
            self._delay = min(self._delay * 2, _LONGEST_DELAY)
        except UpstreamError:
            beside.close()
        finally:
            if body is not None:
                await body.close()
                beside.given_up(self._stop - self._position)
            self._leave()

    async def _unless_overtaken(self, work: Awaitable[_Result]) -> _Result | None:
        """Return what `work` gives; None, with it cancelled, where the download gets there first or was all wrong."""
        try:
            async with asyncio.timeout(None) as limit:
                watch = asyncio.create_task(self._watch(limit))
                try:
                    return await work
                finally:
                    watch.cancel()
        except TimeoutError:
            return None

    async def _watch(self, limit: asyncio.Timeout) -> None:
        fill = self._fill
        while fill.written <= self._position and not isinstance(fill.error, UpstreamInvalid):
            await fill.change()
        limit.reschedule(self._loop.time())

    async def _wait(self) -> None:
        """Wait until there is news of the download or of places, or upstream may be asked again."""
        fill, now = self._fill, self._loop.time()
        fill.check()
        if fill.written > self._seen:
            self._seen, self._moved = fill.written, now
        until = self._moved + PROGRESS_LIMIT
        if until <= now:
            raise NotYet(f"no byte of {fill.digest} came for two minutes")
        try:
            async with asyncio.timeout_at(min(until, self._again) if self._again > now else until):
                await fill.change()
        except TimeoutError:
            return

    def _advance(self, count: int) -> None:
        self._position += count
        self._moved = self._loop.time()

    def _enter(self) -> bool:
        """Tell whether upstream is to be asked, holding a place for it."""
        fill = self._fill
        if not self._has_place:
            far = self._position > fill.written + fill.rate * WAIT_AHEAD
            if far and not fill.ended and self._loop.time() >= self._again:
                self._has_place = fill.beside.enter(fill.total or 0)
        return self._has_place

    def _leave(self) -> None:
        if self._has_place:
            self._has_place = False
            self._fill.beside.leave()
            self._fill.wake()  # somebody else may wait for the place
