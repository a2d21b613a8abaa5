"""Which releases an image set's channels mean (offline.md 3.2): heads, ranges, shortest paths."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mirror.errors import ConfigurationError, InvalidRequest, Problem
from mirror.oci.pullspec import Pullspec
from mirror.oci.semver import Version
from mirror.offline.graph.across import Crossing, Walk, eus_warning
from mirror.offline.graph.document import Graph, ascending
from mirror.offline.graph.paths import clean, no_path, risk_text, shortest
from mirror.offline.graph.source import ChannelUnknown, Fetch
from mirror.offline.graph.wanted import Span, Wanted, ends

_CHANNELS = "io.openshift.upgrades.graph.release.channels"
_PREFIXES = ("stable", "fast", "candidate", "eus")
_CHANNELS_READ = 200
_LONGEST_CHANNEL = 80
_MINOR = re.compile(r"[0-9]+\.[0-9]+")


@dataclass(frozen=True, slots=True)
class Selected:
    """A release that the channels mean.

    `payload` is by digest. `channels` are those of the selection that hold it, `risks` the conditional updates into it
    from other releases of the selection, as sentences.
    """

    version: str
    payload: Pullspec
    channels: tuple[str, ...]
    why: str
    risks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """What channels mean for one architecture: releases, the oldest first, and the graph of every channel asked."""

    releases: tuple[Selected, ...] = ()
    warnings: tuple[str, ...] = ()
    graphs: Mapping[str, Graph] = field(default_factory=dict)


async def select(channels: Sequence[Wanted], architecture: str, fetch: Fetch) -> Selection:
    """Return the releases that `channels` mean for an architecture as Cincinnati spells it.

    Raise ConfigurationError with every problem: a channel or version that is not there, no update path. What `fetch`
    raises beside ConfigurationError passes through.
    """
    selecting = _Selecting(architecture)
    await selecting.fetch(channels, fetch)
    spans = [span for wanted in channels if (span := selecting.span(wanted)) is not None]
    for span in spans:
        selecting.take(span)
    if not selecting.problems:
        await selecting.cross([span for span in spans if span.wanted.type != "okd"], fetch)
    if selecting.problems:
        # What is wrong with the service itself is said for every channel.
        raise ConfigurationError(list({str(problem): problem for problem in selecting.problems}.values()))
    return selecting.selection()


class _Selecting:
    """A selection as it grows: problems, warnings, and why each version is in it."""

    def __init__(self, architecture: str) -> None:
        self.problems: list[Problem] = []
        self._architecture = architecture
        self._warnings: list[str] = []
        self._graphs: dict[str, Graph] = {}
        self._why: dict[str, list[str]] = defaultdict(list)
        self._payloads: dict[str, tuple[Pullspec, str]] = {}

    async def fetch(self, channels: Sequence[Wanted], fetch: Fetch) -> None:
        """Fetch the graph of every channel, once each."""
        wanted: dict[str, Wanted] = {}
        for one in channels:
            if wanted.setdefault(one.name, one).type != one.type:
                what = f"channel {one.name} is wanted as {wanted[one.name].type} and as {one.type}"
                self.problems.append(Problem("channel_type", what, one.where, "give it one type"))
        found = await asyncio.gather(*(self._one(one, fetch) for one in wanted.values()), return_exceptions=True)
        unknown: list[Wanted] = []
        for one, graph in zip(wanted.values(), found, strict=True):
            if isinstance(graph, ChannelUnknown):
                unknown.append(one)
            elif isinstance(graph, ConfigurationError):
                self.problems += graph.problems
            elif isinstance(graph, BaseException):
                raise graph
            else:
                self._graphs[one.name] = graph
        for one in unknown:
            self.problems += ChannelUnknown(one.name, self._architecture, self._like(one.name), one.where).problems

    async def _one(self, wanted: Wanted, fetch: Fetch) -> Graph:
        if wanted.type == "okd":
            graph = await fetch(wanted.name, self._architecture, "okd")
        else:
            graph = await fetch(wanted.name, self._architecture)
        if not graph.nodes:
            raise ChannelUnknown(wanted.name, self._architecture)
        return graph

    def _like(self, name: str) -> str:
        """Return which channels have a name like this one's: those that the graphs tell of, and how they are built."""
        told = {
            channel.strip()
            for graph in self._graphs.values()
            for node in graph.nodes.values()
            for channel in node.metadata.get(_CHANNELS, "").split(",")[:_CHANNELS_READ]
        }
        told = {one for one in told if one.isprintable() and 0 < len(one) <= _LONGEST_CHANNEL}
        minor = _MINOR.search(name)
        guessed = {f"{prefix}-{minor[0]}" for prefix in _PREFIXES} if minor else set()
        alike = difflib.get_close_matches(name, sorted(told - {name})[:_CHANNELS_READ], 3)
        alike = alike or difflib.get_close_matches(name, sorted(guessed - {name}), 1, 0.8)
        if alike:
            return f"nearest: {', '.join(alike)}"
        return "channels are called stable-4.16, fast-4.16, candidate-4.16, and eus-4.16 for even minor versions"

    def span(self, wanted: Wanted) -> Span | None:
        """Return the ends of what a channel means, or None where they cannot be found."""
        graph = self._graphs.get(wanted.name)
        if graph is None:
            return None
        lowest, highest = ends(wanted, graph)
        low = self._find(wanted, graph, "minVersion", lowest)
        high = self._find(wanted, graph, "maxVersion", highest)
        if low is None or high is None:
            return None
        if Version.parse(low).precedence > Version.parse(high).precedence:
            bound = "maxVersion" if wanted.max_version else "its head"
            what = f"minVersion {low} of channel {wanted.name} is above {bound} {high}"
            self.problems.append(Problem("range_reversed", what, wanted.where, "swap them"))
            return None
        return Span(wanted, graph, low, high)

    def _find(self, wanted: Wanted, graph: Graph, key: str, text: str) -> str | None:
        """Return how the channel spells a version, or None and a problem where it does not hold it."""
        if text in graph.nodes:
            return text
        try:
            version = Version.parse(text)
        except InvalidRequest as error:
            self.problems.append(Problem("version_invalid", f"{key}: {error.what}", wanted.where, error.remedy))
            return None
        same = [one for one in graph.ascending if Version.parse(one).precedence == version.precedence]
        if same:
            return same[0] if key == "minVersion" else same[-1]
        below = [one for one in graph.ascending if Version.parse(one) < version][-1:]
        above = [one for one in graph.ascending if Version.parse(one) > version][:1]
        elsewhere = [name for name, other in sorted(self._graphs.items()) if text in other.nodes]
        remedy = f"nearest: {' and '.join(below + above)}"
        if elsewhere:
            remedy += f"; {text} is in {', '.join(elsewhere)}"
        what = f"channel {wanted.name} has no release {text} for {self._architecture}, its {key}"
        self.problems.append(Problem("version_unknown", what, wanted.where, remedy))
        return None

    def take(self, span: Span) -> None:
        """Put what a channel means into the selection."""
        wanted = span.wanted
        if wanted.shortest_path:
            found = shortest(span.graph, span.low, span.high)
            if found is None:
                why = no_path(span.graph, wanted.name, span.low, span.high)
                self.problems.append(Problem("no_update_path", why.what, wanted.where, why.remedy))
                return
        else:
            found = span.versions
        self._add(span.graph, found, wanted.name, span.why, wanted.where)
        if (warning := eus_warning(span, span)) is not None:
            self._warnings.append(warning)

    async def cross(self, spans: Sequence[Span], fetch: Fetch) -> None:
        """Put the path from the oldest release wanted to the newest into the selection, if they are two channels'."""
        crossing = Crossing.of(spans)
        if crossing is None:
            return
        known = {span.wanted.name: span.graph for span in spans}

        async def between(name: str) -> Graph:
            return known[name] if name in known else await fetch(name, self._architecture)

        found = await crossing.walk(between)
        first, last = crossing.first, crossing.last
        if isinstance(found, Walk):
            for name, graph, versions in found.steps:
                self._graphs.setdefault(name, graph)
                self._add(graph, versions, name, crossing.why, last.wanted.where)
        elif any(span.wanted.shortest_path for span in spans):
            self.problems.append(Problem("no_update_path", found.what, last.wanted.where, found.remedy))
        else:
            self._warnings.append(f"{found.what}: only what each channel means itself is taken")
        if (warning := eus_warning(first, last)) is not None:
            self._warnings.append(warning)

    def _add(self, graph: Graph, versions: Sequence[str], channel: str, why: str, where: str) -> None:
        for version in versions:
            text = graph.nodes[version].payload
            try:
                payload = Pullspec.parse(text)
            except InvalidRequest:
                payload = None
            if payload is None or payload.digest is None:
                what = f"channel {channel} names release {version} by '{clean(text)}', not by a digest"
                self.problems.append(Problem("release_not_pinned", what, where, "mend the graph"))
                continue
            before, named_by = self._payloads.setdefault(version, (payload, channel))
            if before != payload:
                what = f"channels {named_by} and {channel} name two releases {version}: {before} and {payload}"
                self.problems.append(
                    Problem("release_ambiguous", what, where, "put these channels into two image sets")
                )
            elif why not in self._why[version]:
                self._why[version].append(why)

    def selection(self) -> Selection:
        """Return the whole of it."""
        risks: dict[str, set[tuple[Version, str]]] = defaultdict(set)
        for graph in self._graphs.values():
            for edge in graph.conditional:
                if edge.origin in self._why and edge.target in self._why:
                    sentence = f"the update from {edge.origin} is conditional: {risk_text(edge.risks)}"
                    risks[edge.target].add((Version.parse(edge.origin), sentence))
        return Selection(
            tuple(
                Selected(
                    version,
                    self._payloads[version][0],
                    tuple(sorted(name for name, graph in self._graphs.items() if version in graph.nodes)),
                    "; ".join(self._why[version]),
                    tuple(sentence for _, sentence in sorted(risks[version])),
                )
                for version in ascending(self._why)
            ),
            tuple(dict.fromkeys(self._warnings)),
            dict(sorted(self._graphs.items())),
        )
