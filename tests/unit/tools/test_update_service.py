"""The update graph service answers as the real one does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools.cincinnati import PATH, Cincinnati, Risk
from tests.tools.mirror import ask
from tests.tools.signature_store import SignatureStore


@pytest.fixture
def service() -> Iterator[Cincinnati]:
    with Cincinnati() as made:
        made.add("4.16.3", "quay.io/r@sha256:" + "3" * 64, "stable-4.16", "fast-4.16")
        made.add("4.16.15", "quay.io/r@sha256:" + "4" * 64, "stable-4.16")
        made.add("4.16.15", "quay.io/r@sha256:" + "5" * 64, "stable-4.16", architecture="multi")
        made.edge("4.16.3", "4.16.15")
        made.conditional("4.16.3", "4.16.15", Risk("SomeBug", "it hurts"))
        yield made


def asked(service: Cincinnati, query: str, accept: str = "application/json") -> tuple[int, Any]:
    status, _, body = ask(f"http://{service.address}", f"{PATH}?{query}", headers={"Accept": accept})
    return status, json.loads(body)


def test_edges_are_places_in_a_list_whose_order_changes(service: Cincinnati) -> None:
    orders = set()
    for _turn in range(2):
        status, graph = asked(service, "channel=stable-4.16&arch=amd64")
        versions = [node["version"] for node in graph["nodes"]]
        assert status == 200
        assert [(versions[old], versions[new]) for old, new in graph["edges"]] == [("4.16.3", "4.16.15")]
        orders.add(tuple(versions))
    assert len(orders) == 2
    assert graph["conditionalEdges"][0]["risks"][0]["name"] == "SomeBug"


def test_channels_and_architectures_are_apart(service: Cincinnati) -> None:
    assert [node["version"] for node in asked(service, "channel=fast-4.16")[1]["nodes"]] == ["4.16.3"]
    assert len(asked(service, "channel=stable-4.16&arch=multi")[1]["nodes"]) == 1
    assert asked(service, "channel=unknown")[1]["nodes"] == []


def test_wrong_questions(service: Cincinnati) -> None:
    assert asked(service, "arch=amd64")[0] == 400
    assert asked(service, "channel=stable-4.16", "text/html")[0] == 406
    service.unavailable = 503
    assert asked(service, "channel=stable-4.16")[0] == 503


def test_signatures_are_numbered(tmp_path: Path) -> None:
    with SignatureStore(tmp_path) as store:
        store.put("sha256:" + "4" * 64, 1, b"signed")
        origin, _, path = store.url.partition("/signatures")
        assert path == ""
        assert ask(origin, f"/signatures/sha256={'4' * 64}/signature-1")[::2] == (200, b"signed")
        assert ask(origin, f"/signatures/sha256={'4' * 64}/signature-2")[0] == 404
        assert len(store.asked) == 2
