"""The upstream side of a download: ask, append what comes, and ask again from where it stopped."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mirror import logs
from mirror.content.answers import OTHER_BYTES
from mirror.content.workshop import Workshop
from mirror.errors import StoreFull, UpstreamInterrupted, UpstreamInvalid, UpstreamUnavailable
from mirror.store.ingest import Part, PartNote
from mirror.store.promises import UNIT
from mirror.store.threads import settle
from mirror.upstream.body import BlobBody

if TYPE_CHECKING:
    from hashlib import _Hash

    from mirror.content.fill import Fill

PROGRESS_LIMIT = 120.0  # seconds without a byte after which readers are cut
_SYNC_EVERY = 128 * 1024 * 1024  # bytes
# What has gathered by the first read is up to 1 MiB; a client's first byte need not wait until all that is written.
_FIRST = 64 * 1024  # bytes

_log = logs.get("content.pull")


class Pull:
    """The upstream side of one download: ask, drain, ask again from where it stopped."""

    def __init__(self, fill: Fill, part: Part, hasher: _Hash, shop: Workshop) -> None:
        self._fill = fill
        self._part = part
        self._hasher = hasher
        self._shop = shop
        self._note: PartNote | None = None
        self._sync: asyncio.Future[None] | None = None
        self._synced = fill.written
        self._promised = fill.written + UNIT

    async def run(self) -> None:
        """Append until the total is reached, or, where none is known, to a clean end. Raises MirrorError, OSError."""
        fill, loop = self._fill, asyncio.get_running_loop()
        progress, delay = loop.time(), 0.2
        try:
            while not self._complete:
                before = fill.written
                try:
                    if await self._leg():
                        break
                except UpstreamUnavailable as error:
                    if fill.written > before:
                        progress, delay = loop.time(), 0.2
                    if self._note is None and not isinstance(error, UpstreamInterrupted):
                        raise
                    if loop.time() - progress + max(delay, error.retry_after) > PROGRESS_LIMIT:
                        raise
                    _log.warning(
                        "download_interrupted",
                        digest=str(fill.digest),
                        name=fill.source.target.name,
                        bytes=fill.written,
                        error=error.what,
                    )
                    await asyncio.sleep(max(delay, error.retry_after) if fill.written == before else 0)
                    delay = min(delay * 2, 10)
        except BaseException:
            await self.synced()
            raise
        fill.total = fill.written

    async def synced(self) -> None:
        """Wait until no thread works on the part any more. Not part of `run`: readers need not wait for the disk."""
        if self._sync is not None:
            with suppress(OSError):
                await settle(self._sync)

    @property
    def _complete(self) -> bool:
        return self._fill.total is not None and self._fill.written == self._fill.total

    async def _leg(self) -> bool:
        """Ask upstream once and append what comes; True at a clean end of a body of unknown length."""
        fill = self._fill
        source = fill.source
        if self._shop.courtesy is not None:
            await self._shop.courtesy.before_start(source.target.upstream)
        body = await source.client.get_blob(source.target.repository, fill.digest, fill.written, size=source.expected)
        try:
            await self._accept(body)
            return await self._drain(body)
        finally:
            await body.close()

    async def _accept(self, body: BlobBody) -> None:
        """Agree on the total, promise the room, and let headers out."""
        fill, shop, source = self._fill, self._shop, self._fill.source
        total = body.total if body.total is not None else source.expected
        if source.expected not in (None, total):
            raise UpstreamInvalid(
                f"upstream says that {fill.digest} has {total} bytes, but its manifest says {source.expected}",
                OTHER_BYTES,
            )
        if fill.total is not None and total is not None and total != fill.total:
            raise UpstreamInvalid(
                f"upstream says that {fill.digest} has {total} bytes, but had {fill.total}", OTHER_BYTES
            )
        total = total if total is not None else fill.total
        if total is not None and total > shop.blob_limit:
            raise UpstreamInvalid(f"{fill.digest} has {total} bytes", f"limits.blob allows {shop.blob_limit}")
        if self._note is None:
            note = PartNote(total, source.target.upstream, source.target.repository, shop.boot, fill.written, shop.who)
            await shop.writers.complete(shop.space.reserve, fill.digest, total, lambda: self._part.write_note(note))
            self._note = note
            shop.granted(source.target, fill.digest)
        fill.open_for(total)

    async def _drain(self, body: BlobBody) -> bool:
        """Append the body: the next read goes on while the last one is hashed and written."""
        fill, shop = self._fill, self._shop
        position = fill.written
        skip = position - body.start  # upstream ignored the Range and began anew
        pending: asyncio.Future[int] | None = None
        first = True
        asked = time.monotonic()
        try:
            while content := await body.read():
                if shop.courtesy is not None:
                    await shop.courtesy.after_piece(fill.source.target.upstream, time.monotonic() - asked)
                    asked = time.monotonic()
                if skip:
                    dropped = min(skip, len(content))
                    skip -= dropped
                    content = content[dropped:]
                    if not content:
                        continue
                if pending is not None:
                    fill.grow(await settle(pending))
                    pending = None
                if position + len(content) > (fill.total if fill.total is not None else shop.blob_limit):
                    raise UpstreamInvalid(f"upstream sends more bytes of {fill.digest} than it has", OTHER_BYTES)
                if first and len(content) > _FIRST:
                    pending = self._append(position, content[:_FIRST])
                    position += _FIRST
                    content = content[_FIRST:]
                    fill.grow(await settle(pending))
                first = False
                pending = self._append(position, content)
                position += len(content)
                self._sync_some(fill.written)
                await self._promise_more(position)
        finally:
            if pending is not None:
                fill.grow(await settle(pending))
        if fill.total is not None and fill.written < fill.total:
            raise UpstreamInterrupted(f"upstream ended {fill.digest} after {fill.written} of {fill.total} bytes")
        return True

    def _append(self, position: int, content: bytes) -> asyncio.Future[int]:
        pending = self._shop.writers.run(self._part.append, position, (content,), self._hasher)
        pending.add_done_callback(self._appended)
        return pending

    def _appended(self, pending: asyncio.Future[int]) -> None:
        """Let readers have what is written now: upstream's next bytes may be long in coming."""
        if not pending.cancelled() and pending.exception() is None and pending.result() > self._fill.written:
            self._fill.grow(pending.result())

    async def _promise_more(self, position: int) -> None:
        """Promise room for the next bytes where the total is not known."""
        if self._fill.total is None and position >= self._promised:
            self._promised = position + UNIT
            await self._shop.writers.complete(self._shop.space.reserve, self._fill.digest, None)

    def _sync_some(self, written: int) -> None:
        """Bring what is written to disk now and then, so that a power cut costs little of a large blob."""
        if self._note is None or written - self._synced < _SYNC_EVERY or (self._sync and not self._sync.done()):
            return
        if self._sync is not None and self._sync.exception() is not None:
            raise StoreFull(f"the store cannot take {self._fill.digest}") from self._sync.exception()
        self._synced = written
        self._sync = self._shop.writers.run(self._part.sync, written, replace(self._note, synced=written))
