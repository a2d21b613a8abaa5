"""The body of one request on its way into an upload: gathered while what came before is hashed and written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from mirror.content.write_behind import WriteBehind
from mirror.errors import MirrorError, SizeMismatch, StoreFull, TooLarge
from mirror.store.promises import UNIT
from mirror.store.space import Space
from mirror.store.threads import Threads, settle
from mirror.store.upload import Upload

if TYPE_CHECKING:
    from hashlib import _Hash

# What an upload holds in memory is a few times this, and what the connection has buffered.
_PIECE = 256 * 1024  # bytes
_SYNC_EVERY = 128 * 1024 * 1024  # bytes; so that the last sync, for which the client waits, is short


class Bound(NamedTuple):
    """How large an upload may become, in bytes, and what to say of one that becomes larger.

    `admit` is asked before anything is promised, by one at a time: it raises TooLarge, or returns how large the upload
    may become before it is asked again.
    """

    most: int
    what: str
    remedy: str
    admit: Callable[[int], int] | None = None

    def check(self, size: int) -> None:
        """Raise TooLarge where `size` is more."""
        if size > self.most:
            raise TooLarge(self.what, self.remedy)


class Receiver:
    """Appends a body to an open upload, all of which `hasher` has seen.

    Afterwards `hasher` has seen the first `hashed` bytes (None: nobody knows what it has seen).
    """

    def __init__(self, upload: Upload, hasher: _Hash, bound: Bound, space: Space, threads: Threads) -> None:
        self.hasher = hasher
        self.hashed: int | None = None
        self._upload = upload
        self._bound = bound
        self._space = space
        self._threads = threads
        self._position = upload.size
        self._behind = WriteBehind(upload, hasher, threads)
        self._syncing: asyncio.Future[None] | None = None
        self._synced = self._position
        self._promised = 0

    async def run(self, chunks: AsyncIterator[bytes], length: int | None) -> None:
        """Append a body of `length` bytes (None: unknown) to its end.

        Raises TooLarge, SizeMismatch, NotYet, StoreError: then the upload is what it was before. What `chunks` raises
        passes through: then all that came is kept.
        """
        before, known = self._position, self.hasher.copy()
        try:
            try:
                await self._admit(length)
                await self._drain(chunks, length)
            except MirrorError:
                raise
            except BaseException:
                await self._quiet()
                self.hashed = self._position
                await self._threads.complete(self._upload.rest)
                raise
            await self._quiet()
            self.hashed = self._position
        except MirrorError as error:
            self._behind.discard()
            with suppress(MirrorError):
                await self._quiet()
            self.hasher, self.hashed = known, before
            await self._threads.complete(self._upload.cut, before)
            raise refusal(error) from error

    async def _admit(self, length: int | None) -> None:
        """Promise the room of the whole body, or of the next bytes of one whose length is not known."""
        upload = self._upload
        size = None if length is None else self._position + length
        self._bound.check(size if size is not None else self._position)
        admit = self._bound.admit

        def promise() -> None:
            if admit is not None and size is not None:
                admit(size)
            upload.promise(size)

        await self._threads.complete(self._space.reserve_upload, upload.identity, upload.note.name, size, promise)
        if size is not None:
            self._promised = size
        else:
            self._promised = _next_unit(self._position) if admit is None else self._position

    async def _drain(self, chunks: AsyncIterator[bytes], length: int | None) -> None:
        gathered = bytearray()
        came = 0
        try:
            async for chunk in chunks:
                came += len(chunk)
                if length is not None and came > length:
                    raise SizeMismatch(
                        f"the body has more than the {length} bytes that were announced", "send it again"
                    )
                self._bound.check(self._position + len(gathered) + len(chunk))
                gathered += chunk
                if len(gathered) >= _PIECE:
                    await self._write(gathered)
                    gathered = bytearray()
            if length is not None and came != length:
                raise SizeMismatch(f"the body has {came} bytes, but {length} were announced", "send it again")
        except MirrorError:
            raise
        except BaseException:
            await self._write(gathered)
            raise
        await self._write(gathered)

    async def _write(self, content: bytearray) -> None:
        """Let what was gathered be written behind what was gathered before."""
        if not content:
            return
        if self._position + len(content) > self._promised:
            await self._promise_more(len(content))
        await self._behind.put(self._position, content)
        self._position += len(content)
        self._sync_some()

    async def _promise_more(self, length: int) -> None:
        upload, admit = self._upload, self._bound.admit
        size = self._position + length
        most = _next_unit(size)

        def promise() -> None:
            nonlocal most
            if admit is not None:
                most = min(admit(size), most)
                upload.promise(most)

        await self._threads.complete(self._space.reserve_upload, upload.identity, upload.note.name, None, promise)
        self._promised = most

    def _sync_some(self) -> None:
        """Begin to bring to disk what is written, now and then."""
        if self._position - self._synced < _SYNC_EVERY or (self._syncing and not self._syncing.done()):
            return
        if self._syncing is not None:
            self._syncing.result()
        self._synced = self._position
        self._syncing = self._threads.run(self._upload.sync)

    async def _quiet(self) -> None:
        """Wait until no thread works on the upload any more. Raises StoreError where one of them failed."""
        syncing, self._syncing = self._syncing, None
        try:
            await self._behind.settle()
        finally:
            if syncing is not None:
                await settle(syncing)


def _next_unit(position: int) -> int:
    return (position // UNIT + 1) * UNIT


def refusal(error: MirrorError) -> MirrorError:
    """Return what to tell a client: that there is no room is said of the push, which could be smaller."""
    return TooLarge(error.what, error.remedy) if isinstance(error, StoreFull) else error
