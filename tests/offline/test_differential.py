"""A newer release crosses as what is new in it; what was lost on the way is named and brought again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from mirror.offline.plan import Plan
from tests.offline.conftest import MakeSite
from tests.offline.site import Site, mounted
from tests.offline.world import Authority, World, image_set
from tests.tools.processes import running
from tests.tools.release import Release

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def bastion(make_site: MakeSite, world_again: World) -> Site:
    return make_site("bastion", world_again)


@pytest.fixture
def inside(make_site: MakeSite, small: World) -> Site:
    return make_site("inside", None, {"releases": {"keyring": str(small.keyring)}})


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    return image_set(tmp_path / "prod.yaml", versions=("4.16.15", "4.16.15"))


def sync_newer(bastion: Site, wanted: Path) -> None:
    """Let the image set ask for the newer release in place of the older one, and bring it."""
    image_set(wanted, versions=("4.16.20", "4.16.20"))
    bastion.mirror("sync", wanted)


def size(folder: Path) -> int:
    return sum(part.stat().st_size for part in folder.glob("*.tar"))


def new_bytes(older: Release, newer: Release) -> int:
    before = older.content()
    return sum(size for digest, size in newer.content().items() if digest not in before)


def assert_only_new(folder: Path, world: World) -> None:
    """Check that parts hold what is new, the plan and a little of their own."""
    new = new_bytes(world.releases.older, world.releases.newer)
    assert new < size(folder) < new + 1.5 * 2**20


def assert_pulls(site: Site, world: World, *releases: Release) -> None:
    """Check that every image of some releases is served whole."""
    mirror = site.serving({"offline": True})
    with running(mirror):
        for release in releases:
            for name, image in release.images().items():
                repository = name.partition("@")[0]
                for manifest in image.all_manifests():
                    assert mirror.get(f"/v2/{repository}/manifests/{manifest.digest}")[2] == manifest.body
                for digest, blob in image.all_blobs().items():
                    assert mirror.get(f"/v2/{repository}/blobs/{digest}")[2] == blob.body


def test_what_the_other_side_has_does_not_travel(
    bastion: Site, inside: Site, small: World, wanted: Path, tmp_path: Path
) -> None:
    bastion.mirror("sync", wanted)
    bastion.mirror("save", "prod", "--to", mounted(tmp_path / "first"))
    inside.mirror("load", tmp_path / "first")
    inside.mirror("inventory", "-o", tmp_path / "inventory")
    sync_newer(bastion, wanted)
    bastion.mirror("save", "prod", "--to", mounted(tmp_path / "second"), "--have", tmp_path / "inventory")
    assert_only_new(tmp_path / "second", small)
    inside.mirror("load", tmp_path / "second")
    for generation in ("prod@1", "prod@2"):
        inside.mirror("verify", generation, "--deep")
    assert_pulls(inside, small, small.releases.older, small.releases.newer)


def test_where_nothing_comes_back_earlier_saves_count(
    bastion: Site, inside: Site, small: World, wanted: Path, tmp_path: Path
) -> None:
    bastion.mirror("sync", wanted)
    bastion.mirror("save", "prod", "--to", mounted(tmp_path / "first"))
    sync_newer(bastion, wanted)
    bastion.mirror("save", "prod", "--to", mounted(tmp_path / "second"), "--since", "last")
    assert_only_new(tmp_path / "second", small)
    inside.mirror("load", tmp_path / "first")
    inside.mirror("load", tmp_path / "second")
    for generation in ("prod@1", "prod@2"):
        inside.mirror("verify", generation, "--deep")
    assert_pulls(inside, small, small.releases.older, small.releases.newer)


def test_a_lost_archive_is_named_and_repaired_from_an_older_one(
    bastion: Site, inside: Site, small: World, wanted: Path, tmp_path: Path
) -> None:
    # three generations: older; newer; newer and older together. The second archive never arrives.
    bastion.mirror("sync", wanted)
    bastion.mirror("save", "prod", "--to", mounted(tmp_path / "first"))
    inside.mirror("load", tmp_path / "first")
    sync_newer(bastion, wanted)
    bastion.mirror("save", "prod", "--to", mounted(tmp_path / "second"), "--since", "last")
    shutil.rmtree(tmp_path / "second")
    image_set(wanted, versions=("4.16.15", "4.16.20"))
    bastion.mirror("sync", wanted)
    bastion.mirror("save", "prod", "--to", mounted(tmp_path / "third"), "--since", "last")
    before = snapshot(inside)
    done = inside.mirror("load", tmp_path / "third", "-o", tmp_path / "missing", code=3)
    missing = (tmp_path / "missing").read_text()
    assert small.releases.newer.components["cli"].digest in missing or small.releases.newer.digest in missing
    assert "prod@2" in done.err + done.out or "--since 1" in done.err + done.out, done
    assert snapshot(inside) == before  # what is presumed is looked at before anything is written
    bastion.mirror("save", "prod", "--to", mounted(tmp_path / "repaired"), "--since", "1")
    assert_only_new(tmp_path / "repaired", small)
    inside.mirror("load", tmp_path / "repaired")
    inside.mirror("verify", "--deep")
    assert_pulls(inside, small, small.releases.older, small.releases.newer)


def test_an_older_generation_needs_a_word_and_moves_no_tag_back(
    bastion: Site, inside: Site, small: World, wanted: Path, tmp_path: Path
) -> None:
    bastion.mirror("sync", wanted)
    sync_newer(bastion, wanted)
    bastion.mirror("save", "prod@2", "--to", mounted(tmp_path / "newer"))
    bastion.mirror("save", "prod@1", "--to", mounted(tmp_path / "older"))
    inside.mirror("load", tmp_path / "newer")
    refused = inside.mirror("load", tmp_path / "older", code=None)
    assert refused.code != 0
    assert "--allow-older" in refused.err
    inside.mirror("load", tmp_path / "older", "--allow-older")
    inside.mirror("verify")
    assert_pulls(inside, small, small.releases.older, small.releases.newer)


def test_a_set_that_is_synced_twice_is_one_generation(bastion: Site, wanted: Path) -> None:
    bastion.mirror("sync", wanted)
    bastion.mirror("sync", wanted)
    assert [one["generation"] for one in bastion.mirror("ls", "--json").report["sets"]] == [1]


def test_a_small_cache_takes_nothing_from_a_set(
    make_site: MakeSite, world_again: World, inside_authority: Authority, wanted: Path, tmp_path: Path
) -> None:
    bastion = make_site("bastion", world_again, {"storage": {"path": str(tmp_path / "store"), "cache_size": "1MiB"}})
    bastion.store = tmp_path / "store"
    bastion.mirror("sync", wanted)
    planned = Plan.parse((bastion.store / "sets/prod/1.json").read_bytes()).content
    assert sum(planned.values()) > 3 * 2**20
    # pulls of another release through the same store press on the cache, under a service that evicts
    mirror = bastion.serving()
    with running(mirror):
        for name, image in world_again.releases.newer.images().items():
            repository = name.partition("@")[0]
            for digest, blob in image.all_blobs().items():
                assert mirror.get(f"/v2/{repository}/blobs/{digest}")[2] == blob.body
    kept = {f"sha256:{path.name}" for path in (bastion.store / "blobs/sha256").iterdir()}
    assert {str(digest) for digest in planned} <= kept
    bastion.mirror("verify", "prod", "--deep")


def snapshot(site: Site) -> dict[str, int]:
    """Return what a store has: files of content, sets, names, with their sizes."""
    return {
        str(Path(folder, name).relative_to(site.store)): Path(folder, name).stat().st_size
        for part in ("blobs", "repositories", "sets", "signatures", "graph")
        for folder, _, names in os.walk(site.store / part)
        for name in names
    }


def test_the_inventory_is_what_is_here(bastion: Site, wanted: Path, tmp_path: Path) -> None:
    bastion.mirror("sync", wanted)
    bastion.mirror("inventory", "-o", tmp_path / "inventory")
    listed = set(json.loads((tmp_path / "inventory").read_bytes())["digests"])
    assert listed == {f"sha256:{path.name}" for path in (bastion.store / "blobs/sha256").iterdir()}
