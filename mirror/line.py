"""A line: what waits for a place, bounded, and served in turn by client.

A place is taken before any lock and before a file is opened, so that what waits costs a few hundred bytes and nothing
else.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict

from mirror.errors import NotYet

_Places = dict[asyncio.Future[None], None]


class Line:
    """Places for `width` pieces of work at once, and at most `most` that wait, served in turn by client.

    Both may be infinite. Where more would wait, the client that has most in line loses what it came with last, and is
    told `crowded`. So one client alone may have all of the line, and is in nobody's way. And of the places one
    party, a repository say, leaves `spare` to the others: where it gets no answers, theirs are had all the same.
    """

    def __init__(self, width: float, most: float = math.inf, crowded: str = "", spare: int = 0) -> None:
        self._free = width
        self._most_of_one = width - spare
        self._most = most
        self._crowded = crowded
        self._length = 0
        self._held: Counter[str] = Counter()  # by party
        # By client, then by party; next turn first.
        self._waiting: OrderedDict[str, OrderedDict[str, _Places]] = OrderedDict()

    @property
    def free(self) -> bool:
        """Whether there is a place for one more now."""
        return self._free > 0

    async def enter(self, who: str = "", party: str = "") -> None:
        """Wait for a place for work of the client `who`; each must be given back by `leave`.

        Raises NotYet, at once or while it waits, where too much is in line. May be cancelled.
        """
        if self._free and self._held[party] < self._most_of_one:
            self._take(party)
            return
        if self._length >= self._most:
            self._make_room(who)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, OrderedDict()).setdefault(party, {})[place] = None
        self._length += 1
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave(party)  # it was given just when its client left
            else:
                self._remove(who, party, place)
            raise

    def place(self, who: str = "", party: str = "") -> Place:
        """Return what holds a place for work of the client `who` while a block runs. It raises NotYet."""
        return Place(self, who, party)

    def leave(self, party: str = "") -> None:
        """Give a place back: to the client whose turn it is."""
        self._free += 1
        self._held[party] -= 1
        if not self._held[party]:
            del self._held[party]
        while self._free and (found := self._next()) is not None:
            who, party = found
            place = next(iter(self._waiting[who][party]))
            self._remove(who, party, place)
            if who in self._waiting:
                self._waiting.move_to_end(who)  # behind all others
                if party in self._waiting[who]:
                    self._waiting[who].move_to_end(party)
            if not place.done():  # one that has just left takes none
                self._take(party)
                place.set_result(None)

    def _take(self, party: str) -> None:
        self._free -= 1
        self._held[party] += 1

    def _next(self) -> tuple[str, str] | None:
        """Return the client and the party whose turn it is."""
        for who, waiting in self._waiting.items():
            for party in waiting:
                if self._held[party] < self._most_of_one:
                    return who, party
        return None

    def _make_room(self, who: str) -> None:
        longest = max(self._waiting, key=self._count, default=who)
        if self._count(longest) <= self._count(who) + 1:
            raise self._refusal()
        party, places = max(self._waiting[longest].items(), key=lambda found: len(found[1]))
        place = next(reversed(places))
        self._remove(longest, party, place)
        if not place.done():
            place.set_exception(self._refusal())

    def _count(self, who: str) -> int:
        return sum(map(len, self._waiting.get(who, {}).values()))

    def _remove(self, who: str, party: str, place: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(who, OrderedDict())
        places = waiting.get(party, {})
        if place not in places:
            return  # pushed out already
        del places[place]
        self._length -= 1
        if not places:
            del waiting[party]
        if not waiting:
            del self._waiting[who]

    def _refusal(self) -> NotYet:
        return NotYet(self._crowded, "ask again")


class Place:
    """`async with` it around work that takes a place of a line. Written out, since every miss takes several."""

    __slots__ = ("_line", "_party", "_who")

    def __init__(self, line: Line, who: str, party: str) -> None:
        self._line = line
        self._who = who
        self._party = party

    async def __aenter__(self) -> None:
        await self._line.enter(self._who, self._party)

    async def __aexit__(self, *_: object) -> None:
        self._line.leave(self._party)
