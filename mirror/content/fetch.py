"""Single flight: one fill a digest in this process; over processes the part's lock keeps it at one."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import NamedTuple

from mirror import metrics
from mirror.content.answers import ByteRange, Cache
from mirror.content.fill import Fill
from mirror.content.workshop import Source, Workshop
from mirror.errors import NotYet
from mirror.oci.digest import Digest
from mirror.store.ingest import Part

CLIENT_PATIENCE = 18.0  # seconds: every client falls through to its next mirror at 30 (containerd), some at 20


class Joined(NamedTuple):
    """A fill, whether this request began it, and whether all of it was here and verified by then."""

    fill: Fill
    began: bool
    verified: bool

    @property
    def cache(self) -> Cache:
        """What X-Cache says of an answer from it."""
        if self.verified or self.fill.was_whole:
            return "HIT"
        return "MISS" if self.began and self.fill.ours else "JOINED"


class Growing(NamedTuple):
    """A blob that is being filled: its size in bytes, and whether all of it is here and verified by now."""

    size: int
    verified: bool


class Fetcher:
    """The fills under way."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._fills: dict[Digest, Fill] = {}
        self._running: Counter[str] = Counter()  # fills that have not ended, by upstream

    def find(self, digest: Digest) -> Fill | None:
        """Return the fill of `digest` that is under way in this process.

        One that has ended and is not taken off the list yet cannot be read any more: what it brought may be evicted.
        """
        fill = self._fills.get(digest)
        return fill if fill is not None and not fill.ended and not fill.dropped else None

    def join(self, digest: Digest, source: Source) -> Joined:
        """Return the fill of `digest`, begun from `source` if nobody has one."""
        fill = self.find(digest)
        if fill is not None:
            return Joined(fill, False, fill.whole)
        fill = Fill(digest, source, self._shop)
        self._fills[digest] = fill
        fill.task = asyncio.create_task(fill.run(), name=f"fill {digest}")
        fill.task.add_done_callback(lambda _: self._ended(digest, fill))
        self._count(fill, 1)
        return Joined(fill, True, verified=False)

    async def opened(self, fill: Fill, wanted: ByteRange | None = None) -> None:
        """Wait until the headers of `fill` may go out, or `wanted` of it is here.

        Raises what ended it, and NotYet after the client's patience.
        """
        try:
            async with asyncio.timeout(CLIENT_PATIENCE):
                await fill.headers(wanted)
        except TimeoutError:
            raise NotYet(
                f"{fill.digest} is being fetched and upstream has not answered yet", "ask again: the fetch goes on"
            ) from None

    async def growing(self, digest: Digest) -> Growing | None:
        """Return what is known of a blob that is being filled, here or by another process.

        None where nobody fills it, or its size is not known.
        """
        fill = self.find(digest)
        if fill is not None and fill.opened:
            return Growing(fill.total, fill.whole) if fill.total is not None else None
        return await self._shop.writers.run(self._filled_elsewhere, digest)

    def _filled_elsewhere(self, digest: Digest) -> Growing | None:
        part = Part.open(self._shop.layout, digest, create=False)
        if part is None:
            return None
        try:
            note = part.note()
            if note is None or note.boot != self._shop.boot or part.try_lock():
                return None
            return Growing(note.size, part.status[1]) if note.size is not None else None
        finally:
            part.close()

    def moving(self) -> dict[Digest, int]:
        """Return how many bytes of each fill under way in this process have come."""
        return {digest: fill.written for digest, fill in self._fills.items() if not fill.ended}

    async def stop(self) -> None:
        """Cancel every fill; what has come stays in its part and is resumed by whoever asks next."""
        tasks = [fill.task for fill in self._fills.values() if fill.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, digest: Digest, fill: Fill) -> None:
        if self._fills.get(digest) is fill:
            del self._fills[digest]
        self._count(fill, -1)

    def _count(self, fill: Fill, change: int) -> None:
        upstream = fill.source.target.upstream
        self._running[upstream] += change
        self._shop.metrics.set(metrics.FETCHES_RUNNING, upstream, to=self._running[upstream])
