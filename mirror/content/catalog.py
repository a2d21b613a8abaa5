"""The list of repositories: walked as far as a page needs, and remembered for some seconds."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from mirror.content.answers import NamePage
from mirror.store.catalog import walk_names
from mirror.store.layout import Layout
from mirror.store.threads import Threads

PAGE = 1000  # names in a page where the client does not say how many

_STRETCH = 1000  # names walked at a time, and remembered together
_STRETCHES = 64
_FRESH_FOR = 5.0  # seconds


class _Stretch(NamedTuple):
    """The names that follow `start`, whether there are more behind them, and when they were read."""

    start: str
    names: list[str]
    more: bool
    read: float

    def covers(self, last: str) -> bool:
        """Tell whether what follows `last` is among these names, as far as they go."""
        return self.start <= last and (not self.more or last < self.names[-1])


class Catalog:
    """Repositories that have a manifest or a tag, as the store holds them."""

    def __init__(self, layout: Layout, threads: Threads) -> None:
        self._layout = layout
        self._threads = threads
        self._known: list[_Stretch] = []

    async def page(self, count: int | None, last: str, visible: Callable[[str], bool]) -> NamePage:
        """Return at most `count` (None: PAGE) names after `last`, in lexical order, of those that are `visible`."""
        wanted = PAGE if count is None else min(count, PAGE)
        found: list[str] = []
        more = wanted > 0
        while more and len(found) < wanted:
            stretch = await self._stretch(last)
            begin = bisect_right(stretch.names, last)
            shown = (name for name in stretch.names[begin:] if visible(name))
            taken = list(islice(shown, wanted - len(found)))
            found += taken
            full = len(found) == wanted
            more = stretch.more or (full and next(shown, None) is not None)
            last = taken[-1] if full and taken else stretch.names[-1] if stretch.names else last
        return NamePage(tuple(found), more)

    async def _stretch(self, last: str) -> _Stretch:
        now = time.monotonic()
        self._known = [one for one in self._known if now - one.read < _FRESH_FOR]
        for one in self._known:
            if one.covers(last):
                return one
        names = await self._threads.complete(self._read, last)
        stretch = _Stretch(last, names[:_STRETCH], len(names) > _STRETCH, now)
        self._known = [*self._known[1 - _STRETCHES :], stretch]
        return stretch

    def _read(self, last: str) -> list[str]:
        return list(islice(walk_names(self._layout, last), _STRETCH + 1))
