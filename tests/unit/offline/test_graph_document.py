"""The update graph as a document: read strictly, cut out, put together."""

import hashlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import UpstreamInvalid
from mirror.oci.semver import Version
from mirror.offline.graph import Graph, GraphInvalid, Risk, document, excerpt, parse, read, union

RELEASE = "quay.io/openshift-release-dev/ocp-release@sha256:"


def payload(version):
    return RELEASE + hashlib.sha256(version.encode()).hexdigest()


def node(version, **metadata):
    return {"version": version, "payload": payload(version), "metadata": metadata}


def risk(name, **more):
    return {"name": name, "message": f"{name} hurts", "url": f"https://kb.example/{name}",
            "matchingRules": [{"type": "Always"}], **more}  # fmt: skip


def conditional(*pairs, risks):
    return {"edges": [{"from": origin, "to": target} for origin, target in pairs], "risks": risks}


DOCUMENT = {
    "version": 1,
    "nodes": [node("4.16.10", url="u"), node("4.16.3"), node("4.16.9")],
    "edges": [[1, 2], [1, 0]],
    "conditionalEdges": [conditional(("4.16.9", "4.16.10"), ("4.16.3", "4.15.1"), risks=[risk("B"), risk("A")])],
}


def raw(**changes):
    return json.dumps({**DOCUMENT, **changes}).encode()


def test_a_graph():
    graph = parse(raw(unknown={"more": 1}))
    assert graph.ascending == ("4.16.3", "4.16.9", "4.16.10")
    assert graph.head == "4.16.10"
    assert graph.nodes["4.16.10"].metadata == {"url": "u"}
    assert graph.nodes["4.16.3"].payload == payload("4.16.3")
    assert graph.edges == {("4.16.3", "4.16.9"), ("4.16.3", "4.16.10")}
    (edge,) = graph.conditional  # the other one leads to another channel
    assert (edge.origin, edge.target) == ("4.16.9", "4.16.10")
    assert [one.name for one in edge.risks] == ["A", "B"]
    assert edge.risks[0] == Risk("A", "A hurts", "https://kb.example/A", '[{"type": "Always"}]')


def test_an_empty_graph():
    assert parse(b'{"nodes": []}') == Graph()
    assert parse(b'{"version": 1, "nodes": [], "edges": null, "conditionalEdges": null}') == Graph()


def test_a_risk_counts_although_the_update_is_also_said_to_be_for_everybody():
    graph = parse(raw(edges=[[2, 0], [1, 0], [1, 0], [2, 2]]))
    assert graph.edges == {("4.16.3", "4.16.10")}
    assert [(edge.origin, edge.target) for edge in graph.conditional] == [("4.16.9", "4.16.10")]


def test_risks_of_one_update_in_several_entries_are_all_of_them():
    edge = ("4.16.9", "4.16.10")
    entries = [conditional(edge, risks=[risk("C"), risk("A")]), conditional(edge, risks=[risk("B"), risk("A")])]
    (found,) = parse(raw(conditionalEdges=entries)).conditional
    assert [one.name for one in found.risks] == ["A", "B", "C"]


