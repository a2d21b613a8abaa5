"""Disks that are full, failing or read-only, and files that are not what they should be (faults.md 2.2)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.ingest import PartNote, boot_id
from mirror.store.layout import Layout
from tests.faults.invariants import broken, contents, leftovers
from tests.faults.nursery import Child, Nursery
from tests.faults.service import Service
from tests.faults.wire import Got
from tests.peers import faults
from tests.peers.images import Image, digest_of, noise
from tests.peers.scripted import ScriptedRegistry

pytestmark = [pytest.mark.usefixtures("hurried"), pytest.mark.timeout(120)]

LAYER = noise(200_000, 1)
SMALL = noise(900, 2)
NAME = "/v2/lab/team/app"
BLOB, LITTLE, TAG = f"{NAME}/blobs/{digest_of(LAYER)}", f"{NAME}/blobs/{digest_of(SMALL)}", f"{NAME}/manifests/v1"
FULL = os.environ.get("FAULTS") == "full"


@pytest.fixture
def image(upstream: ScriptedRegistry) -> Image:
    return upstream.add_image("team/app", "v1", layers=[LAYER, SMALL])


@pytest.fixture
async def service(upstream: ScriptedRegistry, image: Image, serve: Callable[..., Any]) -> Service:
    return await serve(upstreams(upstream))


def upstreams(upstream: ScriptedRegistry) -> dict[str, dict[str, Any]]:
    return {"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "0s"}}}


def path_of(layout: Layout, content: bytes) -> Path:
    return Path(layout.blob(Digest.parse(digest_of(content))))


async def pulled(service: Service) -> None:
    for target in (TAG, BLOB, LITTLE):
        assert (await service.get(target)).status == 200
    await service.settled()


# -- calls that fail

ERRORS = {
    "write": ("ENOSPC", "EIO"),
    "fsync": ("EIO", "ENOSPC"),
    "rename": ("EIO",),
    "mkdir": ("ENOSPC",),
    "utimensat": ("EIO",),
    "fchmod": ("EIO",),
    "unlink": ("EIO",),
    "flock": ("EIO",),
    "statfs": ("EIO",),
    "getdents64": ("EIO",),
    "pread64": ("EIO",),
    "lseek": ("EIO",),
    "openat": ("EMFILE", "ENOSPC", "EIO", "EROFS") if FULL else ("EMFILE",),
}


@pytest.mark.parametrize(("call", "error"), [(call, error) for call, errors in ERRORS.items() for error in errors])
async def test_calls_that_fail_from_the_nth_on(
    call: str, error: str, nursery: Nursery, upstream: ScriptedRegistry, image: Image, tmp_path: Path
) -> None:
    """No client is failed for want of a store: what cannot be kept is passed through, and nothing bad is kept."""
    truth = {digest_of(one): one for one in (LAYER, SMALL, image.manifest)}
    met = 0
    for number in range(1, 30, 1 if FULL else 3):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        layout, trace = Layout(folder / "store"), folder / "trace"
        child = await nursery.spawn(folder, upstreams(upstream))
        await child.inject(f"{call}:error={error}:when={number}+", trace=trace)
        for _ in range(2):
            for target, content in ((TAG, image.manifest), (BLOB, LAYER)):
                got = await child.get(target)
                if call == "openat":
                    # Out of descriptors is no reason to say "not here", nor is what nobody can open.
                    assert got.status in (200, 503), f"{number}: {got}"
                else:
                    assert got.status == 200, f"{number}: {got}\n{child.log}"
                assert got.status == 503 or (got.clean and got.body == content), (
                    f"{number}: {got.status} {len(got.body)} {got.clean}\n{child.log}"
                )
            await child.quiet(layout, 0.1)
        assert broken(layout, truth.get) == [], f"{number}"
        await child.spare()
        # When the disk is well again so is everything, without a restart.
        for target, content in ((TAG, image.manifest), (BLOB, LAYER), (LITTLE, SMALL)):
            got = await child.get(target)
            assert (got.status, got.clean, got.body == content) == (200, True, True), f"{number}\n{child.log}"
        await child.quiet(layout)
        assert (await child.get(BLOB)).cache == "HIT", f"{number}"
        await child.end(signal.SIGKILL)
        assert broken(layout, truth.get) == []
        if "INJECTED" not in trace.read_text():
            break
        met += 1
    assert met, f"a pull makes no {call}"


@pytest.mark.parametrize("target", [BLOB, LITTLE, TAG])
async def test_cached_content_that_cannot_be_read(
    target: str, nursery: Nursery, upstream: ScriptedRegistry, image: Image, tmp_path: Path
) -> None:
    """It stays where it is, comes from upstream meanwhile, and is a hit as soon as the disk gives it again."""
    content = {BLOB: LAYER, LITTLE: SMALL, TAG: image.manifest}[target]
    child = await nursery.spawn(tmp_path, upstreams(upstream))
    layout = Layout(tmp_path / "store")
    for one in (TAG, target):
        assert (await child.get(one)).clean
        await child.quiet(layout)
    await child.end()
    child = await nursery.spawn(tmp_path, upstreams(upstream))
    await child.inject(
        *(f"{call}:error=EIO" for call in ("pread64", "preadv2", "sendfile")), paths=(str(path_of(layout, content)),)
    )
    got = await child.get(target)
    assert (got.status, got.clean, got.body == content, got.cache) == (200, True, True, "BYPASS")
    await child.spare()
    upstream.forget()
    again = await child.get(target)
    assert (again.status, again.clean, again.body == content, again.cache) == (200, True, True, "HIT")
    assert not list(layout.quarantine.iterdir())
    await child.quiet(layout)
    assert contents(layout)[digest_of(content)]


# -- full, read-only, out of descriptors


async def test_a_full_disk_fails_no_pull(
    nursery: Nursery, upstream: ScriptedRegistry, image: Image, tmp_path: Path
) -> None:
    large = noise(3 << 20, 9)
    digest = upstream.add_blob("team/app", large)
    child = await nursery.spawn(tmp_path, upstreams(upstream), mount="tmpfs size=1m")
    for _ in range(2):
        got = await child.get(f"{NAME}/blobs/{digest}")
        assert (got.status, got.clean, got.body == large, got.cache) == (200, True, True, "BYPASS")
    assert (await child.get(TAG)).body == image.manifest
    # A range of it too, and beside it what does fit.
    got = await child.get(f"{NAME}/blobs/{digest}", headers={"Range": "bytes=1000000-2999999"})
    assert (got.status, got.clean, got.body == large[1_000_000:3_000_000]) == (206, True, True)
    assert (await child.get(BLOB)).body == LAYER
    for _ in range(50):
        if (await child.get(BLOB)).cache == "HIT":
            break
    else:
        pytest.fail("what fits is not kept")
    ready = await child.get("/readyz")
    assert ready.status == 200


async def test_a_small_disk_is_a_cache_of_what_was_used_last(
    nursery: Nursery, upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    layers = [noise(400_000, seed) for seed in range(6)]
    for layer in layers:
        upstream.add_blob("team/app", layer)
    child = await nursery.spawn(tmp_path, upstreams(upstream), mount="tmpfs size=2m")
    words = []
    for layer in layers * 2:
        got = await child.get(f"{NAME}/blobs/{digest_of(layer)}")
        assert (got.status, got.clean, got.body == layer) == (200, True, True)
        words.append(got.cache)
        await asyncio.sleep(0.05)
    assert "BYPASS" not in words, words
    assert (await child.get(f"{NAME}/blobs/{digest_of(layers[-1])}")).cache == "HIT"


async def test_a_disk_that_fills_up_in_the_middle(nursery: Nursery, upstream: ScriptedRegistry, tmp_path: Path) -> None:
    """Somebody else takes the room that was promised: the client's download goes on beside the store."""
    large = noise(3 << 20, 9)
    digest = upstream.add_blob("team/app", large)
    child = await nursery.spawn(tmp_path, upstreams(upstream), mount="tmpfs size=8m")
    upstream.fail("blob", faults.Stall(1 << 20, 0.3), 1)
    pulling = [asyncio.create_task(child.get(f"{NAME}/blobs/{digest}")) for _ in range(3)]
    part = asyncio.create_task(child.get(f"{NAME}/blobs/{digest}", headers={"Range": f"bytes=100-{(2 << 20) - 1}"}))
    there = Path(f"/proc/{child.pid}/root{tmp_path}/store")
    while not [one for one in there.glob("ingest/*.part") if one.stat().st_size]:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(_fill, there / "rubbish")
    for one in pulling:
        got = await one
        assert (got.status, got.clean, got.body == large) == (200, True, True), (got.status, len(got.body), child.log)
    got = await part
    assert got.status == 206
    # A range is cut where the store ends, and asked for again: what came of it is right.
    assert large[100:].startswith(got.body)
    assert not list(there.glob("blobs/*/*"))
    (there / "rubbish").unlink()
    assert (await child.get(f"{NAME}/blobs/{digest}")).body == large


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


