"""The lines of every upstream: a slow one holds up nobody but its own clients."""

from __future__ import annotations

from typing import NamedTuple

from mirror.content.answers import Target
from mirror.line import Line, Place

_MOST = 1024  # that wait for one sort of work at one upstream, a worker

# In the order in which they may be entered: whoever has a place in one may wait for a later one, never for an earlier.
REFERRERS, LISTS, TAGS, FILLS, SMALL_FILLS, MANIFESTS, PROOFS = range(7)
_CROWDED = "too many requests wait for this upstream"
_SPARE = 4  # the part of the places that one repository leaves to others
_WIDTH = 16  # pieces of work of one sort that have begun; upstream's own lanes are narrower


class Turn(NamedTuple):
    """A line, as the work for one repository sees it."""

    line: Line
    repository: str

    def place(self, who: str) -> Place:
        """Return what holds a place for work of the client `who` while a block runs. It raises NotYet."""
        return self.line.place(who, self.repository)


class Lines:
    """The lines of every upstream. `fetches` is `limits.fetches_per_upstream`, 0 for no limit."""

    def __init__(self, fetches: int) -> None:
        # Twice as many: who follows another process's download has a place too.
        self._fills = max(_WIDTH, 2 * fetches) if fetches else _MOST
        self._lines: dict[tuple[str, int], Line] = {}

    def of(self, target: Target, sort: int) -> Turn:
        """Return where work of one sort for a repository of a configured upstream waits: TAGS, …"""
        line = self._lines.get((target.upstream, sort))
        if line is None:
            width = self._fills if sort == FILLS else _WIDTH
            line = self._lines[(target.upstream, sort)] = Line(width, _MOST, _CROWDED, width // _SPARE)
        return Turn(line, target.repository)
