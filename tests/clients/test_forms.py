"""Each client, by each form of address, gets whole images through the mirror; the second pull asks no upstream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.conftest import MakeMirror, Shelf
from tests.tools.clients import Containerd, Podman, Skopeo, run
from tests.tools.images import Manifest
from tests.tools.mirror import Mirror
from tests.tools.processes import running
from tests.tools.programs import Programs
from tests.tools.registries import Registry

pytestmark = pytest.mark.clients

LAB = "lab.example"  # the host in image names; nothing answers there


@pytest.fixture
def mirror(make_mirror: MakeMirror, plain: Registry) -> Mirror:
    return make_mirror({"upstreams": {LAB: {"endpoints": [plain.url]}}})


@pytest.fixture
def hub(make_mirror: MakeMirror, plain: Registry) -> Mirror:
    """A mirror of what calls itself docker.io, which bare names mean."""
    return make_mirror({"upstreams": {"docker.io": {"endpoints": [plain.url]}}, "default_upstream": "docker.io"})


def blobs_fetched(registry: Registry) -> list[str]:
    return [line for line in registry.requests() if line.startswith("GET") and "/blobs/" in line]


def test_skopeo_through_registries_conf(
    mirror: Mirror, plain: Registry, programs: Programs, shelf: Shelf, tmp_path: Path
) -> None:
    images = {name: made for name, made in shelf.names().items() if name != "bulk"}
    mirrors = {LAB: f"{mirror.address}/{LAB}"}
    for name, expected in images.items():
        Skopeo(programs, tmp_path / f"first-{name}", mirrors).pull(f"{LAB}/team/{name}:1", expected)
    asked = plain.requests()
    # each blob once, although several images share layers: a blob is kept by its digest
    assert len(blobs_fetched(plain)) == len({digest for made in images.values() for digest in made.all_blobs()})
    for name, expected in images.items():
        Skopeo(programs, tmp_path / f"tag-{name}", mirrors).pull(f"{LAB}/team/{name}:1", expected)
        by_digest = f"{LAB}/team/{name}@{expected.digest}"
        Skopeo(programs, tmp_path / f"digest-{name}", mirrors).pull(by_digest, expected)
    assert plain.requests() == asked


def test_skopeo_by_the_path_itself(mirror: Mirror, programs: Programs, shelf: Shelf, tmp_path: Path) -> None:
    name = f"{mirror.address}/{LAB}/team/multi"
    Skopeo(programs, tmp_path / "digest").pull(f"{name}@{shelf.multi.digest}", shelf.multi)
    Skopeo(programs, tmp_path / "tag").pull(f"{name}:1", shelf.multi)


def test_podman_pulls(mirror: Mirror, plain: Registry, programs: Programs, shelf: Shelf, short: Path) -> None:
    mirrors = {LAB: f"{mirror.address}/{LAB}"}
    podman = Podman(programs, short / "first", mirrors)
    described = podman.pull(f"{LAB}/team/multi:1")
    assert described["Id"] == shelf.app.blobs[0].digest.partition(":")[2]  # this platform's configuration
    assert podman.pull(f"{LAB}/team/docker:1")["ManifestType"] == shelf.docker.children[0].media_type
    tool = podman.pull(f"{LAB}/team/tool@{shelf.tool.digest}")
    asked = plain.requests()
    again = Podman(programs, short / "second", mirrors)
    assert again.pull(f"{LAB}/team/tool@{shelf.tool.digest}")["Id"] == tool["Id"]
    assert plain.requests() == asked


def test_podman_runs_what_it_pulled(mirror: Mirror, programs: Programs, shelf: Shelf, short: Path) -> None:
    podman = Podman(programs, short / "podman", {LAB: f"{mirror.address}/{LAB}"})
    pulled = podman.pull(f"{LAB}/team/tool:1")
    if reason := podman.cannot_run():
        pytest.skip(f"this machine runs no containers: {reason}")
    assert podman.run(pulled["Id"]) == "pulled through\n"


def hosts_toml(url: str, ca: Path | None = None, *, override_path: bool = False) -> str:
    """Return a hosts.toml whose only host is the mirror; the server itself answers nowhere."""
    lines = ['server = "http://127.0.0.1:1"', f'[host."{url}"]', '  capabilities = ["pull", "resolve"]']
    if override_path:
        lines.append("  override_path = true")
    if ca is not None:
        lines.append(f'  ca = "{ca}"')
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("form", ["ns", "prefix", "override_path"])
def test_containerd_by_each_form(
    mirror: Mirror, plain: Registry, programs: Programs, shelf: Shelf, short: Path, form: str
) -> None:
    url = {"ns": mirror.url, "prefix": f"{mirror.url}/{LAB}", "override_path": f"{mirror.url}/v2/{LAB}"}[form]
    hosts = {LAB: hosts_toml(url, override_path=form == "override_path")}
    images: dict[str, Manifest] = {"app": shelf.app, "multi": shelf.multi, "docker": shelf.docker, "zstd": shelf.zstd}
    with running(Containerd(programs, short / "first", hosts)) as containerd:
        for name, expected in images.items():
            containerd.fetch(f"{LAB}/team/{name}:1", expected)
    asked = plain.requests()
    with running(Containerd(programs, short / "second", hosts)) as containerd:
        for name, expected in images.items():
            containerd.fetch(f"{LAB}/team/{name}:1", expected)
        containerd.fetch(f"{LAB}/team/multi@{shelf.multi.digest}", shelf.multi)
    assert plain.requests() == asked


def test_bare_names_mean_the_default_upstream(hub: Mirror, programs: Programs, shelf: Shelf, short: Path) -> None:
    # docker's graph driver and a registries.conf mirror without a path ask for library/tool, curl for tool
    Skopeo(programs, short / "single").pull(f"{hub.address}/tool", shelf.tool)
    Skopeo(programs, short / "team").pull(f"{hub.address}/team/app:1", shelf.app)
    Skopeo(programs, short / "mirrored", {"docker.io": hub.address}).pull("docker.io/tool", shelf.tool)
    with running(Containerd(programs, short / "ctr", {"docker.io": hosts_toml(hub.url)})) as containerd:
        containerd.fetch("docker.io/library/tool:latest", shelf.tool)


def test_crane_validates(mirror: Mirror, plain: Registry, programs: Programs, shelf: Shelf, tmp_path: Path) -> None:
    crane = programs.find("crane")
    name = f"{mirror.address}/{LAB}/team/multi"
    assert run([crane, "digest", f"{name}:1"]).strip() == shelf.multi.digest
    run([crane, "validate", "--remote", f"{name}:1"])
    run([crane, "pull", "--format=oci", f"{name}@{shelf.multi.digest}", str(tmp_path / "layout")])
    for digest, blob in shelf.multi.all_blobs().items():
        assert (tmp_path / "layout/blobs/sha256" / digest.partition(":")[2]).read_bytes() == blob.body
    assert run([crane, "ls", f"{mirror.address}/{LAB}/team/app"]).split() == ["1"]
    fetched = blobs_fetched(plain)
    assert len(fetched) == len(set(fetched))


def test_oras_copies_an_artifact(
    mirror: Mirror, plain: Registry, programs: Programs, shelf: Shelf, tmp_path: Path
) -> None:
    oras = programs.find("oras")
    name = f"{mirror.address}/{LAB}/team/sbom:1"
    environment = {"HOME": str(tmp_path)}
    for turn in ("first", "second"):
        asked = plain.requests()
        layout = tmp_path / turn
        run([oras, "cp", "--from-plain-http", name, "--to-oci-layout", f"{layout}:copied"], environment)
        for digest, blob in shelf.sbom.all_blobs().items():
            assert (layout / "blobs/sha256" / digest.partition(":")[2]).read_bytes() == blob.body
    assert plain.requests() == asked


def test_oras_discovers_referrers(
    make_mirror: MakeMirror, attached: Registry, programs: Programs, tmp_path: Path
) -> None:
    mirror = make_mirror({"upstreams": {LAB: {"endpoints": [attached.url]}}})
    command = [programs.find("oras"), "discover", "--plain-http", "--format", "json"]
    for _turn in ("cold", "warm"):
        found = json.loads(run([*command, f"{mirror.address}/{LAB}/team/tool:1"], {"HOME": str(tmp_path)}))
        assert [each["artifactType"] for each in found["referrers"]] == ["application/spdx+json"]
    attached.stop()
    found = json.loads(run([*command, f"{mirror.address}/{LAB}/team/tool:1"], {"HOME": str(tmp_path)}))
    assert len(found["referrers"]) == 1