def test_the_same_release_twice_is_one():
    graph = parse(raw(nodes=[node("4.16.3"), node("4.16.3"), node("4.16.9")], edges=[[0, 2], [1, 2]]))
    assert graph.edges == {("4.16.3", "4.16.9")}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 500_000, "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[]", "no list of nodes"),
        (b'{"kind": "error", "value": "x"}', "no list of nodes"),
        (b'{"nodes": {}}', "no list of nodes"),
        (raw(version=2), "its version is 2"),
        (raw(nodes=[1]), "node 0 is not an object"),
        (raw(nodes=[{"version": "4.16.3"}]), "node 0 has no version and payload"),
        (raw(nodes=[{"payload": "x"}]), "node 0 has no version and payload"),
        (raw(nodes=[{"version": "4.16.3", "payload": "x" * 70_000}]), "node 0 has no version and payload"),
        (raw(nodes=[{"version": "4.16", "payload": "x"}]), "node 0: '4.16' is not a version"),
        (raw(nodes=[{"version": "4.16.3", "payload": "x", "metadata": {"a": 1}}]), "metadata of 4.16.3"),
        (raw(nodes=[{"version": "4.16.3", "payload": "x", "metadata": []}]), "metadata of 4.16.3"),
        (raw(nodes=[node("4.16.3"), {**node("4.16.3"), "payload": "other"}]), "two releases 4.16.3"),
        (raw(edges={}), "edges are not a list"),
        (raw(edges=[[0, 1, 2]]), "edge 0 is not a pair"),
        (raw(edges=[[0, 1], [0, 3]]), "edge 1 is not a pair"),
        (raw(edges=[[-1, 0]]), "edge 0 is not a pair"),
        (raw(edges=[[True, False]]), "edge 0 is not a pair"),
        (raw(edges=[[0.0, 1.0]]), "edge 0 is not a pair"),
        (raw(edges=[["4.16.3", "4.16.9"]]), "edge 0 is not a pair"),
        (raw(conditionalEdges=[[]]), "conditional edge 0 is not an object"),
        (raw(conditionalEdges=[{"edges": [], "risks": []}]), "conditional edge 0 has no risk"),
        (raw(conditionalEdges=[{"edges": [], "risks": ["x"]}]), "a risk of conditional edge 0 is not an object"),
        (raw(conditionalEdges=[{"edges": [], "risks": [{"name": 1}]}]), "not described in text"),
        (raw(conditionalEdges=[{"edges": [{"from": "4.16.3"}], "risks": [{}]}]), "leads from or to nothing"),
        (raw(conditionalEdges=[{"edges": [[0, 1]], "risks": [{}]}]), "leads from or to nothing"),
        (raw(conditionalEdges=[{"risks": [{"matchingRules": "x"}]}]), "matchingRules are not a list"),
    ],
)
def test_no_graphs(content, said):
    with pytest.raises(GraphInvalid, match=said) as error:
        parse(content)
    assert isinstance(error.value, UpstreamInvalid)
    assert "releases.graph" in error.value.remedy


@pytest.mark.parametrize("rules", ["[" * 40 + "]" * 40, "[1e999]", "[NaN]", '[{"a": -Infinity}]'])
def test_rules_that_could_not_be_written_again(rules):
    content = raw(conditionalEdges=[conditional(risks=[risk("A", matchingRules="@")])]).replace(b'"@"', rules.encode())
    with pytest.raises(GraphInvalid, match="nest too deeply or hold what is not a number"):
        parse(content)


def test_too_large(monkeypatch):
    with pytest.raises(GraphInvalid, match="more than 33554432 bytes"):
        parse(b" " * (document.SIZE_LIMIT + 1))
    with pytest.raises(GraphInvalid, match="more than 1000000 values"):
        parse(b'{"nodes": [' + b"[]," * 600_000 + b"[]]}")
    monkeypatch.setattr(document, "NODE_LIMIT", 2)
    with pytest.raises(GraphInvalid, match="more than 2 nodes"):
        parse(raw())


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=5) | st.sampled_from(["4.16.3"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*DOCUMENT, "from", "to", "risks", "payload", "metadata", "name"]), inner)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(list(DOCUMENT)), values))
def test_whatever_is_said_is_a_graph_or_refused(changes):
    content = json.dumps({**DOCUMENT, **changes}).encode()
    try:
        graph = parse(content)
    except GraphInvalid:
        return
    written = excerpt(graph, graph.nodes)
    assert read(written) == graph
    json.dumps(written, allow_nan=False)


@given(st.binary(max_size=200))
def test_any_bytes(content):
    with pytest.raises(GraphInvalid):
        parse(content)


@given(st.integers(0, len(raw()) - 1), st.integers(0, 255))
def test_any_byte_changed(place, byte):
    content = bytearray(raw())
    content[place] = byte
    try:
        graph = parse(bytes(content))
    except GraphInvalid:
        return
    assert graph.edges <= {(one, other) for one in graph.nodes for other in graph.nodes}


# -- excerpts


def test_an_excerpt():
    graph = parse(raw())
    assert excerpt(graph, ["4.16.10", "4.16.9", "4.99.0"]) == {
        "version": 1,
        "nodes": [node("4.16.9"), node("4.16.10", url="u")],
        "edges": [],
        "conditionalEdges": [conditional(("4.16.9", "4.16.10"), risks=[risk("A"), risk("B")])],
    }
    assert excerpt(graph, graph.nodes)["edges"] == [[0, 1], [0, 2]]
    assert excerpt(graph, ()) == {"version": 1, "nodes": [], "edges": [], "conditionalEdges": []}


