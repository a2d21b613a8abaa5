"""Parts of an update graph, written the same whatever order they were said in, and what several say together."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mirror.offline.graph.document import ConditionalEdge, Edge, Graph, Node, Risk, ascending, read


def excerpt(graph: Graph, versions: Collection[str]) -> dict[str, Any]:
    """Return Cincinnati's JSON of the nodes with these versions and of the updates among them.

    Nodes ascend by version, edges are sorted, so the same content gives the same document.
    """
    kept = ascending({*versions} & graph.nodes.keys())
    places = {version: place for place, version in enumerate(kept)}
    groups: dict[tuple[Risk, ...], list[tuple[int, int]]] = defaultdict(list)
    for edge in graph.conditional:
        if edge.origin in places and edge.target in places:
            groups[edge.risks].append((places[edge.origin], places[edge.target]))
    return {
        "version": 1,
        "nodes": [_node(graph.nodes[version]) for version in kept],
        "edges": sorted([places[one], places[other]] for one, other in graph.edges if {one, other} <= places.keys()),
        "conditionalEdges": [
            {
                "edges": [{"from": kept[origin], "to": kept[target]} for origin, target in sorted(pairs)],
                "risks": [_risk(risk) for risk in risks],
            }
            for risks, pairs in sorted(groups.items(), key=lambda group: (min(group[1]), group[0]))
        ],
    }


def union(excerpts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what excerpts of one channel say together, the oldest first; raise GraphInvalid for one that is none.

    Of an update between two releases the newest excerpt that knows both decides: what was withdrawn since, or found
    to have a risk, does not come back from an older one.
    """
    nodes: dict[str, Node] = {}
    updates: dict[Edge, tuple[Risk, ...]] = {}  # no risks: for everybody
    for one in excerpts:
        said = read(one if isinstance(one, dict) else dict(one))
        for edge in [edge for edge in updates if edge[0] in said.nodes and edge[1] in said.nodes]:
            del updates[edge]
        nodes.update(said.nodes)
        updates.update(dict.fromkeys(said.edges, ()))
        updates.update({(edge.origin, edge.target): edge.risks for edge in said.conditional})
    graph = Graph(
        nodes,
        frozenset(edge for edge, risks in updates.items() if not risks),
        tuple(ConditionalEdge(*edge, risks) for edge, risks in sorted(updates.items()) if risks),
    )
    return excerpt(graph, nodes)


def _node(node: Node) -> dict[str, Any]:
    return {"version": node.version, "payload": node.payload, "metadata": dict(node.metadata)}


def _risk(risk: Risk) -> dict[str, Any]:
    return {"url": risk.url, "name": risk.name, "message": risk.message, "matchingRules": json.loads(risk.rules)}
