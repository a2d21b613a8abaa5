"""Bytes passed through without being stored: a range of what is not here, or a blob for which there is no room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from mirror.content.answers import OTHER_BYTES
from mirror.content.fill import HOLD_BACK
from mirror.content.pull import PROGRESS_LIMIT
from mirror.content.workshop import Source
from mirror.errors import UpstreamInterrupted, UpstreamInvalid, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.upstream.body import BlobBody


class Chunks:
    """Bytes to be sent and what is to be let go of afterwards, whether or not anybody ever began to read."""

    def __init__(self, source: AsyncGenerator[bytes], release: Callable[[], Awaitable[None]]) -> None:
        self._source = source
        self._release: Callable[[], Awaitable[None]] | None = release

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._source)

    async def aclose(self) -> None:
        """Let everything go. Safe to call twice."""
        release, self._release = self._release, None
        if release is not None:
            await self._source.aclose()
            await release()


async def pass_range(source: Source, digest: Digest, body: BlobBody, start: int, stop: int) -> AsyncGenerator[bytes]:
    """Yield bytes start..stop as upstream sends them, unverified; `body` is its answer to that range."""
    async for content in _resumed(source, digest, body, start, stop):
        yield content


async def pass_whole(
    source: Source,
    digest: Digest,
    body: BlobBody,
    total: int,
    start: int = 0,
    prefix: Callable[[], bytes] | None = None,
) -> AsyncGenerator[bytes]:
    """Yield bytes start..total; the last 64 KiB only when all agree with the digest, else UpstreamInvalid.

    `prefix` returns the bytes before `start` piece by piece, b"" at their end, so that they count for the digest.
    """
    hasher = digest.hasher()
    while prefix is not None and (piece := await asyncio.to_thread(prefix)):
        await asyncio.to_thread(hasher.update, piece)
    held = bytearray()
    async for content in _resumed(source, digest, body, start, total):
        if len(content) > HOLD_BACK:
            await asyncio.to_thread(hasher.update, content)
        else:
            hasher.update(content)
        held += content
        if len(held) > HOLD_BACK:
            yield bytes(held[:-HOLD_BACK])
            del held[:-HOLD_BACK]
    if hasher.hexdigest() != digest.hex:
        raise UpstreamInvalid(f"what upstream sent for {digest} has other bytes", OTHER_BYTES)
    yield bytes(held)


async def _resumed(source: Source, digest: Digest, body: BlobBody, start: int, stop: int) -> AsyncGenerator[bytes]:
    """Yield bytes start..stop, asking again where a body stops short, for two minutes without progress."""
    loop = asyncio.get_running_loop()
    position, progress, delay = start, loop.time(), 0.2
    current: BlobBody | None = body
    while True:
        try:
            if current is None:
                current = await source.client.get_blob(source.target.repository, digest, position, stop)
            skip = position - current.start
            while position < stop and (content := await current.read()):
                if skip:
                    dropped = min(skip, len(content))
                    skip -= dropped
                    content = content[dropped:]
                content = content[: stop - position]
                if content:
                    position += len(content)
                    progress, delay = loop.time(), 0.2
                    yield content
            if position >= stop:
                return
            raise UpstreamInterrupted(f"upstream ended {digest} after {position} bytes")
        except UpstreamUnavailable as error:
            if loop.time() - progress + max(delay, error.retry_after) > PROGRESS_LIMIT:
                raise
            await asyncio.sleep(max(delay, error.retry_after))
            delay = min(delay * 2, 10)
        finally:
            if current is not None:
                await current.close()
                current = None
