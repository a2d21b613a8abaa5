"""What an image set wants of a channel, and from which version to which that leads (offline.md 3.2, the table)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mirror.oci.semver import Version
from mirror.offline.graph.document import Graph


class Wanted(Protocol):
    """A channel of an image set. Versions are empty where none is given; `where` is `file:line`."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def min_version(self) -> str: ...
    @property
    def max_version(self) -> str: ...
    @property
    def shortest_path(self) -> bool: ...
    @property
    def full(self) -> bool: ...
    @property
    def where(self) -> str: ...


def ends(wanted: Wanted, graph: Graph) -> tuple[str, str]:
    """Return the lowest and the highest version that a channel means, as they are written; they may not exist.

    Without any it is the head alone, or with `full` everything; with a highest one everything up to it.
    """
    lowest = graph.ascending[0] if wanted.max_version or wanted.full else graph.head
    return wanted.min_version or lowest, wanted.max_version or graph.head


@dataclass(frozen=True, slots=True)
class Span:
    """What a channel means: from version `low` to version `high` of its graph, both in it."""

    wanted: Wanted
    graph: Graph
    low: str
    high: str

    @property
    def why(self) -> str:
        """Why a release of it is in the selection, for people."""
        wanted = self.wanted
        low = f"minVersion {self.low}" if wanted.min_version else f"its oldest {self.low}"
        high = f"maxVersion {self.high}" if wanted.max_version else f"its head {self.high}"
        if not wanted.min_version and not wanted.max_version and not wanted.full:
            return f"{wanted.name}: {high}"
        if wanted.shortest_path:
            return f"{wanted.name}: shortest path from {low} to {high}"
        return f"{wanted.name}: {low} to {high}"

    @property
    def versions(self) -> list[str]:
        """Everything in the channel from `low` to `high`, the oldest first."""
        low, high = Version.parse(self.low).precedence, Version.parse(self.high).precedence
        return [one for one in self.graph.ascending if low <= Version.parse(one).precedence <= high]