def test_an_excerpt_does_not_depend_on_order():
    versions = [f"4.16.{patch}" for patch in range(12)]
    updates = [(one, other) for one in versions for other in versions if Version.parse(one) < Version.parse(other)]
    risky = {edge: [risk("A"), risk("B", matchingRules=[{"type": "PromQL", "promql": {"promql": "up"}}])]
             for edge in updates[::3]} | {edge: [risk("A")] for edge in updates[1::3]}  # fmt: skip

    def shuffled(seed):
        chance = random.Random(seed)
        order = chance.sample(versions, len(versions))
        edges = [[order.index(one), order.index(other)] for one, other in updates[2::3]]
        entries = [conditional(edge, risks=chance.sample(risks, len(risks))) for edge, risks in risky.items()]
        chance.shuffle(edges)
        chance.shuffle(entries)
        nodes = [{key: node(version, b="1", a="2")[key] for key in chance.sample(["version", "payload", "metadata"], 3)}
                 for version in order]  # fmt: skip
        return json.dumps({"nodes": nodes, "edges": edges, "conditionalEdges": entries}).encode()

    texts = {json.dumps(excerpt(parse(shuffled(seed)), versions[1:])) for seed in range(8)}
    assert len(texts) == 1
    found = json.loads(texts.pop())
    assert len(found["conditionalEdges"]) == 2  # updates with the same risks are told together
    assert list(found["nodes"][0]["metadata"]) == ["a", "b"]


# -- unions


def graph_of(*versions, edges=(), risky=()):
    order = list(versions)
    return {
        "version": 1,
        "nodes": [node(version) for version in order],
        "edges": [[order.index(one), order.index(other)] for one, other in edges],
        "conditionalEdges": [conditional(edge, risks=[risk(name)]) for edge, name in risky],
    }


def updates(found):
    graph = read(found)
    return set(graph.edges), {(edge.origin, edge.target): edge.risks[0].name for edge in graph.conditional}


def test_a_union_holds_what_each_says():
    one = graph_of("4.16.1", "4.16.2", edges=[("4.16.1", "4.16.2")])
    other = graph_of("4.16.2", "4.16.3", edges=[("4.16.2", "4.16.3")])
    both = union([one, other])
    assert [entry["version"] for entry in both["nodes"]] == ["4.16.1", "4.16.2", "4.16.3"]
    assert both["edges"] == [[0, 1], [1, 2]]
    assert union([other, one]) == both
    assert union([both, both]) == both
    assert union([]) == excerpt(Graph(), ())


def test_of_an_update_the_newest_that_knows_both_ends_decides():
    edge = ("4.16.1", "4.16.2")
    free = graph_of(*edge, edges=[edge])
    risky = graph_of(*edge, risky=[(edge, "Bug")])
    blocked = graph_of(*edge)
    half = graph_of("4.16.2", "4.16.3")
    assert updates(union([free, risky, half])) == (set(), {edge: "Bug"})
    assert updates(union([risky, free])) == ({edge}, {})
    assert updates(union([free, risky, blocked])) == (set(), {})
    assert updates(union([blocked, half, free])) == ({edge}, {})


def test_a_union_of_what_is_no_graph():
    with pytest.raises(GraphInvalid):
        union([graph_of("4.16.1"), {"nodes": [{"version": "4.16.2"}]}])


names = st.sampled_from(["4.16.1", "4.16.2", "4.16.10", "4.17.0-rc.1"])


@given(
    st.lists(st.tuples(st.sets(names), st.sets(st.tuples(names, names)), st.sets(st.tuples(names, names))), max_size=4)
)
def test_unions_in_steps_say_the_same(parts):
    said = []
    for versions, edges, risky in parts:
        inside = [edge for edge in edges if edge[0] != edge[1] and {*edge} <= versions]
        risks = [(edge, "Bug") for edge in risky if edge[0] != edge[1] and {*edge} <= versions]
        said.append(graph_of(*sorted(versions), edges=inside, risky=risks))
    whole = union(said)
    assert {entry["version"] for entry in whole["nodes"]} == {
        version for versions, _, _ in parts for version in versions
    }
    if said:
        assert updates(union([whole, said[-1]])) == updates(whole)
