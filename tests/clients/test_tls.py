"""The mirror over TLS with a private CA: each client is told the CA, in its own way, and pulls."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from tests.clients.conftest import Authority, MakeMirror, Shelf
from tests.clients.test_forms import hosts_toml
from tests.tools.clients import ClientError, Containerd, Podman, Skopeo, run
from tests.tools.mirror import Mirror
from tests.tools.processes import running
from tests.tools.programs import Programs
from tests.tools.registries import Registry

pytestmark = pytest.mark.clients

LAB = "lab.example"


@pytest.fixture
def mirror(make_mirror: MakeMirror, plain: Registry, authority: Authority) -> Mirror:
    tls = {"certificate": str(authority.certificate), "key": str(authority.key)}
    return make_mirror({"upstreams": {LAB: {"endpoints": [plain.url]}}, "tls": tls})


def test_skopeo_and_podman(
    mirror: Mirror, plain: Registry, authority: Authority, programs: Programs, shelf: Shelf, short: Path
) -> None:
    mirrors = {LAB: f"{mirror.address}/{LAB}"}
    Skopeo(programs, short / "cold", mirrors, authority.ca).pull(f"{LAB}/team/multi:1", shelf.multi)
    asked = plain.requests()
    Skopeo(programs, short / "warm", mirrors, authority.ca).pull(f"{LAB}/team/multi@{shelf.multi.digest}", shelf.multi)
    described = Podman(programs, short / "podman", mirrors, authority.ca).pull(f"{LAB}/team/multi:1")
    assert described["Id"] == shelf.app.blobs[0].digest.partition(":")[2]
    assert plain.requests() == asked


def test_containerd(mirror: Mirror, authority: Authority, programs: Programs, shelf: Shelf, short: Path) -> None:
    hosts = {LAB: hosts_toml(mirror.url, authority.ca)}
    with running(Containerd(programs, short / "ctr", hosts)) as containerd:
        containerd.fetch(f"{LAB}/team/multi:1", shelf.multi)


def test_crane_and_oras(mirror: Mirror, authority: Authority, programs: Programs, shelf: Shelf, tmp_path: Path) -> None:
    name = f"{mirror.address}/{LAB}/team"
    trusting = {"SSL_CERT_FILE": str(authority.ca), "HOME": str(tmp_path)}
    run([programs.find("crane"), "validate", "--remote", f"{name}/multi:1"], trusting)
    layout = tmp_path / "layout"
    command = [programs.find("oras"), "cp", "--from-ca-file", str(authority.ca), f"{name}/sbom:1"]
    run([*command, "--to-oci-layout", f"{layout}:copied"], trusting)
    for digest, blob in shelf.sbom.all_blobs().items():
        assert (layout / "blobs/sha256" / digest.partition(":")[2]).read_bytes() == blob.body


def test_a_client_with_another_ca_is_not_served(
    mirror: Mirror, programs: Programs, shelf: Shelf, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with pytest.raises(ClientError, match="unknown authority"):
        Skopeo(programs, tmp_path / "skopeo", ca=other).pull(f"{mirror.address}/{LAB}/team/tool:1", shelf.tool)
