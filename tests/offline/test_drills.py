"""Drills: what goes wrong on the way is reported exactly, publishes nothing wrong, and a rerun completes.

`DRILLS=1` sweeps finer and over releases of full size; that takes many minutes (`make drills`).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mirror.offline.plan import Plan
from mirror.store.promises import UNIT
from tests.offline import world
from tests.offline.conftest import MakeSite
from tests.offline.site import Site, mounted
from tests.offline.world import World, image_set
from tests.tools import images
from tests.tools.mounts import on_small_disk
from tests.tools.processes import running, wait_until
from tests.tools.programs import Programs
from tests.tools.release import Placed

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(900)]

LONG = bool(os.environ.get("DRILLS"))
CUTS = range(0, 100, 5) if LONG else (0, 35, 95)  # percent of a part
FLIPS = 40 if LONG else 2
KILLS = 10
LOAD_KILLS = 20 if LONG else 4
PART = "2MiB"
BULK = (1024 if LONG else 96) * 2**20  # bytes of a layer that does not compress


@pytest.fixture(scope="module")
def drilled(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world that is drilled: small, or of full size."""
    releases = world.make_releases() if LONG else world.make_releases(24, 0.8)
    with world.opened(programs, tmp_path_factory.mktemp("drilled"), releases) as opened:
        yield opened


