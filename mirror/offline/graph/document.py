"""The update graph of a channel as values, and as Cincinnati's JSON (offline.md 3.1: graphs, conditional edges)."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from mirror.errors import UpstreamInvalid
from mirror.oci.semver import Version, VersionInvalid

SIZE_LIMIT = 32 * 1024 * 1024  # bytes
NODE_LIMIT = 20_000
# Values of a document, counted before it is read: small ones take twenty times their text in memory.
VALUE_LIMIT = 1_000_000
_DEPTH_LIMIT = 16  # of what is kept unread
_TEXT_LIMIT = 64 * 1024  # characters

Edge = tuple[str, str]


class GraphInvalid(UpstreamInvalid):
    """What should be an update graph is none."""


@dataclass(frozen=True, slots=True)
class Node:
    """A release: its version, its pullspec (by digest, or it cannot be selected) and what else is said of it."""

    version: str
    payload: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, order=True)
class Risk:
    """Why an update is conditional. `rules` is the JSON of the matching rules, kept as it is said, keys sorted."""

    name: str
    message: str
    url: str
    rules: str = "[]"


@dataclass(frozen=True, slots=True, order=True)
class ConditionalEdge:
    """An update from version `origin` to version `target` that is not for everybody."""

    origin: str
    target: str
    risks: tuple[Risk, ...]


@dataclass(frozen=True)
class Graph:
    """A channel's releases by version, the updates for everybody, and those that have risks; none is both."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    edges: frozenset[Edge] = frozenset()
    conditional: tuple[ConditionalEdge, ...] = ()

    @functools.cached_property
    def ascending(self) -> tuple[str, ...]:
        """Every version, the oldest first."""
        return tuple(ascending(self.nodes))

    @property
    def head(self) -> str:
        """The newest version; the graph must not be empty."""
        return self.ascending[-1]


def ascending(versions: Iterable[str]) -> list[str]:
    """Return versions as semver orders them; each must be one."""
    return sorted(versions, key=Version.parse)


def parse(raw: bytes) -> Graph:
    """Return the graph that `raw` spells; raise GraphInvalid. Takes up to a second: large ones are for threads.

    Members that are unknown are passed over.
    """
    if len(raw) > SIZE_LIMIT:
        _refuse(f"it has more than {SIZE_LIMIT} bytes")
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > VALUE_LIMIT:
        _refuse(f"it has more than {VALUE_LIMIT} values")
    try:
        found = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        _refuse(f"it is not JSON ({str(error)[:80]})")
    return read(found)


def read(document: object) -> Graph:
    """Return the graph that a JSON document, already parsed, means; raise GraphInvalid."""
    if not isinstance(document, dict) or not isinstance(document.get("nodes"), list):
        _refuse("it has no list of nodes")
    if document.get("version", 1) != 1:
        _refuse(f"its version is {str(document['version'])[:20]}, and only 1 is known")
    order = [_node(place, entry) for place, entry in enumerate(_entries(document, "nodes"))]
    nodes: dict[str, Node] = {}
    for node in order:
        if nodes.setdefault(node.version, node).payload != node.payload:
            _refuse(f"it names two releases {node.version}")
    if len(order) > NODE_LIMIT:
        _refuse(f"it has more than {NODE_LIMIT} nodes")
    conditional = _conditional(document, nodes)
    edges = {_edge(place, entry, order) for place, entry in enumerate(_entries(document, "edges"))}
    # An update that somebody found a risk in is left among the others now and then: the risk counts.
    edges.difference_update(conditional)
    return Graph(
        nodes,
        frozenset((origin, target) for origin, target in edges if origin != target),
        tuple(ConditionalEdge(*edge, risks) for edge, risks in sorted(conditional.items())),
    )


def _node(place: int, entry: object) -> Node:
    if not isinstance(entry, dict):
        _refuse(f"node {place} is not an object")
    version, payload, metadata = entry.get("version"), entry.get("payload"), entry.get("metadata")
    if not isinstance(version, str) or not isinstance(payload, str) or len(payload) > _TEXT_LIMIT:
        _refuse(f"node {place} has no version and payload")
    try:
        Version.parse(version)
    except VersionInvalid as error:
        _refuse(f"node {place}: {error.what}")
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(f"the metadata of {version} is not all text")
    return Node(version, payload, dict(sorted(metadata.items())))


def _edge(place: int, entry: object, order: list[Node]) -> Edge:
    if (
        not isinstance(entry, list)
        or len(entry) != 2
        or not all(type(end) is int and 0 <= end < len(order) for end in entry)
    ):
        _refuse(f"edge {place} is not a pair of nodes")
    return (order[entry[0]].version, order[entry[1]].version)


def _conditional(document: dict[str, Any], nodes: Mapping[str, Node]) -> dict[Edge, tuple[Risk, ...]]:
    """Return the risks of every conditional edge between nodes, those of all its entries together."""
    found: dict[Edge, set[Risk]] = {}
    for place, entry in enumerate(_entries(document, "conditionalEdges")):
        if not isinstance(entry, dict):
            _refuse(f"conditional edge {place} is not an object")
        risks = {_risk(place, risk) for risk in _entries(entry, "risks")}
        if not risks:
            _refuse(f"conditional edge {place} has no risk")
        for edge in _entries(entry, "edges"):
            ends = (edge.get("from"), edge.get("to")) if isinstance(edge, dict) else (None, None)
            if not isinstance(ends[0], str) or not isinstance(ends[1], str):
                _refuse(f"conditional edge {place} leads from or to nothing")
            # Ends in other channels are named too: they say nothing here.
            if ends[0] in nodes and ends[1] in nodes:
                found.setdefault((ends[0], ends[1]), set()).update(risks)
    return {edge: tuple(sorted(risks)) for edge, risks in found.items()}


def _risk(place: int, entry: object) -> Risk:
    if not isinstance(entry, dict):
        _refuse(f"a risk of conditional edge {place} is not an object")
    texts = [entry.get(key, "") for key in ("name", "message", "url")]
    if not all(isinstance(text, str) and len(text) <= _TEXT_LIMIT for text in texts):
        _refuse(f"a risk of conditional edge {place} is not described in text")
    rules = _entries(entry, "matchingRules")
    if not _plain(rules, _DEPTH_LIMIT):
        _refuse(f"the rules of conditional edge {place} nest too deeply or hold what is not a number")
    return Risk(texts[0], texts[1], texts[2], json.dumps(rules, sort_keys=True))


def _plain(value: object, depth: int) -> bool:
    """Tell whether a value can be written as JSON again."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_plain(one, depth - 1) for one in inner)
    return not isinstance(value, float) or math.isfinite(value)


def _entries(document: dict[str, Any], key: str) -> list[Any]:
    found = document.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        _refuse(f"its {key} are not a list")
    return found


def _refuse(why: str) -> NoReturn:
    raise GraphInvalid(f"this is not an update graph: {why}", "check what `releases.graph` leads to")
