"""Lines: what waits for an upstream, bounded, and served in turn by client.

A place is taken before any lock and before a file is opened, so that what waits costs a few hundred bytes and nothing
else. Every upstream has lines of its own: a slow one holds up nobody but its own clients.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mirror.errors import NotYet

_MOST = 1024  # that wait for one sort of work at one upstream, a worker

# In the order in which they may be entered: whoever has a place in one may wait for a later one, never for an earlier.
REFERRERS, LISTS, TAGS, FILLS, SMALL_FILLS, MANIFESTS, PROOFS = range(7)
_CROWDED = "too many requests wait for this upstream"
_WIDTH = 16  # pieces of work of one sort that have begun; upstream's own lanes are narrower


class Line:
    """Places for `width` pieces of work at once, and at most `most` that wait, served in turn by client.

    Where more would wait, the client that has most in line loses what it came with last. So one client alone may have
    all of the line, and is in nobody's way.
    """

    def __init__(self, width: int, most: int = _MOST, crowded: str = _CROWDED) -> None:
        self._free = width
        self._most = most
        self._crowded = crowded  # what is said of it
        self._length = 0
        self._waiting: OrderedDict[str, dict[asyncio.Future[None], None]] = OrderedDict()  # next turn first

    async def enter(self, who: str) -> None:
        """Wait for a place for work of the client `who`; each must be given back by `leave`.

        Raises NotYet, at once or while it waits, where too much is in line. May be cancelled.
        """
        if self._free:
            self._free -= 1
            return
        if self._length >= self._most:
            self._make_room(who)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, {})[place] = None
        self._length += 1
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave()  # it was given just when its client left
            else:
                self._remove(who, place)
            raise

    @asynccontextmanager
    async def place(self, who: str) -> AsyncIterator[None]:
        """Hold a place for work of the client `who` while the block runs. Raises NotYet."""
        await self.enter(who)
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """Give a place back: to the client whose turn it is."""
        while self._waiting:
            who, places = self._waiting.popitem(last=False)
            place = next(iter(places))
            del places[place]
            self._length -= 1
            if places:
                self._waiting[who] = places  # behind all others
            if not place.done():  # one that has just left takes none
                place.set_result(None)
                return
        self._free += 1

    def _make_room(self, who: str) -> None:
        longest = max(self._waiting, key=lambda one: len(self._waiting[one]), default=who)
        if len(self._waiting.get(longest, ())) <= len(self._waiting.get(who, ())) + 1:
            raise self._refusal()
        place = next(reversed(self._waiting[longest]))
        self._remove(longest, place)
        if not place.done():
            place.set_exception(self._refusal())

    def _remove(self, who: str, place: asyncio.Future[None]) -> None:
        places = self._waiting.get(who, {})
        if place not in places:
            return  # pushed out already
        del places[place]
        self._length -= 1
        if not places:
            del self._waiting[who]

    def _refusal(self) -> NotYet:
        return NotYet(self._crowded, "ask again")


class Lines:
    """The lines of every upstream. `fetches` is `limits.fetches_per_upstream`, 0 for no limit."""

    def __init__(self, fetches: int) -> None:
        # Twice as many: who follows another process's download has a place too.
        self._fills = max(_WIDTH, 2 * fetches) if fetches else _MOST
        self._lines: dict[tuple[str, int], Line] = {}

    def of(self, upstream: str, sort: int) -> Line:
        """Return the line of a configured upstream for one sort of work: TAGS, …"""
        line = self._lines.get((upstream, sort))
        if line is None:
            line = self._lines[(upstream, sort)] = Line(self._fills if sort == FILLS else _WIDTH)
        return line
