"""Shortest update paths, as oc-mirror takes them (offline.md 3.2), and why there is none."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from mirror.oci.semver import Version
from mirror.offline.graph.document import Edge, Graph, Risk

_SHOWN = 300  # characters of what an outsider wrote
_EDGES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class NoPath:
    """Why there is no update path, as a sentence, and what would help."""

    what: str
    remedy: str


def shortest(graph: Graph, start: str, goal: str) -> list[str] | None:
    """Return the versions of the path of fewest updates for everybody, both ends included, or None.

    Among equally short ones the newest versions are taken. Conditional updates are never used.
    """
    return _trace(_search(graph.edges, start), goal)


def no_path(graph: Graph, channel: str, start: str, goal: str) -> NoPath:
    """Return why no path leads from `start` to `goal`: only conditional updates do, with which risks, or nothing."""
    what = f"channel {channel} has no update path from {start} to {goal}"
    wanted = Version.parse(goal).precedence
    reached = [one for one in _search(graph.edges, start) if Version.parse(one).precedence < wanted and one != start]
    newest = max(reached, key=Version.parse, default="")
    nearest = f"maxVersion {newest}, the newest that can be reached" if newest else "other versions"
    risks = {(edge.origin, edge.target): edge.risks for edge in graph.conditional}
    trace = _trace(_search(graph.edges | risks.keys(), start), goal)
    if trace is None:
        return NoPath(what, f"take {nearest}, or leave shortestPath out to take every release between the two")
    needed = [edge for edge in itertools.pairwise(trace) if edge in risks]
    said = "; ".join(
        f"{origin} to {target}: {risk_text(risks[origin, target])}" for origin, target in needed[:_EDGES_SHOWN]
    )
    more = f" and {len(needed) - _EDGES_SHOWN} more" if len(needed) > _EDGES_SHOWN else ""
    return NoPath(
        f"{what}: only a conditional update leads there ({said}{more})",
        f"take {nearest}; or, if the risk does not concern your clusters, leave shortestPath out to take every"
        " release between the two",
    )


def risk_text(risks: Iterable[Risk]) -> str:
    """Return risks for a person to read, without what could steer a terminal."""
    return "; ".join(
        clean(f"{risk.name or 'a risk'}: {risk.message}" if risk.message else risk.name or "a risk without a name")
        + (f" ({clean(risk.url)})" if risk.url else "")
        for risk in risks
    )


def clean(text: str) -> str:
    """Return the text on one line, of printable characters alone, not too long."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _search(edges: Iterable[Edge], start: str) -> dict[str, str]:
    """Return for every version that can be reached the one before it, breadth first; the start's is itself."""
    successors: dict[str, list[str]] = defaultdict(list)
    for origin, target in edges:
        successors[origin].append(target)
    before = {start: start}
    queue = [start]
    for version in queue:
        for target in sorted(successors[version], key=Version.parse, reverse=True):
            if target not in before:
                before[target] = version
                queue.append(target)
    return before


def _trace(before: dict[str, str], goal: str) -> list[str] | None:
    if goal not in before:
        return None
    path = [goal]
    while before[path[-1]] != path[-1]:
        path.append(before[path[-1]])
    return path[::-1]