@pytest.fixture(scope="module")
def synced(drilled: World, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A bastion that has set prod, of one release."""
    folder = tmp_path_factory.mktemp("synced")
    site = Site(folder / "bastion", drilled.configuration())
    site.mirror("sync", image_set(folder / "prod.yaml"))
    return site


@pytest.fixture(scope="module")
def whole(synced: Site) -> Path:
    """The set in a single part."""
    synced.mirror("save", "prod", "--to", mounted(synced.folder / "whole"))
    (part,) = (synced.folder / "whole").glob("*.tar")
    return part


@pytest.fixture(scope="module")
def parts(synced: Site) -> list[Path]:
    """The set in several parts."""
    synced.mirror("save", "prod", "--to", mounted(synced.folder / "parts"), "--part-size", PART)
    found = sorted((synced.folder / "parts").glob("*.tar"))
    assert len(found) > 3, "too few parts to lose one"
    return found


@pytest.fixture
def inside(make_site: MakeSite, drilled: World) -> Site:
    return make_site("inside", None, {"releases": {"keyring": str(drilled.keyring)}})


def unique_bytes(site: Site) -> int:
    return sum(Plan.parse((site.store / "sets/prod/1.json").read_bytes()).content.values())


def assert_nothing_published(site: Site) -> None:
    """Check that no generation is complete: only `sets/current` makes names and tags true."""
    current = site.store / "sets" / "current"
    assert not current.exists() or b"prod" not in current.read_bytes()


def assert_whole(site: Site) -> None:
    site.mirror("verify", "prod", "--deep")


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a command and all its children as a power cut would."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# -- sync ----------------------------------------------------------------------------------------------------------


def test_sync_killed_ten_times_takes_each_byte_about_once(
    make_site: MakeSite, drilled: World, synced: Site, tmp_path: Path
) -> None:
    unique = unique_bytes(synced)
    site = make_site("killed", drilled)
    front = drilled.registry.front
    front.forget()
    chance = random.Random(4)
    wanted = image_set(tmp_path / "prod.yaml")
    front.rate = unique / 16 / 32  # sixteen downloads need 32 s, and little is on its way when a kill comes
    try:
        for _turn in range(KILLS):
            seen = front.total
            process = site.begin("sync", wanted)
            deadline = time.monotonic() + 15
            while front.total == seen and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 1.5))
            assert process.poll() is None, "it had come to its end before it was killed"
            kill(process)
            # Or what is on its way to the dead would leave at full speed, as soon as it may, and be counted.
            wait_until(lambda: not front.passing, "the end of what was sent to the dead")
            assert_nothing_published(site)
    finally:
        front.rate = None
    site.mirror("sync", wanted)
    assert_whole(site)
    assert unique <= front.total <= 1.05 * unique, f"{front.total / unique:.3f} times what is needed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sync_that_is_stopped_ends_with_3_and_goes_on(
    make_site: MakeSite, drilled: World, synced: Site, tmp_path: Path, number: signal.Signals
) -> None:
    """docs/disconnected.md, Sync: Ctrl-C, then the same command again; nothing is fetched twice."""
    unique = unique_bytes(synced)
    site = make_site("stopped", drilled)
    front = drilled.registry.front
    front.forget()
    wanted = image_set(tmp_path / "prod.yaml")
    front.rate = unique / 16 / 8
    try:
        process = site.begin("sync", wanted)
        wait_until(lambda: front.total > unique * 0.2, "the first blobs", 60)
        process.send_signal(number)
        assert process.wait(60) == 3, site.begun.read_text()
        assert "stopped before the end: run it again" in site.begun.read_text()
        wait_until(lambda: not front.passing, "the end of what was sent to it")
    finally:
        front.rate = None
    assert_nothing_published(site)
    site.mirror("sync", wanted)
    assert_whole(site)
    assert front.total <= 1.05 * unique, f"{front.total / unique:.3f} times what is needed"


def test_sync_survives_tokens_that_end_bodies_that_break_and_an_upstream_that_goes_away(
    make_site: MakeSite, drilled: World, synced: Site, tmp_path: Path
) -> None:
    site = make_site("unlucky", drilled)
    front = drilled.registry.front
    front.forget()
    wanted = image_set(tmp_path / "prod.yaml")
    unique = unique_bytes(synced)
    front.rate = unique / 16 / 6
    front.token_lifetime = 2
    try:
        process = site.begin("sync", wanted)
        wait_until(lambda: front.total > unique * 0.15, "the first blobs", 60)
        front.cut_after = 20_000
        time.sleep(1)
        front.cut_after = None
        if LONG:  # after refused connections an endpoint is left alone for a minute
            wait_until(lambda: front.total > unique * 0.4, "more blobs", 60)
            front.go_away()
            time.sleep(1)
            front.come_back()
        front.rate = None
        assert process.wait(100) == 0, site.begun.read_text()
    finally:
        front.rate = front.token_lifetime = front.cut_after = None
        front.come_back()
    assert any(one.status == 401 and one.authorized for one in front.asked)
    assert_whole(site)


def test_upstream_away_is_temporary_and_nothing_is_done(make_site: MakeSite, drilled: World, tmp_path: Path) -> None:
    site = make_site("alone", drilled)
    drilled.registry.front.go_away()
    try:
        site.mirror("sync", image_set(tmp_path / "prod.yaml"), code=75)
    finally:
        drilled.registry.front.come_back()
    assert_nothing_published(site)


def test_one_image_that_is_gone_does_not_stop_the_rest(make_site: MakeSite, drilled: World, tmp_path: Path) -> None:
    site = make_site("partial", drilled)
    lost = drilled.releases.older.components["etcd"].blobs[-1]
    data = drilled.registry.folder / "storage/docker/registry/v2/blobs/sha256" / lost.digest[7:9] / lost.digest[7:]
    hidden = data.with_name("hidden")
    data.rename(hidden)
    try:
        done = site.mirror("sync", image_set(tmp_path / "prod.yaml"), code=3)
    finally:
        hidden.rename(data)
    assert lost.digest in done.err
    assert drilled.releases.older.components["etcd"].digest in done.err
    assert_nothing_published(site)
    drilled.registry.front.forget()
    site.mirror("sync", tmp_path / "prod.yaml")
    assert drilled.registry.front.total == len(lost.body)
    assert_whole(site)


# -- load ----------------------------------------------------------------------------------------------------------


def test_a_part_cut_short(inside: Site, whole: Path, tmp_path: Path) -> None:
    part = tmp_path / "disk" / whole.name
    part.parent.mkdir()
    for percent in CUTS:
        shutil.copy(whole, part)
        os.truncate(part, whole.stat().st_size * percent // 100)
        done = inside.mirror("load", part.parent, code=None)
        assert done.code in (3, 4), (percent, str(done))
        assert part.name in done.err, (percent, str(done))
        assert_nothing_published(inside)
    shutil.copy(whole, part)
    inside.mirror("load", part.parent)
    assert_whole(inside)


def test_a_flipped_bit(make_site: MakeSite, drilled: World, whole: Path, tmp_path: Path) -> None:
    part = tmp_path / "disk" / whole.name
    part.parent.mkdir()
    chance = random.Random(4)
    size = whole.stat().st_size
    for place in (700, size - 2000, *(chance.randrange(size) for _ in range(FLIPS))):
        inside = make_site(f"inside-{place}", None, {"releases": {"keyring": str(drilled.keyring)}})
        shutil.copy(whole, part)
        with part.open("r+b") as file:
            file.seek(place)
            (octet,) = file.read(1)
            file.seek(place)
            file.write(bytes((octet ^ 1 << chance.randrange(8),)))
        done = inside.mirror("load", part.parent, code=None)
        if done.code:  # else it was in what fills a block up, and all content is proven
            assert done.code in (3, 4), (place, str(done))
            assert part.name in done.err or "sha256:" in done.err, (place, str(done))
            assert_nothing_published(inside)
            shutil.copy(whole, part)
            inside.mirror("load", part.parent)
        else:
            assert_whole(inside)
        shutil.rmtree(inside.store)


def carry(parts: Iterable[Path], folder: Path) -> Path:
    """Copy parts into a folder of their own and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        shutil.copy(part, folder)
    return folder


def test_a_missing_part_is_named_and_may_come_later(inside: Site, parts: list[Path], tmp_path: Path) -> None:
    most = carry([parts[0], *parts[2:]], tmp_path / "most")
    done = inside.mirror("load", most, "-o", tmp_path / "missing", code=3)
    assert parts[1].name in done.err
    assert (tmp_path / "missing").exists()
    assert_nothing_published(inside)
    assert [one["state"] for one in inside.mirror("ls", "--json").report["sets"]] == ["incomplete"]
    inside.mirror("load", carry([parts[1]], tmp_path / "rest"))
    assert_whole(inside)


def test_what_is_missing_can_be_saved_again_alone(
    inside: Site, synced: Site, parts: list[Path], tmp_path: Path
) -> None:
    inside.mirror("load", carry(parts[:-1], tmp_path / "most"), "-o", tmp_path / "missing", code=3)
    synced.mirror("save", "prod", "--to", mounted(tmp_path / "again"), "--want", tmp_path / "missing")
    size = sum(one.stat().st_size for one in (tmp_path / "again").glob("*.tar"))
    assert size < parts[-1].stat().st_size + 2 * 2**20
    inside.mirror("load", tmp_path / "again")
    assert_whole(inside)


def test_parts_one_by_one_in_any_order(inside: Site, parts: list[Path], tmp_path: Path) -> None:
    order = random.Random(4).sample(parts, len(parts))
    for number, part in enumerate(order):
        last = number == len(order) - 1
        inside.mirror("load", carry([part], tmp_path / str(number)), code=0 if last else 3)
        if not last:
            assert_nothing_published(inside)
    assert_whole(inside)


def test_a_doubled_part_and_a_second_load_change_nothing(inside: Site, parts: list[Path], tmp_path: Path) -> None:
    inside.mirror("load", carry(parts, tmp_path / "one"), carry(parts[:2], tmp_path / "two"))
    before = {path: path.stat().st_mtime_ns for path in (inside.store / "blobs/sha256").iterdir()}
    inside.mirror("load", tmp_path / "one")
    assert {path: path.stat().st_mtime_ns for path in (inside.store / "blobs/sha256").iterdir()} == before
    assert_whole(inside)


def test_a_foreign_part(
    inside: Site, synced: Site, drilled: World, parts: list[Path], make_site: MakeSite, tmp_path: Path
) -> None:
    # another bastion's first generation of a set of the same name, of another release
    other = make_site("other", drilled)
    wanted = image_set(tmp_path / "prod.yaml", versions=("4.16.20", "4.16.20"))
    other.mirror("sync", wanted)
    other.mirror("save", "prod", "--to", mounted(tmp_path / "foreign"), "--part-size", PART)
    foreign = sorted((tmp_path / "foreign").glob("*.tar"))
    mixed = carry(parts, tmp_path / "mixed")
    shutil.copy(foreign[1], mixed / "foreign.tar")
    done = inside.mirror("load", mixed, code=None)
    assert done.code != 0
    assert "foreign.tar" in done.err, done
    assert_nothing_published(inside)
    ours = Plan.parse((synced.store / "sets/prod/1.json").read_bytes())
    inside.mirror("load", mixed, "--expect", str(ours.digest))
    assert_whole(inside)
    plan = Plan.parse((inside.store / "sets/prod/1.json").read_bytes())
    assert [str(one.digest) for one in plan.releases] == [drilled.releases.older.digest]


def test_another_set_than_expected_is_refused(inside: Site, synced: Site, whole: Path) -> None:
    done = inside.mirror("load", whole.parent, "--expect", "sha256:" + "0" * 64, code=None)
    assert done.code != 0
    assert_nothing_published(inside)
    said = synced.mirror("save", "prod", "--to", mounted(synced.folder / "expected")).out.strip().splitlines()[-1]
    inside.mirror("load", whole.parent, "--expect", said.split()[-1])


def test_load_killed_again_and_again(inside: Site, parts: list[Path], tmp_path: Path) -> None:
    carried = carry(parts, tmp_path / "disk")
    chance = random.Random(4)
    for _turn in range(LOAD_KILLS):
        process = inside.begin("load", carried)
        time.sleep(chance.uniform(0.3, 2.0))
        if process.poll() is not None:
            break
        kill(process)
        current = inside.store / "sets" / "current"
        if current.exists() and b"prod" in current.read_bytes():
            break  # it was complete before its last word
    inside.mirror("load", carried)
    assert_whole(inside)
    leftovers = [path for path in (inside.store / "ingest").iterdir() if path.suffix == ".part"]
    assert not leftovers


# -- size ----------------------------------------------------------------------------------------------------------


def test_no_command_needs_memory_for_what_it_carries(make_site: MakeSite, drilled: World, tmp_path: Path) -> None:
    large = random.Random(4).randbytes(BULK)
    image = images.image([images.layer(images.tree({"srv/noise": large}), compression="none")])
    drilled.registry.stock([Placed("bulk", image, ("latest",)), Placed("tiny", drilled.releases.extra, ("latest",))])
    used: dict[str, list[int]] = {}
    for name in ("tiny", "bulk"):
        bastion = make_site(f"bastion-{name}", drilled)
        inside = make_site(f"inside-{name}")
        wanted = tmp_path / f"{name}.txt"
        wanted.write_text(f"registry.redhat.io/{name}:latest\n")
        disk = tmp_path / f"disk-{name}"
        used[name] = [
            done.memory
            for done in (
                bastion.mirror("sync", wanted),
                bastion.mirror("save", name, "--to", mounted(disk), "--part-size", "24MiB"),
                inside.mirror("load", disk),
                inside.mirror("verify", name, "--deep"),
            )
        ]
    assert max(used["bulk"]) < 200 * 2**20, used
    assert all(bulk - tiny < BULK // 4 for tiny, bulk in zip(used["tiny"], used["bulk"], strict=True)), used


# -- disks that are full -------------------------------------------------------------------------------------------


def context_of(root: Path) -> dict[str, str]:
    """Return what a test wrote down for its scenario, which runs in another process."""
    return dict(line.split("=", 1) for line in (root.parent / "context").read_text().splitlines())


def load_onto_a_small_disk(root: Path) -> None:
    """Load into a store whose disk holds half of the set; then make room and load again."""
    context = context_of(root)
    document = {
        "storage": {"path": str(root / "store"), "keep_free": "0%"},
        "releases": {"keyring": context["keyring"]},
    }
    site = Site(root.parent / "cramped", document)
    site.store = root / "store"
    done = site.mirror("load", context["carried"], code=5)
    assert "free" in done.err, done
    assert_nothing_published(site)
    assert not list((site.store / "blobs").rglob("sha256/*")), "something was written although it cannot fit"
    subprocess.run(["mount", "-o", f"remount,size={context['room']}", str(root)], check=True)
    site.mirror("load", context["carried"])
    assert_whole(site)


def save_onto_small_disks(root: Path) -> None:
    """Save to a disk that holds some parts, carry on with a second disk, and load from both."""
    context = context_of(root)
    bastion = Site.at(Path(context["bastion"]))
    done = bastion.mirror("save", "prod", "--to", mounted(root / "disk"), "--part-size", PART, code=5)
    first = sorted(path.name for path in (root / "disk").glob("*.tar"))
    assert first, done
    second = root.parent / "second"
    bastion.mirror("save", "prod", "--to", mounted(second), "--part-size", PART)
    inside = Site(root.parent / "inside", {"releases": {"keyring": context["keyring"]}})
    inside.mirror("load", root / "disk", second)
    assert_whole(inside)


def sync_onto_a_small_disk(root: Path) -> None:
    """Sync into a store whose disk holds half of the set: nothing moves, unless what fits is asked for."""
    context = context_of(root)
    site = Site.at(Path(context["bastion"]))
    done = site.mirror("sync", context["wanted"], code=5)
    assert "free" in done.out + done.err, done
    before = sum(path.stat().st_size for path in (root / "store/blobs").rglob("*"))
    assert before < 2**20, "something was fetched although it cannot fit"
    site.mirror("sync", context["wanted"], "--partial", code=5)
    assert sum(path.stat().st_size for path in (root / "store/blobs").rglob("*")) > before
    assert_nothing_published(site)


def make_room_at_night(root: Path) -> None:
    """Follow docs/operations.md, The disk is full at night, where one set is most of the store."""
    context = context_of(root)
    document = {
        "storage": {"path": str(root / "store"), "keep_free": "0%"},
        "releases": {"keyring": context["keyring"]},
    }
    site = Site(root.parent / "night", document)
    site.mirror("load", context["carried"])
    with running(site.serving()):
        full = site.mirror("status", "--json", code=1).report
        (degraded,) = (one for one in full["conditions"] if one["type"] == "Degraded")
        assert degraded["reason"] == "StoreFull", full["conditions"]
        site.mirror("unpin", "prod@1", "--now", "--dry-run")
        assert "--yes" in site.mirror("unpin", "prod@1", "--now", code=1).err
        assert_whole(site)
        site.mirror("unpin", "prod@1", "--now", "--yes")
        wait_until(lambda: site.mirror("status", code=None).code == 0, "a status that is well", 30)


def test_room_is_made_at_night(drilled: World, synced: Site, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "context").write_text(f"keyring={drilled.keyring}\ncarried={whole.parent}\n")
    (tmp_path / "root").mkdir()
    on_small_disk(make_room_at_night, tmp_path / "root", str(UNIT + unique_bytes(synced) // 2))


def test_loading_onto_a_full_disk(drilled: World, synced: Site, whole: Path, tmp_path: Path) -> None:
    unique = unique_bytes(synced)
    (tmp_path / "context").write_text(f"keyring={drilled.keyring}\ncarried={whole.parent}\nroom={unique * 2 + 2**24}\n")
    (tmp_path / "root").mkdir()
    on_small_disk(load_onto_a_small_disk, tmp_path / "root", str(unique // 2))


def test_saving_onto_full_disks(drilled: World, synced: Site, tmp_path: Path) -> None:
    (tmp_path / "context").write_text(f"keyring={drilled.keyring}\nbastion={synced.folder}\n")
    (tmp_path / "root").mkdir()
    on_small_disk(save_onto_small_disks, tmp_path / "root", str(unique_bytes(synced) // 2))


def test_a_sync_that_cannot_fit_moves_nothing(drilled: World, synced: Site, tmp_path: Path) -> None:
    site = Site(tmp_path / "bastion", {**drilled.configuration(), "storage": {"path": str(tmp_path / "root/store")}})
    (tmp_path / "context").write_text(f"bastion={site.folder}\nwanted={image_set(tmp_path / 'prod.yaml')}\n")
    (tmp_path / "root").mkdir()
    drilled.registry.front.forget()
    on_small_disk(sync_onto_a_small_disk, tmp_path / "root", str(unique_bytes(synced) // 2))
    assert 0 < drilled.registry.front.total < unique_bytes(synced)


# -- beside a service ----------------------------------------------------------------------------------------------


def test_sync_beside_a_running_service_shares_its_downloads(
    make_site: MakeSite, drilled: World, synced: Site, tmp_path: Path
) -> None:
    site = make_site("shared", drilled)
    front = drilled.registry.front
    front.forget()
    front.rate = unique_bytes(synced) / 16 / 3
    mirror = site.serving()
    try:
        with running(mirror):
            process = site.begin("sync", image_set(tmp_path / "prod.yaml"))
            for name, image in drilled.releases.older.images().items():
                repository = name.partition("@")[0]
                for digest, blob in image.all_blobs().items():
                    assert mirror.get(f"/v2/{repository}/blobs/{digest}")[2] == blob.body
            assert process.wait(60) == 0
    finally:
        front.rate = None
    assert_whole(site)
    assert front.total <= 1.02 * unique_bytes(site)