async def test_a_disk_without_inodes(
    nursery: Nursery, upstream: ScriptedRegistry, image: Image, tmp_path: Path
) -> None:
    child = await nursery.spawn(tmp_path, upstreams(upstream), mount="tmpfs size=8m,nr_inodes=60")
    there = Path(f"/proc/{child.pid}/root{tmp_path}/store")
    with contextlib.suppress(OSError):
        for number in range(100):
            (there / f"rubbish{number}").touch()
    for target, content in ((TAG, image.manifest), (BLOB, LAYER)) * 2:
        got = await child.get(target)
        assert (got.status, got.clean, got.body == content) == (200, True, True), (got, child.log)


async def test_a_disk_that_becomes_read_only(
    nursery: Nursery, upstream: ScriptedRegistry, image: Image, tmp_path: Path
) -> None:
    """Hits are served, misses passed through, tags still revalidated; when it can be written again, it is."""
    child = await nursery.spawn(tmp_path, upstreams(upstream), mount="tmpfs size=8m")
    assert (await child.get(TAG)).status == 200
    assert (await child.get(BLOB)).clean
    layout = Layout(Path(f"/proc/{child.pid}/root{tmp_path}/store"))
    await child.quiet(layout)

    def remount(how: str) -> None:
        inside = ["nsenter", "-t", str(child.pid), "-m", "mount", "-o", f"remount,{how}", str(tmp_path / "store")]
        subprocess.run(inside, check=True)

    await asyncio.to_thread(remount, "ro")
    for _ in range(2):
        got = await child.get(BLOB)
        assert (got.status, got.clean, got.body == LAYER, got.cache) == (200, True, True, "HIT")
        got = await child.get(TAG)
        assert (got.status, got.body, got.cache) == (200, image.manifest, "HIT")
        got = await child.get(LITTLE)
        assert (got.status, got.body, got.cache) == (200, SMALL, "BYPASS")
    newer = upstream.add_image("team/app", "v1", seed=5)
    got = await child.get(TAG)
    assert (got.status, got.body, got.cache) == (200, newer.manifest, "BYPASS")
    await asyncio.to_thread(remount, "rw")
    assert (await child.get(LITTLE)).body == SMALL
    await child.quiet(layout)
    assert (await child.get(LITTLE)).cache == "HIT"


