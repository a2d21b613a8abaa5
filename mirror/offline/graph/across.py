"""The update path from one channel to another, minor version by minor version (offline.md 3.2, several channels)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mirror.oci.semver import Version
from mirror.offline.graph.document import Graph
from mirror.offline.graph.paths import NoPath, no_path, shortest
from mirror.offline.graph.source import ChannelUnknown
from mirror.offline.graph.wanted import Span

_CHANNEL = re.compile(r"(?P<prefix>[A-Za-z0-9._-]+)-(?P<major>[0-9]{1,4})\.(?P<minor>[0-9]{1,4})")
_MOST_MINORS = 50
_REMEDY = "choose other versions, or put channels between which no cluster updates into two image sets"


@dataclass(frozen=True, slots=True)
class Walk:
    """An update path: for each channel on it, its graph and the versions taken there."""

    steps: tuple[tuple[str, Graph, list[str]], ...]


@dataclass(frozen=True, slots=True)
class Crossing:
    """The way from the lowest version of some channels to the highest, where two channels say them."""

    first: Span
    last: Span

    @classmethod
    def of(cls, spans: Sequence[Span]) -> Crossing | None:
        """Return the crossing of these channels, or None where one channel says both ends (or there is none)."""
        if not spans:
            return None
        first = min(spans, key=lambda span: Version.parse(span.low).precedence)
        last = max(spans, key=lambda span: Version.parse(span.high).precedence)
        return None if first is last else cls(first, last)

    @property
    def why(self) -> str:
        """Why a release on the way is in the selection, for people."""
        first, last = self.first, self.last
        return f"update path from {first.low} ({first.wanted.name}) to {last.high} ({last.wanted.name})"

    async def walk(self, fetch: Callable[[str], Awaitable[Graph]]) -> Walk | NoPath:
        """Return the path, or why there is none. `fetch` gives the graph of a channel between, or raises.

        Between channels of different minor versions it leads through the head of each on the way, the first one's
        included, whatever its maxVersion. A channel that does not exist (eus has no odd ones) is passed over: the
        next one decides.
        """
        between = self._between()
        if between is None:
            return self._within(self.last.wanted.name, self.last.graph, self.first.low, self.last.high)
        channels = [(self.first.wanted.name, self.first.graph)]
        for name in between:
            with suppress(ChannelUnknown):
                channels.append((name, await fetch(name)))
        steps: list[tuple[str, Graph, list[str]]] = []
        at = self.first.low
        goals = [(name, graph, graph.head) for name, graph in channels if graph.nodes]
        for name, graph, goal in [*goals, (self.last.wanted.name, self.last.graph, self.last.high)]:
            step = self._within(name, graph, at, goal)
            if isinstance(step, NoPath):
                return step
            steps += step.steps
            at = goal
        return Walk(tuple(steps))

    def _between(self) -> list[str] | None:
        """Return the channels between, or None where the path is to be sought in the last one alone."""
        first = _CHANNEL.fullmatch(self.first.wanted.name)
        last = _CHANNEL.fullmatch(self.last.wanted.name)
        if first is None or last is None or first["major"] != last["major"]:
            return None
        low, high = int(first["minor"]), int(last["minor"])
        if not 0 < high - low <= _MOST_MINORS:
            return None
        return [f"{first['prefix']}-{first['major']}.{minor}" for minor in range(low + 1, high)]

    def _within(self, channel: str, graph: Graph, start: str, goal: str) -> Walk | NoPath:
        whole = f"no update path from {self.first.low} to {self.last.high}"
        if start not in graph.nodes:
            below = [one for one in graph.ascending if Version.parse(one) < Version.parse(start)][-1:]
            nearest = f", the newest before it is {below[0]}" if below else ""
            return NoPath(f"{whole}: channel {channel} does not hold {start}{nearest}", _REMEDY)
        found = shortest(graph, start, goal)
        if found is None:
            return NoPath(f"{whole}: {no_path(graph, channel, start, goal).what}", _REMEDY)
        return Walk(((channel, graph, found),))


def eus_warning(first: Span, last: Span) -> str | None:
    """Return what is to be known of an update between two EUS releases, where that is what a selection spans."""
    low, high = Version.parse(first.low), Version.parse(last.high)
    if not last.wanted.name.startswith("eus-") or low.major != high.major or high.minor - low.minor < 2:
        return None
    passed = ", ".join(f"{low.major}.{minor}" for minor in range(low.minor + 1, min(high.minor, low.minor + 10)))
    return (
        f"{last.wanted.name} from {first.low} to {last.high} spans {high.minor - low.minor} minor versions: an update"
        f" between EUS releases passes through {passed}, and releases in other channels may be needed on the way;"
        " compare with the update path that Red Hat's graph tool shows"
    )
