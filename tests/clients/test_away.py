"""When upstream is away: what was pulled still pulls. And when the mirror is: what was fetched is not fetched again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mirror.offline.resources import Site
from tests.clients.conftest import MakeMirror, Shelf
from tests.clients.test_forms import hosts_toml
from tests.offline.nodes import GeneratedContainerd, Node
from tests.tools.clients import Containerd, Skopeo
from tests.tools.mirror import Mirror
from tests.tools.processes import running, wait_until
from tests.tools.programs import Programs
from tests.tools.registries import Registry
from tests.tools.relay import Relay
from tests.unit.offline.resources_bed import configuration, made

pytestmark = pytest.mark.clients

MIB = 2**20


def pull(mirror: Mirror, programs: Programs, shelf: Shelf, folder: Path) -> None:
    """Pull every kind of image by tag with skopeo, and one by digest with containerd, each with nothing of its own."""
    for name in ("app", "multi", "docker", "sbom"):
        expected = shelf.names()[name]
        Skopeo(programs, folder / name).pull(f"{mirror.address}/lab.example/team/{name}:1", expected)
    hosts = {"lab.example": hosts_toml(mirror.url)}
    with running(Containerd(programs, folder / "ctr", hosts)) as containerd:
        containerd.fetch(f"lab.example/team/multi@{shelf.multi.digest}", shelf.multi)


@pytest.mark.parametrize("fresh_for", ["5m", "0s"])
def test_upstream_stopped(
    make_mirror: MakeMirror, plain: Registry, programs: Programs, shelf: Shelf, short: Path, fresh_for: str
) -> None:
    upstream = {"endpoints": [plain.url], "tags": {"fresh_for": fresh_for}}
    mirror = make_mirror({"upstreams": {"lab.example": upstream}})
    pull(mirror, programs, shelf, short / "before")
    plain.stop()
    pull(mirror, programs, shelf, short / "after")
    status, headers, body = mirror.get("/v2/lab.example/team/multi/manifests/1")
    assert (status, body) == (200, shelf.multi.body)
    assert headers["x-cache"] == ("HIT" if fresh_for == "5m" else "STALE")
    assert ("warning" in headers) == (fresh_for == "0s")
    status, headers, _ = mirror.get("/v2/lab.example/team/tool/manifests/1")
    assert (status, "retry-after" in headers) == (503, True)  # never pulled: not absent, only out of reach


def test_offline_asks_nobody(
    make_mirror: MakeMirror, plain: Registry, programs: Programs, shelf: Shelf, short: Path
) -> None:
    upstream = {"endpoints": [plain.url], "tags": {"fresh_for": "0s"}}
    mirror = make_mirror({"upstreams": {"lab.example": upstream}})
    pull(mirror, programs, shelf, short / "before")
    assert mirror.stop() == 0
    mirror.configure({"offline": True})
    mirror.start()
    asked = plain.requests()
    pull(mirror, programs, shelf, short / "after")
    status, _, body = mirror.get("/v2/lab.example/team/tool/manifests/1")
    assert status == 404
    assert b"offline" in body
    assert plain.requests() == asked


def test_chain_of_two_mirrors(
    make_mirror: MakeMirror, plain: Registry, programs: Programs, shelf: Shelf, short: Path
) -> None:
    bastion = make_mirror({"upstreams": {"lab.example": {"endpoints": [plain.url]}}}, "bastion")
    edge = make_mirror({"upstreams": {"lab.example": {"endpoints": [f"{bastion.url}/lab.example"]}}}, "edge")
    pull(edge, programs, shelf, short / "through-both")
    asked = plain.requests()
    blobs = [line for line in asked if line.startswith("GET") and "/blobs/" in line]
    assert len(blobs) == len(set(blobs))
    bastion.stop()
    pull(edge, programs, shelf, short / "edge-alone")
    assert plain.requests() == asked


def test_killed_in_mid_download_goes_on_where_it_was(
    make_mirror: MakeMirror, plain: Registry, programs: Programs, shelf: Shelf, tmp_path: Path
) -> None:
    size = len(shelf.bulk.blobs[1].body)
    with Relay(plain.address, rate=16 * MIB) as relay:
        mirror = make_mirror({"upstreams": {"lab.example": {"endpoints": [f"http://{relay.address}"]}}})
        name = f"{mirror.address}/lab.example/team/bulk:1"
        cut = Skopeo(programs, tmp_path / "cut")
        failures: list[Exception] = []

        def pull_until_it_breaks() -> None:
            try:
                cut.pull(name, shelf.bulk)
            except Exception as error:
                failures.append(error)

        client = threading.Thread(target=pull_until_it_breaks)
        client.start()
        wait_until(lambda: relay.received > 24 * MIB, "half of the layer")
        mirror.kill()
        client.join()
        assert failures
        relay.rate = None
        mirror.start()
        Skopeo(programs, tmp_path / "whole").pull(name, shelf.bulk)
        assert size <= relay.received <= 1.1 * size


def test_nodes_fall_back_to_a_source_of_plain_http(
    plain: Registry, programs: Programs, shelf: Shelf, short: Path
) -> None:
    config = configuration(short, {"upstreams": {"lab": {"endpoints": [plain.url]}}})
    for path, content in made(Site(("127.0.0.1:1",), config)).files.items():  # where no mirror is
        (short / path).parent.mkdir(parents=True, exist_ok=True)
        (short / path).write_bytes(content)
    name = f"{plain.address}/team/multi@{shelf.multi.digest}"
    Node(programs, short / "node", short / "nodes", short / "mirror.yaml").copy(name, shelf.multi)
    with running(GeneratedContainerd(programs, short / "ctr", short / "nodes")) as containerd:
        containerd.fetch_all({name: shelf.multi})