async def test_out_of_descriptors(nursery: Nursery, upstream: ScriptedRegistry, image: Image, tmp_path: Path) -> None:
    """Clients wait or are told to come again; nothing that is here is ever called absent (Bazel #6126)."""
    child = await nursery.spawn(tmp_path, upstreams(upstream), files=96)
    for target in (TAG, BLOB):
        assert (await child.get(target)).status == 200
    idle = [await asyncio.open_connection(*child.address) for _ in range(90)]
    answers = []
    for target in (TAG, BLOB, LITTLE) * 3:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                answers.append(await child.get(target))
    assert {got.status for got in answers} <= {0, 200, 503}
    for _, writer in idle:
        writer.transport.abort()
    async with asyncio.timeout(5):
        while (await child.get(BLOB)).status != 200:
            await asyncio.sleep(0.05)
    assert (await child.get(LITTLE)).body == SMALL


# -- files that are not what they should be


class TestFiles:
    """What is on the disk decides; nothing that was not looked at is served."""

    @pytest.mark.parametrize("target", [BLOB, LITTLE, TAG])
    @pytest.mark.parametrize(
        "how", ["gone", "empty", "shorter", "longer", "other bytes", "a folder", "a pipe", "a link"]
    )
    async def test_damage(
        self, service: Service, upstream: ScriptedRegistry, image: Image, how: str, target: str
    ) -> None:
        """distribution #3722: one bad blob broke its image for ever. Here it is fetched again."""
        content = {BLOB: LAYER, LITTLE: SMALL, TAG: image.manifest}[target]
        await pulled(service)
        path = path_of(service.room.layout, content)
        self.damage(path, how)
        upstream.forget()
        # What cannot be read stays, and upstream gives it; what has other bytes goes, and is fetched again.
        stays = how in ("a folder", "a pipe", "a link")
        for word in ("BYPASS", "BYPASS") if stays else ("MISS", "HIT"):
            got = await service.get(target)
            assert (got.status, got.clean, got.body == content) == (200, True, True), got
            assert got.cache == word
            await service.settled()
        assert os.path.lexists(path)
        assert stays or broken(service.room.layout) == []
        kept_aside = how != "gone" and not stays
        assert bool(list(service.room.layout.quarantine.glob("*.json"))) == kept_aside

    def damage(self, path: Path, how: str) -> None:
        content = path.read_bytes()
        match how:
            case "empty":
                os.truncate(path, 0)
            case "shorter":
                os.truncate(path, len(content) - 1)
            case "longer":
                with path.open("ab") as file:
                    file.write(b"x")
            case "other bytes":
                with path.open("r+b") as file:
                    file.write(bytes([content[0] ^ 1]))
            case _:
                path.unlink()
                if how == "a folder":
                    path.mkdir()
                elif how == "a pipe":
                    os.mkfifo(path)
                elif how == "a link":
                    path.symlink_to("/etc/passwd")

    @pytest.mark.parametrize("target", [BLOB, LITTLE, TAG])
    async def test_damage_is_final_while_offline(
        self, service: Service, upstream: ScriptedRegistry, image: Image, target: str
    ) -> None:
        """Nobody can give it again: an error says so, and no client gets the bad bytes."""
        content = {BLOB: LAYER, LITTLE: SMALL, TAG: image.manifest}[target]
        await pulled(service)
        self.damage(path_of(service.room.layout, content), "other bytes")
        await upstream.stop()
        for _ in range(2):
            got = await service.get(target)
            assert got.status in (404, 503)
            assert got.clean
            assert got.code

    @pytest.mark.parametrize("what", ["tag", "manifest row", "blob row", "referrers"])
    @pytest.mark.parametrize("how", ["gone", "empty", "rubbish", "huge", "deep", "a link", "a folder"])
    async def test_records(
        self, service: Service, upstream: ScriptedRegistry, image: Image, what: str, how: str
    ) -> None:
        """What is small and derived is asked for again, and written anew; what cannot be read stays as it is."""
        await pulled(service)
        referrers = f"{NAME}/referrers/{image.digest}"
        assert (await service.get(referrers)).status == 200
        layout, name = service.room.layout, "lab/team/app"
        path = Path(
            {
                "tag": layout.tag(name, "v1"),
                "manifest row": layout.manifest(name, Digest.parse(image.digest)),
                "blob row": layout.membership(name, Digest.parse(digest_of(LAYER))),
                "referrers": layout.referrers(name, Digest.parse(image.digest)),
            }[what]
        )
        path.unlink()
        match how:
            case "empty":
                path.touch()
            case "rubbish":
                path.write_bytes(b'{"digest": "sha256:..", "mediaType": 7, "size": -1}\xff')
            case "huge":
                path.write_bytes(b"[" * (1 << 20))
            case "deep":
                path.write_bytes(b"[" * 3000)
            case "a link":
                path.symlink_to("/etc/passwd")
            case "a folder":
                path.mkdir()
        for target, content in ((TAG, image.manifest), (BLOB, LAYER)):
            got = await service.get(target)
            assert (got.status, got.clean, got.body == content) == (200, True, True), (target, got)
        assert (await service.get(referrers)).status == 200
        assert path.is_symlink() == (how == "a link")
        assert path.is_dir() == (how == "a folder")

    async def test_a_link_in_place_of_a_download(self, service: Service, tmp_path: Path) -> None:
        """Nothing outside the store is ever written through one."""
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        layout = service.room.layout
        digest = Digest.parse(digest_of(LAYER))
        for path in (Path(layout.part(digest)), Path(layout.part_note(digest))):
            path.symlink_to(victim)
        got = await service.get(BLOB)
        assert (got.status, got.clean, got.body == LAYER) == (200, True, True)
        assert victim.read_bytes() == b"precious"

    async def test_files_from_elsewhere_are_looked_at_before_they_are_served(
        self, service: Service, upstream: ScriptedRegistry, image: Image
    ) -> None:
        """rsync without times, or a restored backup: verified once, sealed, and served without upstream's bytes."""
        assert (await service.get(TAG)).status == 200
        layout = service.room.layout
        good, bad = path_of(layout, LAYER), path_of(layout, SMALL)
        good.write_bytes(LAYER)
        bad.write_bytes(SMALL[::-1])
        upstream.forget()
        got = await service.get(BLOB)
        assert (got.body == LAYER, got.cache) == (True, "HIT")
        assert files.is_sealed(os.lstat(good))
        got = await service.get(LITTLE)
        assert (got.body == SMALL, got.cache) == (True, "MISS")
        assert upstream.sent("blob") == len(SMALL)

    async def test_a_tag_from_the_future_is_not_fresh_for_ever(
        self, upstream: ScriptedRegistry, image: Image, serve: Callable[..., Any]
    ) -> None:
        """The clock was set back: what was checked tomorrow is checked again today."""
        service = await serve({"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "1h"}}})
        assert (await service.get(TAG)).status == 200
        path = Path(service.room.layout.tag("lab/team/app", "v1"))
        record = json.loads(path.read_bytes())
        for checked in (time.time() + 10**7, 1e300, -5.0):
            files.write_atomically(str(path), json.dumps({**record, "checked": checked}).encode(), durable=False)
            newer = upstream.add_image("team/app", "v1", seed=int(checked % 97))
            assert (await service.get(TAG)).body == newer.manifest


class TestAnotherBoot:
    """After a power cut only what was brought to the disk counts."""

    @pytest.mark.parametrize("marked", [False, True])
    @pytest.mark.parametrize("synced", [0, 100_000])
    async def test_a_download_goes_on_from_what_was_synced(
        self, service: Service, upstream: ScriptedRegistry, synced: int, marked: bool
    ) -> None:
        layout, digest = service.room.layout, Digest.parse(digest_of(LAYER))
        # What came after the last sync may be anything: here zeros, as file systems leave them.
        size = len(LAYER) if marked else 150_000
        Path(layout.part(digest)).write_bytes(LAYER[:synced] + bytes(size - synced))
        if marked:
            Path(layout.part(digest)).chmod(files.SEALED_MODE)
        note = PartNote(len(LAYER), "lab", "team/app", "another boot", synced, "x")
        Path(layout.part_note(digest)).write_bytes(note.dump())
        got = await service.get(BLOB)
        assert (got.status, got.clean, got.body == LAYER) == (200, True, True)
        await service.settled()
        assert upstream.sent("blob") == len(LAYER) - synced
        assert contents(layout) == {str(digest): True}
        assert leftovers(layout) == []

    async def test_of_this_boot_it_goes_on_from_its_end(self, service: Service, upstream: ScriptedRegistry) -> None:
        layout, digest = service.room.layout, Digest.parse(digest_of(LAYER))
        Path(layout.part(digest)).write_bytes(LAYER[:150_000])
        Path(layout.part_note(digest)).write_bytes(PartNote(len(LAYER), "lab", "team/app", boot_id()).dump())
        assert (await service.get(BLOB)).body == LAYER
        assert upstream.sent("blob") == 50_000

    async def test_without_a_note_it_begins_anew(self, service: Service, upstream: ScriptedRegistry) -> None:
        layout, digest = service.room.layout, Digest.parse(digest_of(LAYER))
        Path(layout.part(digest)).write_bytes(bytes(150_000))
        assert (await service.get(BLOB)).body == LAYER
        assert upstream.sent("blob") == len(LAYER)

    async def test_bad_bytes_of_this_boot_cost_one_pull(self, service: Service, events: list[Any]) -> None:
        """They are found by the digest, put aside, and the next pull is right."""
        layout, digest = service.room.layout, Digest.parse(digest_of(LAYER))
        Path(layout.part(digest)).write_bytes(bytes(150_000))
        Path(layout.part_note(digest)).write_bytes(PartNote(len(LAYER), "lab", "team/app", boot_id()).dump())
        first = await service.get(BLOB)
        assert not first.clean or first.body == LAYER
        await service.settled()
        assert "digest_mismatch" in [event["event"] for event in events]
        assert (await service.get(BLOB)).body == LAYER


class TestIndex:
    """It holds sizes and times of use, and no client ever waits for it or depends on it."""

    @pytest.mark.parametrize("how", ["gone", "rubbish", "empty", "newer", "a folder"])
    async def test_lost(self, service: Service, image: Image, how: str) -> None:
        await pulled(service)
        index = service.room.layout.index
        database = index / "cache.db"
        await asyncio.to_thread(service.room.index.flush)
        match how:
            case "gone":
                shutil.rmtree(index)
            case "rubbish":
                database.write_bytes(b"no database" * 1000)
            case "empty":
                database.write_bytes(b"")
            case "newer":
                with contextlib.closing(sqlite3.connect(database)) as connection:
                    connection.execute("PRAGMA user_version = 99")
            case "a folder":
                for one in index.iterdir():
                    one.unlink()
                database.mkdir()
        for target, content in ((TAG, image.manifest), (BLOB, LAYER), (LITTLE, SMALL)):
            got = await service.get(target)
            assert (got.status, got.body == content, got.cache) == (200, True, "HIT")
        other = noise(5000, 8)
        assert other != content

    async def test_locked_by_somebody_else(self, service: Service, image: Image) -> None:
        await pulled(service)
        database = service.room.layout.index / "cache.db"
        await asyncio.to_thread(service.room.index.flush)
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            async with asyncio.timeout(2):
                for target, content in ((TAG, image.manifest), (BLOB, LAYER), (LITTLE, SMALL)):
                    got = await service.get(target)
                    assert (got.status, got.body == content, got.cache) == (200, True, "HIT")
            connection.execute("ROLLBACK")


async def test_a_lock_that_somebody_holds_for_ever(service: Service, image: Image) -> None:
    """A process that hangs with a tag's lock: who knows the tag gets it as stale, nobody hangs with it."""
    await pulled(service)
    held = []
    for path in service.room.layout.locks.iterdir():
        file = path.open("rb")
        fcntl.flock(file, fcntl.LOCK_EX)
        held.append(file)
    got = await service.get(TAG)
    assert (got.status, got.cache, got.body) == (200, "STALE", image.manifest)
    for file in held:
        file.close()
    async with asyncio.timeout(5):
        while (await service.get(TAG)).cache != "HIT":
            await asyncio.sleep(0.01)


async def _both(one: Child, other: Child, target: str) -> tuple[Got, Got]:
    first, second = await asyncio.gather(one.get(target), other.get(target))
    return first, second


async def test_two_processes(nursery: Nursery, upstream: ScriptedRegistry, image: Image, tmp_path: Path) -> None:
    """One fetches, the other reads along; a manifest and a tag are asked for once."""
    one = await nursery.spawn(tmp_path, {"lab": {"endpoints": [upstream.url]}})
    other = await nursery.spawn(tmp_path, {"lab": {"endpoints": [upstream.url]}})
    upstream.fail("blob", faults.Drip(20_000, 0.02), 1)
    for target, content in ((TAG, image.manifest), (BLOB, LAYER)):
        for got in await _both(one, other, target):
            assert (got.status, got.clean, got.body == content) == (200, True, True)
    assert upstream.count("blob", "GET") == 1
    assert upstream.count("manifest", "GET") == 1
    # A tag that one process has moved is moved for the other.
    await one.quiet(Layout(tmp_path / "store"))
    assert (await other.get(BLOB)).cache == "HIT"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
async def test_a_process_that_ends_in_the_middle_is_taken_over_from(
    nursery: Nursery, upstream: ScriptedRegistry, tmp_path: Path, number: int
) -> None:
    content = noise(2 << 20, 5)
    digest = upstream.add_blob("team/app", content)
    one = await nursery.spawn(tmp_path, {"lab": {"endpoints": [upstream.url]}})
    other = await nursery.spawn(tmp_path, {"lab": {"endpoints": [upstream.url]}}, patience=2.0)
    upstream.fail("blob", faults.Drip(100_000, 0.05), 1)
    first = asyncio.create_task(one.get(f"{NAME}/blobs/{digest}"))
    layout = Layout(tmp_path / "store")
    while not [part for part in layout.ingest.glob("*.part") if part.stat().st_size > 500_000]:
        await asyncio.sleep(0.01)
    second = asyncio.create_task(other.get(f"{NAME}/blobs/{digest}"))
    await asyncio.sleep(0.1)
    os.kill(one.pid, number)
    got = await second
    if number == signal.SIGKILL:
        assert (got.status, got.clean, got.body == content) == (200, True, True)
        assert upstream.sent("blob") <= len(content) * 1.1
        assert not (await first).clean
    else:
        # Nobody can tell a slow holder from one that hangs: its readers are cut, and get it later.
        assert not got.clean
        assert content.startswith(got.body)
        os.kill(one.pid, signal.SIGCONT)
        first.cancel()
        again = await other.get(f"{NAME}/blobs/{digest}")
        assert (again.status, again.clean, again.body == content) == (200, True, True)
    await other.quiet(layout)
    assert broken(layout) == []
