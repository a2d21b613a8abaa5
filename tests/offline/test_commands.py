"""The commands of the offline way as an administrator meets them: names, refusals, exit codes, reports."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import resource
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirror.config.values import size_text
from mirror.offline.plan import Plan
from mirror.store.layout import Layout
from mirror.store.probe import prepare
from mirror.store.sets import Sets
from tests.offline import world
from tests.offline.here import Here, codes
from tests.offline.site import Site, mounted
from tests.offline.world import World
from tests.peers import faults
from tests.peers.scripted import ScriptedRegistry
from tests.tools.mounts import on_small_disk
from tests.tools.processes import running
from tests.unit.offline import foreign_bed, release_bed

MakeSite = Callable[..., Site]


@pytest.fixture
def loop_never_blocks() -> None:
    """A command has the loop to itself, and opens its rooms on it."""


@pytest.fixture(autouse=True)
def _as_before(handlers_as_before: None) -> None:
    """Commands run in this process."""


@pytest.fixture
def here(make_site: MakeSite, world_again: World) -> Here:
    return Here(make_site("here", world_again))


@pytest.fixture
def prod(tmp_path: Path) -> Path:
    return world.image_set(tmp_path / "prod.yaml")


def test_a_set_is_planned_synced_looked_at_and_given_up(here: Here, prod: Path, tmp_path: Path) -> None:
    planned = here.report("plan", prod, "-o", tmp_path / "plan.json")
    assert planned["set"] == "prod"
    assert planned["room"]["fits"] is True
    assert planned["to_fetch"]["bytes"] + planned["here"]["bytes"] == planned["totals"]["bytes"]
    assert json.loads((tmp_path / "plan.json").read_text())["kind"] == "plan"
    assert here.report("ls")["sets"] == []

    synced = here.report("sync", tmp_path / "plan.json")
    assert (synced["digest"], synced["generation"], synced["complete"]) == (planned["digest"], 1, True)
    again = here.report("sync", prod)
    assert (again["generation"], again["fetched"]["bytes"]) == (1, 0), "an equal plan makes no new generation"
    assert here.report("sync", "prod")["generation"] == 1

    (listed,) = here.report("ls")["sets"]
    assert (listed["set"], listed["generation"], listed["state"]) == ("prod", 1, "complete")
    assert listed["unique_bytes"] == listed["bytes"] == planned["totals"]["bytes"]
    images = here.report("ls", "prod@1")["images"]
    assert len(images) == planned["totals"]["images"]
    assert any(image["kind"] == "release" and image["tags"] == ["4.16.15-x86_64"] for image in images)

    (verdict,) = here.report("verify", "--deep")["sets"]
    assert (verdict["ok"], verdict["openpgp"]["verified"], verdict["missing"]) == (True, 1, [])
    inventory = here.report("inventory", "-o", tmp_path / "inventory.json")
    assert inventory["digests"] == len(json.loads((tmp_path / "inventory.json").read_text())["digests"])

    tried = here.report("unpin", "prod@1", "--now", "--dry-run")
    assert len(here.report("ls")["sets"]) == 1
    refused = here.report("unpin", "prod@1", "--now", code=1)
    assert "--yes" in refused["problems"][0]["remedy"], "it is all of the store"
    gone = here.report("unpin", "prod@1", "--now", "--yes")
    assert 0 < tried["unpinned_bytes"] <= gone["freed_bytes"]
    assert here.report("ls")["sets"] == []
    assert here.report("inventory")["digests"] == 0


@pytest.mark.parametrize("what", ["manifest", "blob"])
async def test_bytes_that_upstream_changed_are_missing_and_a_rerun_is_no_remedy(
    make_site: MakeSite, tmp_path: Path, what: str
) -> None:
    """docs/disconnected.md, where a sync ends with 3."""
    async with ScriptedRegistry() as upstream:
        image = upstream.add_image("team/app", "v1", layers=[b"layer"])
        document = {"upstreams": {"reg.example": {"endpoints": [upstream.url]}}}
        bastion, other = make_site("bastion", None, document), make_site("other", None, document)
        plan, wanted = tmp_path / "app.plan", tmp_path / "app.txt"
        wanted.write_text(f"reg.example/team/app@{image.digest}\n")
        await asyncio.to_thread(other.mirror, "plan", wanted, "-o", plan)
        upstream.fail(what, faults.FlipBit(2))
        done = await asyncio.to_thread(bastion.mirror, "sync", plan, "--json", "-q", code=3)
    report = done.report
    assert codes(report) == ["image_lacking"]
    assert "upstream sent" in report["problems"][0]["what"]
    assert "give this upstream another endpoint" in report["problems"][0]["remedy"]


def test_giving_up_a_generation_that_is_not_here_names_those_that_are(here: Here, prod: Path) -> None:
    here.report("sync", prod)
    locks = os.listdir(here.site.store / "run/locks")
    for named, remedy in (
        ("production@1", "the sets here are prod"),
        ("production", "write SET@N or NAME@DIGEST; the sets here are prod"),
        ("../x@1", "write NAME@DIGEST, e.g. ../x@sha256:…; `mirror ls ../x` shows what is here and pinned"),
        ("prod@7", "the generations here are prod@1"),
        ("prod@v1", "the generations here are prod@1"),
        ("prod@", "the generations here are prod@1"),
        ("prod", "the generations here are prod@1"),
    ):
        (problem,) = here.report("unpin", named, code=78)["problems"]
        assert (problem["code"], problem["remedy"]) == ("no_generation", remedy)
    Layout(here.site.store).generation("prod", 1).unlink()  # which is still said, and can be given up
    (problem,) = here.report("unpin", "prod@7", code=78)["problems"]
    assert problem["remedy"] == "the generations here are prod@1"
    assert os.listdir(here.site.store / "run/locks") == locks
    here.report("unpin", problem["remedy"].rpartition(" ")[2])


def test_what_a_plan_left_out_is_said_whenever_it_is_synced(here: Here, prod: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    here.report("plan", prod, "-o", path)
    sentence = "quay.io/org/app@sha256:…: the referrer of somebody is gone from upstream, and left out"
    path.write_bytes(replace(Plan.parse(path.read_bytes()), left_out=(sentence,)).dump())
    for words in (("plan", path), ("sync", path), ("sync", "prod")):
        assert here.run(*words).stderr.count(f"mirror {words[0]}: {sentence}\n") == 1
        assert here.report(*words)["left_out"] == [sentence]


@pytest.mark.parametrize("how", ["damaged", "lost"])
def test_a_generation_whose_plan_is_not_known_is_given_up_without_it(here: Here, prod: Path, how: str) -> None:
    here.report("sync", prod)
    layout = Layout(here.site.store)
    sets = Sets(layout)
    content = sorted(os.listdir(layout.blobs / "sha256"))
    if how == "lost":
        layout.generation("prod", 1).unlink()
    else:
        layout.generation("prod", 1).write_bytes(b"{")
    refused = here.report("unpin", "prod@1", "--now", code=78)
    assert codes(refused) == ["no_plan"]
    assert here.report("unpin", "prod@1", "--dry-run")["dry_run"]
    assert [str(one) for one in sets.current()] == ["prod@1"]
    given_up = here.report("unpin", "prod@1")
    assert (given_up["set"], given_up["deleted"]) == ("prod@1", False)
    assert sets.current() == ()
    assert sorted(os.listdir(layout.blobs / "sha256")) == content, "all of it is cache now"
    assert here.report("sync", prod)["fetched"]["bytes"] == 0


@pytest.mark.parametrize("how", ["sync", "load"])
@pytest.mark.parametrize("record", ["current", "prod/1.json"])
def test_a_record_of_sets_that_is_removed_is_written_again(
    here: Here, prod: Path, tmp_path: Path, record: str, how: str
) -> None:
    """docs/operations.md, `RecordDamaged`: where it is lost, remove it and bring the set again: nothing is fetched."""
    here.run("sync", prod)
    (tmp_path / "disk").mkdir()
    here.run("save", "prod", "--to", mounted(tmp_path / "disk"))
    layout = Layout(here.site.store)
    content = {one: one.stat().st_ino for one in (layout.blobs / "sha256").iterdir()}
    path = layout.sets / record
    path.write_bytes(b"\0")
    assert str(path) in here.report("verify", code=1)["problems"][0]["what"]
    path.unlink()
    if path.parent != layout.sets:
        for words in (("verify",), ("ls",), ("verify", "prod"), ("resources", "prod", "--registry", "m.lab:5000")):
            assert (
                "prod@1, which is complete, is not in the store" in here.report(*words, code=1)["problems"][0]["what"]
            )
    here.run(*(("sync", prod) if how == "sync" else ("load", tmp_path / "disk")))
    assert {one: one.stat().st_ino for one in (layout.blobs / "sha256").iterdir()} == content
    (verdict,) = here.report("verify")["sets"]
    assert (verdict["set"], verdict["generation"], verdict["ok"]) == ("prod", 1, True)
    assert [str(one) for one in Sets(layout).current()] == ["prod@1"]


def test_what_two_bastions_call_alike_is_told_apart(make_site: MakeSite, world_again: World, tmp_path: Path) -> None:
    """docs/disconnected.md, What it says, and what to do: another folder, another --set, or unpin inside."""
    disks = [tmp_path / name for name in ("first", "second", "other")]
    first, second = (Here(make_site(f"bastion-{disk.name}", world_again)) for disk in disks[:2])
    for disk in disks:
        disk.mkdir()
    newer = world.image_set(tmp_path / "prod.yaml", versions=("4.16.20", "4.16.20"))
    second.run("sync", newer)
    first.run("sync", world.image_set(newer))
    first.run("save", "prod", "--to", mounted(disks[0]))
    there = second.report("save", "prod", "--to", mounted(disks[0]), code=78)
    assert "is there and belongs to another save" in there["problems"][0]["what"]
    second.run("save", "prod", "--to", mounted(disks[1]))

    inside = Here(make_site("inside", None, {"releases": {"keyring": str(world_again.keyring)}}))
    inside.run("load", disks[0])
    refused = inside.report("load", disks[1], code=1)
    assert "the store has other content as prod@1" in refused["problems"][0]["what"]
    world.image_set(newer, versions=("4.16.20", "4.16.20"))
    second.run("sync", newer, "--set", "other")
    second.run("save", "other", "--to", mounted(disks[2]))
    inside.run("load", disks[2])
    inside.run("unpin", "prod@1")
    inside.run("load", disks[1])
    assert {(one["set"], one["ok"]) for one in inside.report("verify")["sets"]} == {("prod", True), ("other", True)}


def test_a_disk_that_takes_no_large_files_gets_smaller_parts(here: Here, prod: Path, tmp_path: Path) -> None:
    """docs/disconnected.md, `takes no file of that size`: FAT32, here with a bound of its own."""
    here.run("sync", prod)
    (tmp_path / "disk").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, before[1]))
    try:
        refused = here.report("save", "prod", "--to", mounted(tmp_path / "disk"), code=1)
        assert "takes no file of that size" in refused["problems"][0]["what"]
        here.run("save", "prod", "--to", mounted(tmp_path / "disk"), "--part-size", "1MiB")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert max(part.stat().st_size for part in (tmp_path / "disk").glob("*.tar")) <= 1 << 20


def test_a_release_that_came_as_an_image_is_named_for_its_components(
    here: Here, world_again: World, tmp_path: Path
) -> None:
    """docs/disconnected.md, `without the components of the release`: name it under `mirror.platform.release`."""
    pullspec = world_again.releases.older.pullspec
    document: dict[str, Any] = {"kind": "ImageSetConfiguration", "apiVersion": "mirror.openshift.io/v2alpha1"}
    wanted = tmp_path / "prod.yaml"
    wanted.write_text(yaml.safe_dump({**document, "mirror": {"additionalImages": [{"name": pullspec}]}}))
    assert "without the components of the release" in here.run("plan", wanted).output
    wanted.write_text(yaml.safe_dump({**document, "mirror": {"platform": {"release": pullspec}}}))
    assert "components were asked for" not in here.run("sync", wanted).output
    kinds = [image["kind"] for image in here.report("ls", "prod@1")["images"]]
    assert kinds.count("component") > 10


def test_what_is_not_complete_is_not_saved_and_verify_says_what_is_missing(here: Here, tmp_path: Path) -> None:
    """docs/disconnected.md, `no generation of set … is complete here`."""
    (tmp_path / "tools.txt").write_text("registry.redhat.io/ubi9/ubi:latest\nquay.io/team/tool:1.4\n")
    here.run("sync", tmp_path / "tools.txt", code=3)
    (tmp_path / "disk").mkdir()
    refused = here.report("save", "tools", "--to", mounted(tmp_path / "disk"), code=3)
    assert refused["problems"][0]["what"] == "no generation of set tools is complete here"
    assert refused["problems"][0]["remedy"] == "mirror verify tools"
    assert "quay.io/team/tool:1.4" in here.run("verify", "tools", code=3).output


def _write_onto_a_full_disk(root: Path) -> None:
    site = Site.at(Path((root.parent / "site").read_text()))
    with (root / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    resources = ("resources", "prod", "--registry", "mirror.example:5000", "-o", root / "resources")
    (root / "resources").mkdir()
    for words in (("inventory", "-o", root / "inventory.txt"), resources):
        done = site.mirror(*words, code=5)
        assert str(root) in done.err, done
        assert "No space left on device): make room on its file system" in done.err, done


def test_no_secret_leaves_with_plans_parts_and_inventories(
    here: Here, prod: Path, world_again: World, tmp_path: Path
) -> None:
    """docs/threat-model.md, What leaves. Parts are tars that nothing compresses."""
    (secret,) = json.loads(world_again.pull_secret.read_text())["auths"].values()
    login = base64.b64decode(secret["auth"]).partition(b":")[2]
    assert login
    disk = tmp_path / "disk"
    disk.mkdir()
    here.run("plan", prod, "-o", disk / "prod.plan")
    here.run("sync", prod)
    here.run("save", "prod", "--to", disk)
    here.run("inventory", "-o", disk / "inventory.txt")
    assert len(list(disk.iterdir())) > 4
    for path in disk.iterdir():
        content = path.read_bytes()
        assert login not in content, path
        assert secret["auth"].encode() not in content, path


def test_what_a_scrub_lists_behind_the_gap_is_brought_by_a_save(
    make_site: MakeSite, here: Here, prod: Path, world_again: World, tmp_path: Path
) -> None:
    """docs/operations.md, `ContentCorrupt`, and docs/store.md, Hash it again: `--missing`, then `save --want`."""
    disks = [tmp_path / "first", tmp_path / "second"]
    for disk in disks:
        disk.mkdir()
    here.run("sync", prod)
    here.run("save", "prod", "--to", disks[0])
    inside = Here(make_site("inside", None, {"releases": {"keyring": str(world_again.keyring)}, "offline": True}))
    inside.run("load", disks[0])
    lost = max((inside.site.store / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    sealed, content = lost.stat(), bytearray(lost.read_bytes())
    content[1000] ^= 1
    lost.chmod(0o600)
    lost.write_bytes(content)
    os.utime(lost, ns=(sealed.st_atime_ns, sealed.st_mtime_ns))
    lost.chmod(sealed.st_mode & 0o777)
    # The service's own scrub would be the one that finds it.
    inside.site.configure({"storage": {"path": str(inside.site.store), "scrub_rate": 0}})
    with running(inside.site.serving()):
        inside.run("scrub", "--missing", tmp_path / "lost.txt", code=4)
        told = inside.site.mirror("status", "--json", code=None).report
        assert "content_corrupt" in codes(told)
        here.run("save", "prod", "--to", disks[1], "--want", tmp_path / "lost.txt")
        sizes = [sum(part.stat().st_size for part in disk.glob("*.tar")) for disk in disks]
        assert sizes[1] < sizes[0], "what is here is not carried again"
        inside.run("load", disks[1])
        inside.run("scrub")
        assert codes(inside.site.mirror("status", "--json").report) == []


@pytest.mark.parametrize("how", ["sync", "sync prod@1", "load"])
@pytest.mark.parametrize("folder", ["blobs/sha256", "repositories", "signatures", "graph"])
def test_what_a_set_has_lost_comes_back_as_it_came(
    make_site: MakeSite, here: Here, prod: Path, world_again: World, tmp_path: Path, how: str, folder: str
) -> None:
    """docs/operations.md, What is in the store: verify says what is missing, and the same again brings exactly that."""
    (tmp_path / "disk").mkdir()
    here.run("sync", prod)
    here.run("save", "prod", "--to", tmp_path / "disk")
    site, again = here, ("sync", prod if how == "sync" else "prod@1")
    if how == "load":
        document = {"releases": {"keyring": str(world_again.keyring)}, "offline": True}
        site, again = Here(make_site("inside", None, document)), ("load", tmp_path / "disk")
        site.run(*again)
    sets = Sets(Layout(site.site.store))
    complete = sets.current()
    for path in (site.site.store / folder).iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not site.report("verify", code=4 if folder == "signatures" else 3)["sets"][0]["ok"]
    site.run(*again)
    assert site.report("verify")["sets"][0]["ok"]
    assert sets.current() == complete, "completed anew it would stand behind other sets"


def test_two_syncs_of_one_set_are_one_after_the_other(here: Here, prod: Path) -> None:
    """docs/disconnected.md, `another sync or load of set … is running`: wait for it."""
    here.run("sync", prod)
    busy = Sets(Layout(here.site.store)).try_busy("prod")
    assert busy is not None
    try:
        (told,) = here.report("sync", prod, code=75)["problems"]
        assert told["what"] == "another sync or load of set prod is running"
    finally:
        busy.release()
    here.run("sync", prod)


def test_quiet_says_only_what_is_wrong(here: Here, prod: Path) -> None:
    """docs/disconnected.md, Who runs what."""
    assert here.run("sync", prod, "-q").output == ""
    assert here.run("verify", "-q").output == ""
    assert "there is no" in here.run("verify", "prod@2", "-q", code=78).output


def test_a_disk_that_is_full_is_called_so(here: Here, prod: Path, tmp_path: Path) -> None:
    """docs/operations.md, Exit codes: 5 is no space, in the store or on the disk that is written to."""
    here.run("sync", prod)
    (tmp_path / "site").write_text(str(here.site.folder))
    (tmp_path / "root").mkdir()
    on_small_disk(_write_onto_a_full_disk, tmp_path / "root", "200k")


def test_a_newer_plan_is_a_newer_generation_and_keep_gives_up_the_older(here: Here, prod: Path) -> None:
    here.run("sync", prod)
    world.image_set(prod, versions=("4.16.15", "4.16.20"))
    second = here.report("sync", prod)
    assert second["generation"] == 2
    assert second["to_fetch"]["bytes"] < second["totals"]["bytes"] / 2, "most of it was here"
    assert [one["generation"] for one in here.report("ls", "prod")["sets"]] == [1, 2]
    world.image_set(prod, versions=("4.16.20", "4.16.20"))
    third = here.report("sync", prod, "--keep", "2")
    assert third["generation"] == 3
    assert [one["generation"] for one in here.report("ls", "prod")["sets"]] == [2, 3]
    assert all(one["ok"] for one in here.report("verify")["sets"])


def test_a_name_belongs_to_one_file(here: Here, prod: Path, tmp_path: Path) -> None:
    here.run("plan", prod)
    other = tmp_path / "other" / "prod.yaml"
    other.parent.mkdir()
    world.image_set(other)
    refused = here.report("sync", other, code=78)
    assert codes(refused) == ["set_taken"]
    assert str(prod) in refused["problems"][0]["what"]
    assert "--replace" in refused["problems"][0]["remedy"]
    here.run("plan", other, "--set", "second")
    here.run("plan", other, "--replace")
    assert codes(here.report("plan", prod, code=78)) == ["set_taken"]


@pytest.mark.parametrize("noted", ["sub/../prod.yaml", "./prod.yaml"])
def test_a_file_is_the_same_however_its_path_is_spelled(
    here: Here, prod: Path, monkeypatch: pytest.MonkeyPatch, noted: str
) -> None:
    (prod.parent / "sub").mkdir()
    monkeypatch.chdir(prod.parent / "sub")
    for spelled in (prod, "../prod.yaml", prod.parent / "sub" / ".." / prod.name, prod):
        here.run("plan", spelled)
    # As earlier releases kept it.
    (Layout(here.site.store).set("prod") / "source").write_text(f"{prod.parent}/{noted}\n")
    here.run("plan", prod)


def test_upstreams_that_are_lacking_are_listed_with_the_lines_to_paste(here: Here, tmp_path: Path) -> None:
    listed = tmp_path / "apps.txt"
    listed.write_text("registry.example:5000/team/app:v1\nghcr.io/org/app:v2\nquay.io/nobody/nothing:v1\n")
    refused = here.report("plan", listed, code=78)
    assert codes(refused) == ["upstream_missing", "upstream_missing"]
    text = " ".join(problem["remedy"] for problem in refused["problems"])
    assert "ghcr.io" in text
    assert "registry.example:5000" in text
    assert f"{listed}:1" in refused["problems"][1]["where"] + refused["problems"][0]["where"]


def test_an_image_that_is_not_there_keeps_the_set_open_and_the_rest_comes(here: Here, tmp_path: Path) -> None:
    listed = tmp_path / "apps.txt"
    listed.write_text(f"{world.EXTRA}:latest\n{world.EXTRA}:nowhere\n")
    report = here.report("sync", listed, code=3)
    assert codes(report) == ["image_lacking"]
    assert f"{world.EXTRA}:nowhere" in report["problems"][0]["what"]
    assert report["fetched"]["bytes"] > 0
    (verdict,) = here.report("verify", "apps", code=3)["sets"]
    assert verdict["missing"] == []
    listed.write_text(f"{world.EXTRA}:latest\n")
    assert here.report("sync", listed)["complete"] is True


def test_what_does_not_fit_is_told_before_a_byte_moves(make_site: MakeSite, world_again: World, prod: Path) -> None:
    here = Here(make_site("full", world_again))
    here.site.configure({"storage": {"path": str(here.site.store), "keep_free": "99%"}})
    refused = here.report("sync", prod, code=5)
    assert "StoreFull" in str(refused) or "no_space" in codes(refused) or "store_full" in codes(refused)


def test_what_was_lost_is_named_and_listed_for_the_other_side(here: Here, prod: Path, tmp_path: Path) -> None:
    here.run("sync", prod)
    plan = json.loads((here.site.store / "sets/prod/1.json").read_text())
    lost = plan["blobs"][3]["digest"]
    (here.site.store / "blobs" / lost.replace(":", "/")).unlink()
    report = here.report("verify", "prod", "-o", tmp_path / "missing.txt", code=3)
    assert [one["digest"] for one in report["sets"][0]["missing"]] == [lost]
    assert lost in (tmp_path / "missing.txt").read_text()
    assert codes(here.report("save", "prod", "--to", mounted(tmp_path / "disk"), code=3)) == ["missing"]
    assert here.report("sync", "prod")["fetched"]["bytes"] == plan["blobs"][3]["size"]
    assert here.report("verify", "prod")["sets"][0]["ok"]


def lose(here: Here, count: int) -> tuple[list[str], int]:
    """Remove some blobs of prod@1; return their digests and bytes."""
    plan = json.loads((here.site.store / "sets/prod/1.json").read_text())
    gone = plan["blobs"][:count]
    for blob in gone:
        (here.site.store / "blobs" / blob["digest"].replace(":", "/")).unlink()
    return sorted(blob["digest"] for blob in gone), sum(blob["size"] for blob in gone)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_what_is_missing_is_summed_up_with_one_command_that_brings_it(here: Here, prod: Path, count: int) -> None:
    here.run("sync", prod)
    lost, size = lose(here, count)
    (line,) = here.run("verify", "prod", code=3).stderr.splitlines()
    what, _, command = line.removeprefix("mirror verify: prod@1: ").partition(": fetch it: mirror ")
    total = here.report("verify", "prod", code=3)["sets"][0]
    assert len(total["missing"]) == count
    said = f"{count} of {total['digests']} digests {'is' if count == 1 else 'are'} not here, {size_text(size)} of "
    assert what.startswith(said + size_text(total["bytes"]))
    assert what.endswith(f": {', '.join(lost)}") if count <= 3 else ": of quay.io/" in what
    assert here.report(*command.split())["fetched"]["bytes"] == size
    assert here.report("verify", "prod")["sets"][0]["ok"]


def test_what_is_missing_behind_the_gap_is_brought_by_the_commands_that_are_said(
    here: Here, make_site: MakeSite, prod: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.run("sync", prod)
    here.run("save", "prod", "--to", mounted(tmp_path / "disk"))
    inside = Here(make_site("inside", None, {"releases": {"keyring": here.site.document["releases"]["keyring"]}}))
    inside.run("load", tmp_path / "disk")
    lose(inside, 9)
    monkeypatch.chdir(tmp_path)
    (line,) = inside.run("verify", "prod", code=3).stderr.splitlines()
    found = re.search("list it: mirror (.+); then have it saved on the other side: mirror (.+), and load that", line)
    assert found is not None
    inside.run(*found[1].split(), code=3)
    mounted(tmp_path / "more")
    here.run(*found[2].replace("DIR", "more").split())
    inside.run("load", "more")
    assert inside.report("verify", "prod")["sets"][0]["ok"]


def test_what_an_archive_of_another_tool_brought_is_brought_by_it_again(make_site: MakeSite, tmp_path: Path) -> None:
    here = Here(make_site("inside", document={"upstreams": {"quay.io": {}}}))
    foreign_bed.pack(tmp_path / "tool.tar", foreign_bed.oci_layout(foreign_bed.app("tool")))
    load = ("load", tmp_path / "tool.tar", "--as", "quay.io/team/tool:1.4")
    here.run(*load)
    blob = json.loads((here.site.store / "sets/tool/1.json").read_text())["blobs"][0]["digest"]
    (here.site.store / "blobs" / blob.replace(":", "/")).unlink()
    (line,) = here.run("verify", code=3).stderr.splitlines()
    assert line.endswith(f"{blob}: load its archive again, or the parts in which it came")
    here.run(*load)
    assert here.report("verify")["sets"][0]["ok"]


def test_a_load_without_room_says_that_alone_and_goes_on_where_there_is_some(
    here: Here, make_site: MakeSite, prod: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.run("sync", prod)
    here.run("save", "prod", "--to", mounted(tmp_path / "disk"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    keyring = {"releases": {"keyring": here.site.document["releases"]["keyring"]}}
    storage = {"path": str(tmp_path / "inside/store")}
    inside = Here(make_site("inside", None, {**keyring, "storage": {**storage, "keep_free": "99%"}}))
    done = inside.run("load", tmp_path / "disk", code=5)
    (line,) = done.stderr.splitlines()
    assert "--want" not in line
    assert "incomplete" not in done.stdout
    assert list((tmp_path / "work").iterdir()) == []
    inside.site.configure({"storage": {**storage, "keep_free": "0%"}})
    inside.run("load", tmp_path / "disk")
    assert inside.report("verify", "prod")["sets"][0]["ok"]


def test_a_set_that_came_in_part_is_incomplete_and_no_keyring_is_blamed(
    here: Here, make_site: MakeSite, prod: Path, tmp_path: Path
) -> None:
    here.run("sync", prod)
    here.run("save", "prod", "--to", mounted(tmp_path / "disk"), "--part-size", "1MiB")
    inside = Here(make_site("inside", None, {"releases": {"keyring": here.site.document["releases"]["keyring"]}}))
    first, *others = sorted((tmp_path / "disk").glob("*.tar"))
    assert len(others) > 1
    loaded = inside.run("load", first, code=3)
    assert re.search(r"incomplete: [0-9]+ digests, .* received; [0-9]+ digests, .* missing$", loaded.stdout.strip())
    (line,) = loaded.stderr.splitlines()
    assert f"{', '.join(path.name for path in others)} were not among the files: load them too" in line
    (line,) = inside.run("verify", code=3).stderr.splitlines()
    assert "digests are not here" in line
    assert "keyring" not in line
    assert "signature" not in line
    problems = inside.report("verify", code=3)["sets"][0]["openpgp"]["problems"]
    assert any(one.endswith("is not here") for one in problems)
    inside.run("load", *others)
    assert inside.report("verify")["sets"][0]["ok"]


def test_a_signature_that_was_lost_is_fetched_again_and_no_keyring_is_blamed(here: Here, prod: Path) -> None:
    here.run("sync", prod)
    (signature,) = here.site.store.glob("signatures/*/signature-1")
    signature.unlink()
    (line,) = here.run("verify", "prod", code=4).stderr.splitlines()
    assert "signature 1 of release sha256:" in line
    assert "keyring" not in line
    here.run(*line.partition(" is not here: fetch it: mirror ")[2].split())
    assert here.report("verify", "prod")["sets"][0]["ok"]


def test_rotten_content_is_found_and_fetched_again(here: Here, prod: Path) -> None:
    here.run("sync", prod)
    plan = json.loads((here.site.store / "sets/prod/1.json").read_text())
    rotten = max(plan["blobs"], key=lambda blob: blob["size"])["digest"]
    path = here.site.store / "blobs" / rotten.replace(":", "/")
    status = path.stat()
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    path.chmod(0o440)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    here.run("verify", "prod")
    assert codes(here.report("verify", "prod", "--deep", code=4)) == ["corrupt"]
    assert not path.exists()
    here.run("sync", "prod")
    here.run("verify", "prod", "--deep")


def test_an_upstream_that_is_away_is_temporary(here: Here, prod: Path, world_again: World) -> None:
    world_again.registry.front.go_away()
    here.report("sync", prod, code=75)
    assert here.report("ls")["sets"] == []


def test_a_wrong_pull_secret_says_so(here: Here, prod: Path, tmp_path: Path) -> None:
    secret = tmp_path / "wrong.json"
    secret.write_text(json.dumps({"auths": {}}))
    here.site.configure({"pull_secrets": [str(secret)]})
    result = here.run("sync", prod, code=1)
    assert "hunter2" not in result.output
    assert "`pull_secrets`" in result.stderr
    assert here.report("ls")["sets"] == []


def test_a_plan_from_elsewhere_is_proven_before_it_is_believed(
    here: Here, make_site: MakeSite, world_again: World, prod: Path, tmp_path: Path
) -> None:
    here.run("plan", prod, "-o", tmp_path / "plan.json")
    there = Here(make_site("there", world_again))
    there.site.configure({"releases": {**there.site.document["releases"], "keyring": None}})
    refused = there.report("sync", tmp_path / "plan.json", code=4)
    assert codes(refused) == ["signature_invalid"]
    assert there.report("ls")["sets"] == []
    stripped = json.loads((tmp_path / "plan.json").read_text()) | {"signatures": [], "requireSignature": False}
    (tmp_path / "stripped.json").write_text(json.dumps(stripped, indent=1))
    assert codes(there.report("sync", tmp_path / "stripped.json", code=4)) == ["signature_invalid"]
    here.run("sync", tmp_path / "plan.json")


def test_no_signature_is_required_only_when_that_is_said_each_time(here: Here, prod: Path) -> None:
    document = here.site.document["releases"]
    here.site.configure({"releases": {**document, "require_signature": False, "signature_stores": []}})
    for _ in range(2):
        result = here.run("sync", prod)
        assert "releases.require_signature is false" in result.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("sync", "nothing-here"), 78),
        (("plan", "nothing-here.yaml"), 78),
        (("verify", "nothing"), 78),
        (("verify", "prod@7"), 78),
        (("save", "prod", "--to", "/tmp/x"), 78),
        (("save", "prod", "--to", "/tmp/x", "--have", "a", "--want", "b"), 2),
        (("unpin", "prod"), 78),
        (("unpin", "prod@1"), 78),
        (("ls", "nothing"), 78),
        (("load", "/nonexistent/folder"), 78),
        (("resources",), 2),
        (("resources", "nothing", "--registry", "mirror.example:5000"), 78),
    ],
)
def test_what_is_not_there_is_an_error_that_says_so(make_site: MakeSite, words: tuple[str, ...], code: int) -> None:
    here = Here(make_site("empty"))
    assert here.run(*words, code=code).stderr.strip()


@pytest.mark.parametrize(
    ("text", "what", "command"),
    [
        ('{"schema": 1, "kind": "plan", "set": "prod"}', "a plan", "mirror sync"),
        ('{\n "schema": 1,\n "kind": "inventory"', "an inventory", "mirror save SET --to DIR --have"),
        ('{"auths": {}}', "a pull secret", "`pull_secrets`"),
        ("apiVersion: mirror.openshift.io/v2alpha1\nkind: ImageSetConfiguration\n", "an image set", "mirror sync"),
        (f"# missing of prod@1\nsha256:{'0' * 64}\n", "a list of digests", "mirror save SET --to DIR --want"),
        ("# ours\nquay.io/org/app:v1\n", "a list of images", "mirror sync"),
        ("quay.io/org/app:v1=mirror.example/org/app:v1\n", "a list of images", "mirror sync"),
        (f"{'0' * 64}  prod-1-001-of-002.tar\n", "a list of checksums", "mirror load"),
        ("hello world\n", "a text file", "the folder that `mirror save` wrote"),
        ('{"hello": "world"}', "a text file", "the folder that `mirror save` wrote"),
        ("listen: 127.0.0.1:5000\n", "a text file", "the folder that `mirror save` wrote"),
        ("ä" * 3000 + "ö", "a text file", "the folder that `mirror save` wrote"),
        ("", "empty", "copy it again"),
        ("PK\x03\x04 and so on", "a zip file", "unpack it"),
        ("\0" * 32769 + "CD001\x01\0", "an image of a disc", "mount -o ro,loop"),
    ],
)
def test_what_another_command_takes_is_not_loaded_and_named(
    make_site: MakeSite, tmp_path: Path, text: str, what: str, command: str
) -> None:
    here = Here(make_site("empty"))
    (tmp_path / "given").write_text(text)
    report = here.report("load", tmp_path / "given", code=78)
    assert codes(report) == ["not_an_archive"]
    assert f"given is {what}" in report["problems"][0]["what"]
    assert command in report["problems"][0]["remedy"]


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
def test_one_file_of_a_layout_leads_to_the_layout(make_site: MakeSite, tmp_path: Path, name: str) -> None:
    layout = foreign_bed.lay(tmp_path / "laptop", foreign_bed.oci_layout(foreign_bed.app("fixed")))
    here = Here(make_site("empty"))
    (problem,) = here.report("load", layout / name, code=78)["problems"]
    assert f"mirror load {layout}" in problem["remedy"]
    here.run("load", layout, "--as", "mirror.example/apps/app:v1")


def test_a_folder_of_folders_or_archives_leads_to_those(make_site: MakeSite, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    archive = foreign_bed.pack(tmp_path / "outer/app.tar", foreign_bed.oci_layout(foreign_bed.app("fixed")))
    (tmp_path / "outer/notes.txt").write_text("hello")
    os.mkfifo(tmp_path / "outer/pipe")
    here = Here(make_site("empty"))
    (problem,) = here.report("load", tmp_path / "outer", code=78)["problems"]
    assert problem["remedy"] == f"give what lies in it: `mirror load {archive}`"
    here.run("load", archive, "--as", "mirror.example/apps/app:v1")
    archive.unlink()
    (problem,) = here.report("load", tmp_path / "outer", code=78)["problems"]
    assert "it holds notes.txt, pipe" in problem["what"]
    assert "`mirror load --help` names them" in problem["remedy"]


def test_an_empty_folder_may_be_where_nothing_is_mounted(make_site: MakeSite, tmp_path: Path) -> None:
    (tmp_path / "usb").mkdir()
    (problem,) = Here(make_site("empty")).report("load", tmp_path / "usb", code=78)["problems"]
    assert problem["what"].endswith(": it is empty")
    assert problem["remedy"].startswith("mount the medium there")


@pytest.mark.parametrize("half", ["oci-layout", "index.json"])
def test_half_a_layout_is_called_one(make_site: MakeSite, tmp_path: Path, half: str) -> None:
    layout = foreign_bed.lay(tmp_path / "laptop", foreign_bed.oci_layout(foreign_bed.app("fixed")))
    (layout / half).unlink()
    report = Here(make_site("empty")).report("load", layout, code=4)
    assert report["problems"][0]["what"] == f"{layout} looks like an OCI layout and has no {half}"


def test_a_plan_of_somebody_elses_making_is_checked(here: Here, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    for text in ('{"schema": 1, "kind": "plan"}', '{"schema": 2, "kind": "plan"}', '{ "kind": "plan", "set": "../x"}'):
        plan.write_text(text)
        assert codes(here.report("sync", plan, code=78))


def test_an_empty_store_verifies_as_nothing(make_site: MakeSite) -> None:
    here = Here(make_site("empty"))
    prepare(Layout(here.site.store))
    report = here.report("verify", code=3)
    assert (report["sets"], codes(report)) == ([], ["no_sets"])


def test_without_a_set_resources_are_of_a_pull_through_site(here: Here, tmp_path: Path) -> None:
    report = here.report("resources", "--registry", "http://mirror.example:5000", "-o", tmp_path / "site")
    assert "nodes/containers/registries.conf" in report["files"]
    idms = yaml.safe_load((tmp_path / "site/cluster/idms.yaml").read_text())
    assert any(one["source"] == "quay.io" for one in idms["spec"]["imageDigestMirrors"])


def test_a_registry_without_its_port_is_told_the_port(make_site: MakeSite, tmp_path: Path) -> None:
    here = Here(make_site("inside", document={"listen": "0.0.0.0:5000", "upstreams": {"quay.io": {}}}))
    said = here.run("resources", "--registry", "http://mirror.example", "-o", tmp_path / "to").stderr
    assert "listens on port 5000: write --registry http://mirror.example:5000;" in said
    assert (
        "listens on"
        not in here.run("resources", "--registry", "http://mirror.example:5000", "-o", tmp_path / "to").stderr
    )
    (problem,) = here.report("resources", "--registry", "bastion", "-o", tmp_path / "to", code=78)["problems"]
    assert problem["remedy"] == "write --registry bastion:5000"


def test_what_an_earlier_run_left_to_be_applied_is_named(here: Here, tmp_path: Path) -> None:
    to = tmp_path / "site"
    command = ("resources", "--registry", "http://mirror.example:5000", "-o", to)
    here.run(*command, "--never-contact-source")
    assert (to / "cluster/operatorhub.yaml").is_file()
    (to / "update").mkdir()
    # as it was called before: the folder had something to apply then
    (to / "update/updateservice.yaml").write_bytes((to / "cluster/idms.yaml").read_bytes())
    (to / "cluster/mine.yaml").write_text("kind: CatalogSource\n")
    notes = here.report(*command)["notes"]
    named = [note.partition(" ")[0] for note in notes if "of an earlier run" in note]
    assert named == [str(to / "cluster/operatorhub.yaml"), str(to / "update/updateservice.yaml")]
    (to / "cluster/operatorhub.yaml").unlink()
    (to / "update/updateservice.yaml").unlink()
    assert not any("of an earlier run" in note for note in here.report(*command)["notes"])


def test_the_one_image_from_a_laptop_gets_its_own_name(make_site: MakeSite, tmp_path: Path) -> None:
    here = Here(make_site("inside", document={"upstreams": {"quay.io": {}}, "offline": True}))
    image = foreign_bed.app("fixed")
    layout = foreign_bed.lay(tmp_path / "laptop", foreign_bed.oci_layout(image))
    report = here.report("load", layout, "--as", f"quay.io/org/app:v2@{image.digest}")
    assert (report["kind"], report["set"], report["generation"]) == ("oci-layout", "laptop", 1)
    assert report["images"] == [f"quay.io/org/app@{image.digest}"]
    assert here.report("load", layout, "--as", f"quay.io/org/app:v2@{image.digest}")["generation"] == 1
    (one,) = here.report("ls", "laptop@1")["images"]
    assert (one["name"], one["tags"]) == ("quay.io/org/app", ["v2"])
    assert here.report("verify", "laptop")["sets"][0]["ok"]
    here.run("resources", "laptop", "--registry", "http://mirror.example:5000", "-o", tmp_path / "res")
    other = "sha256:" + "0" * 64
    assert here.report("load", layout, "--as", f"quay.io/org/app@{other}", code=1)["problems"]


def test_a_set_is_not_shadowed_by_what_lies_in_the_working_folder(
    make_site: MakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Here(make_site("inside", document={"upstreams": {"quay.io": {}}, "offline": True}))
    layout = foreign_bed.lay(tmp_path / "lay", foreign_bed.oci_layout(foreign_bed.app("fixed")))
    said = here.run("load", layout, "--as", "quay.io/org/app:v2").stdout
    assert "oci-layout, 1 image\n" in said
    monkeypatch.chdir(tmp_path)
    for given, to in (("lay", "one"), ("lay@1", "two")):
        assert "set lay@1" in here.run("save", given, "--to", mounted(tmp_path / to)).stdout
    assert here.report("sync", "lay")["complete"] is True
    assert here.report("verify", "lay")["sets"][0]["ok"]
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "other").mkdir(parents=True)
    (elsewhere / "lay").write_bytes(os.urandom(1000))
    monkeypatch.chdir(elsewhere)
    assert "set lay@1" in here.run("save", "lay", "--to", mounted(tmp_path / "three")).stdout
    for word in ("save", "verify", "sync"):
        report = here.report(word, "other", *(("--to", mounted(tmp_path / "four")) if word == "save" else ()), code=78)
        (problem,) = report["problems"]
        assert problem["what"] == "'other' is a folder, and no set here is called that"
        assert "the sets here are lay" in problem["remedy"]
        assert "`mirror load other`" in problem["remedy"]
    assert "is a folder, not an image set file" in here.report("plan", "other", code=78)["problems"][0]["what"]


def test_names_are_said_once(make_site: MakeSite, tmp_path: Path) -> None:
    here = Here(make_site("inside", document={"upstreams": {"quay.io": {}}, "offline": True}))
    found = foreign_bed.many("app")
    path, words = release_bed.forms(tmp_path / "forms", found, "quay.io/org/app")["oci-layout"]
    lines = here.run("load", path, *words).stdout.splitlines()
    assert lines[1] == "  quay.io/org/app"


@pytest.mark.parametrize(
    ("rule", "said"), [(["pull"], "without a login: may pull ("), ([], "without a login: may do nothing (")]
)
def test_explain_says_in_plain_words_who_may_do_what(make_site: MakeSite, rule: list[str], said: str) -> None:
    clients = {"anonymous": "none", "rules": [{"who": "anonymous", "repositories": ["quay.io/**"], "may": rule}]}
    here = Here(make_site("inside", document={"upstreams": {"quay.io": {}}, "clients": clients}))
    prepare(Layout(here.site.store))
    assert said in here.run("explain", "quay.io/org/app").stdout


def test_what_cannot_be_named_back_is_hosted_and_needs_no_mirror_entry(make_site: MakeSite, tmp_path: Path) -> None:
    here = Here(make_site("inside", document={"upstreams": {"lab": {"endpoints": ["https://reg.example"]}}}))
    image = foreign_bed.app("own")
    tree = foreign_bed.storage({"team/app": [(image, "v1")], "lab/app": [(image, "v1")]})
    folder = foreign_bed.lay(tmp_path / "tree", tree)
    report = here.report("load", folder, "--set", "old", code=3)
    assert report["hosted"] == ["team/app"]
    assert any("lab/app" in problem["what"] for problem in report["problems"])
    here.run("resources", "old", "--registry", "http://mirror.example:5000", "-o", tmp_path / "res")
