"""A sync's manners: node pulls come first, so it gives way while another process has a miss in flight upstream."""

from __future__ import annotations

import asyncio
import os
import time

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.store.ingest import Part
from mirror.store.layout import Layout
from mirror.store.threads import Threads

SYNC = "sync"  # what the notes of a sync's own downloads begin with
_LOOK_EVERY = 0.2  # seconds between looks at what others download
_START_PATIENCE = 30.0  # seconds that a new download gives way; a node that never stops must not stop a sync
_SHARE = 3  # of the time that a piece took, this many times it passes before the next: a quarter of the link is left
_LONGEST_PAUSE = 1.0  # seconds; longer ones would look like a stalled reader to upstream


class Courtesy:
    """Knows which upstreams others are waiting for: downloads in the store whose notes are not a sync's."""

    def __init__(self, layout: Layout, threads: Threads) -> None:
        self._layout = layout
        self._threads = threads
        self._busy: frozenset[str] = frozenset()
        self._looked = 0.0
        self._looking = asyncio.Lock()

    async def before_start(self, upstream: str) -> None:
        """Wait until nobody else has a miss in flight to `upstream`, for half a minute at most."""
        for _ in range(round(_START_PATIENCE / _LOOK_EVERY)):
            if upstream not in await self._look():
                return
            await asyncio.sleep(_LOOK_EVERY)

    async def after_piece(self, upstream: str, took: float) -> None:
        """Give way after a piece of a download that took so many seconds to come."""
        if upstream in await self._look():
            await asyncio.sleep(min(took * _SHARE, _LONGEST_PAUSE))

    async def _look(self) -> frozenset[str]:
        if time.monotonic() - self._looked > _LOOK_EVERY and not self._looking.locked():
            async with self._looking:
                self._busy = await self._threads.run(self._find)
                self._looked = time.monotonic()
        return self._busy

    def _find(self) -> frozenset[str]:
        found = set()
        for name in os.listdir(self._layout.ingest):
            if not name.endswith(".part"):
                continue
            try:
                digest = Digest.parse(name.removesuffix(".part").replace("-", ":", 1))
                part = Part.open(self._layout, digest, create=False)
            except (DigestInvalid, OSError):
                continue
            if part is None:
                continue
            try:
                note = part.note()
                if note is not None and not note.who.startswith(SYNC) and not part.try_lock():
                    found.add(note.upstream)
            finally:
                part.close()
        return frozenset(found)
