"""The update graphs in the store."""

import json

import pytest

from mirror.errors import InvalidRequest
from mirror.offline.graph import GraphInvalid, parse
from mirror.offline.graph_files import write_graphs
from mirror.offline.plan import GraphExcerpt
from mirror.store import files
from mirror.store.layout import Layout


def excerpt(channel, *versions, architecture="amd64", edges=()):
    nodes = [{"version": one, "payload": f"quay.io/ocp/release@sha256:{'0' * 64}"} for one in versions]
    return GraphExcerpt(channel, architecture, {"version": 1, "nodes": nodes, "edges": [*edges]})


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "store")


def present(layout):
    folder = layout.root / "graph"
    return {path.name: parse(path.read_bytes()).ascending for path in folder.iterdir()}


def test_what_all_generations_say(layout):
    write_graphs(
        layout,
        [
            excerpt("stable-4.16", "4.16.1"),
            excerpt("stable-4.16", "4.16.1", "4.16.2", edges=[[0, 1]]),
            excerpt("stable-4.16", "4.16.3", architecture="multi"),
            excerpt("fast-4.16", "4.16.2"),
        ],
    )
    assert present(layout) == {
        "amd64-stable-4.16.json": ("4.16.1", "4.16.2"),
        "multi-stable-4.16.json": ("4.16.3",),
        "amd64-fast-4.16.json": ("4.16.2",),
    }
    raw = (layout.root / "graph" / "amd64-stable-4.16.json").read_bytes()
    assert json.loads(raw)["edges"] == [[0, 1]]
    assert raw.endswith(b"\n")


def test_the_newer_generation_decides(layout):
    edge = excerpt("a", "4.16.1", "4.16.2", edges=[[0, 1]])
    write_graphs(layout, [edge, excerpt("a", "4.16.1", "4.16.2")])
    assert json.loads((layout.root / "graph" / "amd64-a.json").read_bytes())["edges"] == []


def test_channels_that_nobody_names_any_more_go(layout):
    write_graphs(layout, [excerpt("a", "4.16.1"), excerpt("b", "4.16.1")])
    (layout.root / "graph" / "note.txt").write_text("kept")
    write_graphs(layout, [excerpt("b", "4.16.2")])
    assert sorted(path.name for path in (layout.root / "graph").iterdir()) == ["amd64-b.json", "note.txt"]
    write_graphs(layout, [])
    assert [path.name for path in (layout.root / "graph").iterdir()] == ["note.txt"]


def test_nothing_to_write_makes_no_folder(layout):
    write_graphs(layout, [])
    assert not layout.root.exists()


def test_what_says_the_same_is_not_written_again(layout):
    write_graphs(layout, [excerpt("a", "4.16.1")])
    before = files.modified(str(layout.root / "graph" / "amd64-a.json"))
    write_graphs(layout, [excerpt("a", "4.16.1"), excerpt("a", "4.16.1")])
    assert files.modified(str(layout.root / "graph" / "amd64-a.json")) == before


def test_an_excerpt_that_is_no_graph_is_left_out(layout):
    broken = GraphExcerpt("a", "amd64", {"nodes": [{"version": "../../etc"}]})
    with pytest.raises(GraphInvalid):
        parse(json.dumps(dict(broken.graph)).encode())
    write_graphs(layout, [excerpt("a", "4.16.1"), broken, GraphExcerpt("b", "amd64", {})])
    assert present(layout) == {"amd64-a.json": ("4.16.1",)}


def test_names_that_lead_elsewhere(layout):
    with pytest.raises(InvalidRequest):
        write_graphs(layout, [excerpt("../../x", "4.16.1")])
    assert not layout.root.exists()
