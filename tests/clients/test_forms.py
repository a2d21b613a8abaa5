"""Each client, by each form of address, gets whole images through the mirror; the second pull asks no upstream."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import Authority, MakeMirror, Shelf
from tests.tools.clients import ClientError, Containerd, Podman, Skopeo
from tests.tools.mirror import Mirror
from tests.tools.programs import Programs
from tests.tools.registries import Registry

pytestmark = pytest.mark.clients

NAMES = ["tool", "app", "multi", "docker", "zstd", "sbom"]
LAB = "lab.example"  # the host in image names; nothing answers there


@pytest.fixture
def mirror(make_mirror: MakeMirror, plain: Registry) -> Mirror:
    return make_mirror({"upstreams": {LAB: {"endpoints": [plain.url]}}})


@pytest.mark.parametrize("name", NAMES)
def test_skopeo_through_registries_conf(
    mirror: Mirror, plain: Registry, programs: Programs, shelf: Shelf, tmp_path: Path, name: str
) -> None:
    expected = shelf.names()[name]
    mirrors = {LAB: f"{mirror.address}/{LAB}"}
    Skopeo(programs, tmp_path / "first", mirrors).pull(f"{LAB}/team/{name}:1", expected)
    asked = plain.requests()
    assert len([line for line in asked if line.startswith("GET") and "/blobs/" in line]) == len(expected.all_blobs())
    Skopeo(programs, tmp_path / "second", mirrors).pull(f"{LAB}/team/{name}:1", expected)
    Skopeo(programs, tmp_path / "third", mirrors).pull(f"{LAB}/team/{name}@{expected.digest}", expected)
    assert plain.requests() == asked
