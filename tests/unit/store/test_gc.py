"""Garbage collection: everything dead goes, nothing that anything names, whatever is pushed meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import CollectionStopped, ManifestBlobUnknown, NotHere, NotYet, StoreError, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import gc, ingest
from mirror.store.faults import DISK_FAULTS
from mirror.store.gc_lock import GcLock
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.marked import Marked
from mirror.store.uploads import AGE
from tests.peers.images import noise
from tests.unit.content.hosted_bed import NOWHERE, Shelf, about, image, index, referrers
from tests.unit.content.push_bed import APP, OTHER, pieces


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    opened = Shelf(tmp_path)
    yield opened
    await opened.close()


async def collected(shelf: Shelf, *, dry_run: bool = False) -> dict[str, int]:
    """Collect garbage and return what went."""
    return (await asyncio.to_thread(lambda: shelf.collect(dry_run=dry_run)))[1]


async def test_what_nothing_names_goes(shelf: Shelf) -> None:
    body = await shelf.image(1, "v1")
    spare, other = noise(3000, 7), noise(40, 8)
    await shelf.blob(spare)
    await shelf.blob(other, OTHER)
    assert await collected(shelf) == {}, "it may be named yet"
    shelf.age()
    wanted = {str(Digest.of(spare)): 3000, str(Digest.of(other)): 40}
    assert await collected(shelf, dry_run=True) == wanted
    assert set(wanted) < shelf.stored()
    total, gone = await asyncio.to_thread(shelf.collect)
    assert gone == wanted
    assert (total.contents, total.bytes, total.rows) == (2, 3040, 2)
    assert shelf.stored() == shelf.marked() == {str(Digest.of(one)) for one in (body, b"{}", noise(500, 1))}
    assert (await shelf.pull("v1")).body == body
    with pytest.raises(NotHere):
        await shelf.content.blob_head(APP, Digest.of(spare))
    assert not os.path.exists(shelf.layout.membership(APP.name, Digest.of(spare)))
    assert await collected(shelf) == {}


@pytest.mark.parametrize("count", [2, gc.FEW])
async def test_content_whose_folder_is_away_is_no_garbage(shelf: Shelf, count: int) -> None:
    for seed in range(count):
        await shelf.blob(noise(100, seed))
    shelf.age()
    marked, away, folder = shelf.marked(), shelf.layout.root.with_name("away"), shelf.layout.blobs / "sha256"
    folder.rename(away)
    with pytest.raises(CollectionStopped, match=rf"{count} of {count} contents that were pushed are not here"):
        await asyncio.to_thread(shelf.collect, yes=False)
    assert shelf.marked() == marked
    away.rename(folder)
    assert shelf.stored() == marked


@pytest.mark.parametrize("yes", [True, False])
@pytest.mark.parametrize("folder", ["blobs", "repositories", "sets", "hosted"])
async def test_a_folder_that_every_store_has_is_away_and_not_empty(shelf: Shelf, folder: str, yes: bool) -> None:
    await shelf.image(1, "v1")
    shelf.age()
    stored, marked, away = shelf.stored(), shelf.marked(), shelf.layout.root.with_name("away")
    (shelf.layout.root / folder).rename(away)
    with pytest.raises(StoreUnreadable, match=rf"/{folder}\b"):
        await asyncio.to_thread(shelf.collect, yes=yes)
    away.rename(shelf.layout.root / folder)
    assert (shelf.stored(), shelf.marked()) == (stored, marked)


async def test_what_a_pull_brings_again_meanwhile_is_none_of_the_repository(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a purge of what was pulled would leave it for the repository's sake, which does not keep it."""
    layer = noise(700, 1)
    await shelf.blob(layer)
    await shelf.blob(layer, OTHER)
    shelf.age()
    real = gc.Collector._take

    def take(self: gc.Collector, *arguments: Any) -> None:
        real(self, *arguments)
        ingest.store_bytes(shelf.layout, Digest.of(layer), layer)
        shelf.pushes.rows.add_brought("quay.io/team/app", Digest.of(layer))

    monkeypatch.setattr(gc.Collector, "_take", take)
    total, gone = await asyncio.to_thread(shelf.collect)
    assert (set(gone), total.rows) == ({str(Digest.of(layer))}, 2)
    assert shelf.stored() == {str(Digest.of(layer))}
    (row,) = shelf.layout.repositories.glob("**/_blobs/*/*")
    assert row.is_relative_to(shelf.layout.repositories / "quay.io/team/app")


async def test_deleting_and_collecting_frees_an_image(shelf: Shelf) -> None:
    first, second = await shelf.image(1, "v1"), await shelf.image(2, "v1")
    signature = image(**about(Digest.of(first)))
    await shelf.manifest(signature)
    shelf.age()
    assert await collected(shelf) == {}, "manifests stay without a tag, and as what a tag meant"
    await shelf.hosted.delete_manifest(APP, Digest.of(first), "ci")
    assert set(await collected(shelf)) == {str(Digest.of(first)), str(Digest.of(noise(500, 1)))}
    assert (await shelf.pull("v1")).body == second
    assert [entry["digest"] for entry in await referrers(shelf, Digest.of(first))] == [str(Digest.of(signature))]
    await shelf.hosted.delete_manifest(APP, Digest.of(second), "ci")
    await shelf.hosted.delete_manifest(APP, Digest.of(signature), "ci")
    await collected(shelf)
    assert shelf.stored() == shelf.marked() == set()
    assert list(shelf.layout.repositories.glob("**/_blobs/*/*")) == []


async def test_what_an_index_names_stays(shelf: Shelf) -> None:
    first = await shelf.image(1)
    await shelf.manifest(index(first), "all")
    await shelf.hosted.delete_manifest(APP, Digest.of(first), "ci")
    shelf.age()
    assert set(await collected(shelf)) == {str(Digest.of(noise(500, 1))), str(Digest.of(b"{}"))}
    assert str(Digest.of(first)) in shelf.stored()


async def test_content_of_other_names_stays(shelf: Shelf) -> None:
    """A proxied repository and an image set keep what they name, and have their own ways to let it go."""
    layer, pinned = noise(700, 1), noise(700, 2)
    await shelf.blob(layer)
    await shelf.blob(pinned)
    body = image(layer)
    proxied = "quay.io/team/app"
    blob = Path(shelf.layout.blob(Digest.of(body)))
    blob.write_bytes(body)
    shelf.pushes.rows.add_manifest(proxied, Digest.of(body), json.loads(body)["mediaType"], len(body))
    shelf.pushes.rows.add_brought(proxied, NOWHERE)
    plan = {"manifests": [], "blobs": [{"digest": str(Digest.of(pinned)), "size": 700}]}
    path = shelf.layout.generation("prod", 1)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(plan))
    shelf.age()
    assert await collected(shelf) == {}
    assert shelf.pushes.rows.is_member(proxied, NOWHERE), "what is evicted stays a member"
    shutil.rmtree(path.parent)
    assert set(await collected(shelf)) == {str(Digest.of(pinned))}
    await shelf.blob(pinned)
    shelf.age()
    path.parent.mkdir()
    path.write_text("damaged")
    with pytest.raises(StoreError):
        await collected(shelf)
    assert str(Digest.of(pinned)) in shelf.stored()


async def test_cache_is_not_touched(shelf: Shelf) -> None:
    path = Path(shelf.layout.blob(NOWHERE))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"nowhere")
    shelf.age()
    assert await collected(shelf) == {}
    assert path.exists()


@pytest.mark.parametrize("damage", [b"", b"{}", b"not json", None], ids=["empty", "another", "no JSON", "lost"])
async def test_a_manifest_that_cannot_be_read_keeps_all_of_its_repository(shelf: Shelf, damage: bytes | None) -> None:
    body = await shelf.image(1, "v1")
    await shelf.blob(noise(30, 2))
    await shelf.blob(noise(30, 3), OTHER)
    path = Path(shelf.layout.blob(Digest.of(body)))
    if damage is None:
        path.unlink()
    else:
        path.chmod(0o600)
        path.write_bytes(damage)
    shelf.age()
    assert set(await collected(shelf)) == {str(Digest.of(noise(30, 3)))}


async def test_the_rows_of_a_repository_stay_where_a_tag_does_not_say_what_it_means(shelf: Shelf) -> None:
    body = await shelf.image(1, "v1")
    os.unlink(shelf.layout.blob(Digest.of(body)))
    tag, row = Path(shelf.layout.tag(APP.name, "v1")), Path(shelf.layout.manifest(APP.name, Digest.of(body)))
    tag.write_bytes(b"")
    shelf.age()
    assert (await asyncio.to_thread(shelf.collect))[0].rows == 0
    assert row.exists()
    await shelf.hosted.delete_tag(APP, "v1", "ci")
    assert (await asyncio.to_thread(shelf.collect))[0].rows == 1


async def test_what_pushes_left_that_were_cut_off(shelf: Shelf) -> None:
    layout = shelf.layout
    shelf.pushes.hosted.add(NOWHERE)
    shelf.pushes.rows.add_pushed(APP.name, NOWHERE, 3)
    body = await shelf.image(1, "v1")
    lost, tagged = await shelf.image(2), await shelf.image(3, "lost")
    for one in (lost, tagged):
        os.unlink(layout.blob(Digest.of(one)))
    dangling = Digest.of(b"never came")
    shelf.hosted._manifests._referrers.add(APP.name, NOWHERE, dangling, b"{}")
    total, _ = await asyncio.to_thread(shelf.collect)
    assert (total.markers, total.rows) == (0, 2), "a push may be under way; what is lost, and a referrer, are not"
    shelf.age()
    dry, _ = await asyncio.to_thread(lambda: shelf.collect(dry_run=True))
    total, gone = await asyncio.to_thread(shelf.collect)
    assert gone == {}, "what a lost manifest named is kept as long as a tag asks for it"
    assert total.markers == dry.markers == 1  # of the manifest whose row went
    assert list(layout.pushed_referrers(APP.name).glob("*/*/*")) == []
    assert (await shelf.pull("v1")).body == body
    # A tag is left with its row: what is lost may come back from a backup.
    assert os.path.exists(layout.manifest(APP.name, Digest.of(tagged)))
    assert not os.path.exists(layout.manifest(APP.name, Digest.of(lost)))
    await shelf.hosted.delete_tag(APP, "lost", "ci")
    assert (await asyncio.to_thread(shelf.collect))[0].rows == 1
    total, gone = await asyncio.to_thread(shelf.collect)
    assert gone == {str(Digest.of(noise(500, 2))): 500, str(Digest.of(noise(500, 3))): 500}
    assert total.markers == 2  # NOWHERE, and the manifest
    assert not shelf.pushes.hosted.has(NOWHERE)


async def test_uploads_that_nobody_goes_on_with(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    state = await shelf.pushes.uploads.begin(APP, "ci")
    await shelf.pushes.uploads.append(APP, state.id, pieces(b"x" * 10_000))
    assert (await asyncio.to_thread(shelf.collect))[0].uploads == 0
    assert shelf.pushes.under_way() != []
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + AGE + 60)
    dry, _ = await asyncio.to_thread(lambda: shelf.collect(dry_run=True))
    assert dry.uploads >= 10_000
    assert shelf.pushes.under_way() != []
    assert (await asyncio.to_thread(shelf.collect))[0].uploads >= 10_000
    assert shelf.pushes.under_way() == []


async def test_many_markers_are_looked_at_in_shares(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "_SHARE", 4)
    for seed in range(10):
        await shelf.blob(noise(50, seed))
    await shelf.image(77, "v1")
    kept = shelf.stored() - {str(Digest.of(noise(50, seed))) for seed in range(10)}
    shelf.age()
    assert len(await collected(shelf)) == 10
    assert shelf.stored() == shelf.marked() == kept


async def test_only_one_at_a_time(shelf: Shelf) -> None:
    with FileLock(shelf.layout.lock("gc run")), pytest.raises(NotYet):
        shelf.collect()


# -- while others push -----------------------------------------------------------------------------------------------


class Between:
    """Does something at a point of a collection, which runs in a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, *, before: bool = False) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        real = getattr(gc.Collector, method)

        def stop(collector: gc.Collector, *args: Any, **more: Any) -> Any:
            found = real(collector, *args, **more) if not before else None
            self.reached.set()
            assert self.go_on.wait(20)
            return real(collector, *args, **more) if before else found

        monkeypatch.setattr(gc.Collector, method, stop)

    async def run(self, shelf: Shelf, meanwhile: Callable[[], Any]) -> set[str]:
        running = asyncio.create_task(collected(shelf))
        assert await asyncio.to_thread(self.reached.wait, 20)
        try:
            await meanwhile()
        finally:
            self.go_on.set()
        return set(await running)


@pytest.mark.parametrize("point", ["before it reads", "before it takes"])
async def test_what_is_named_meanwhile_stays(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    layer, again = noise(500, 1), noise(90, 2)
    for content in (layer, again, noise(50, 3), b"{}"):
        await shelf.blob(content)
    shelf.age()
    between = Between(monkeypatch, "_unnamed", before=point == "before it reads")

    async def push() -> None:
        await shelf.manifest(image(layer), "v1")
        await shelf.blob(again, OTHER)

    assert await between.run(shelf, push) == {str(Digest.of(noise(50, 3)))}
    assert (await shelf.pull("v1")).body == image(layer)
    assert (await shelf.content.blob_head(APP, Digest.of(layer))).size == 500
    assert (await shelf.content.blob_head(OTHER, Digest.of(again))).size == 90


@pytest.mark.parametrize("looked", ["before it", "while it takes"])
async def test_what_is_collected_is_not_missed_whoever_notes_the_markers_meanwhile(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, looked: str
) -> None:
    for seed in range(4):
        await shelf.blob(noise(50, seed))
    shelf.age()
    marked = Marked(shelf.layout)
    if looked == "before it":
        # As where there are very many: they are not counted again for a while.
        monkeypatch.setattr("mirror.store.marked._FEW", 0)
        monkeypatch.setattr("mirror.store.marked._SHARE", 1e9)
        assert marked.is_whole()
        assert len(await collected(shelf)) == 4
        marked.keep_up()
    else:

        async def note() -> None:
            await asyncio.to_thread(marked.keep_up)

        assert len(await Between(monkeypatch, "_take", before=True).run(shelf, note)) == 4
    assert Marked(shelf.layout).is_whole()
    Marked(shelf.layout).keep_up()
    assert not shelf.pushes.hosted.has(Digest.of(b"never pushed"))


async def test_what_is_pinned_meanwhile_stays(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = noise(500, 1)
    digest = await shelf.blob(layer)
    shelf.age()
    between = Between(monkeypatch, "_unnamed")

    async def pin() -> None:
        plan = {"manifests": [], "blobs": [{"digest": str(digest), "size": 500}]}
        path = shelf.layout.generation("prod", 1)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(plan))

    assert await between.run(shelf, pin) == set()
    assert str(digest) in shelf.stored()


async def test_a_push_under_way_is_waited_for(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has found its blobs here, and garbage collection begins before its row is written."""
    layer = noise(500, 1)
    for content in (layer, b"{}"):
        await shelf.blob(content)
    shelf.age()
    claimed, go_on = threading.Event(), threading.Event()
    store = shelf.hosted._manifests
    keep = store._keep

    def stop(pushed: Any) -> None:
        # As if the renewed markers had been old already: the lock alone must do.
        shelf.age()
        claimed.set()
        assert go_on.wait(20)
        keep(pushed)

    monkeypatch.setattr(store, "_keep", stop)
    pushing = asyncio.create_task(shelf.manifest(image(layer), "v1"))
    assert await asyncio.to_thread(claimed.wait, 20)
    running = asyncio.create_task(collected(shelf))
    await asyncio.sleep(0.1)
    assert not running.done()
    go_on.set()
    await pushing
    assert await running == {}
    assert (await shelf.content.blob_head(APP, Digest.of(layer))).size == 500


async def test_a_push_of_what_is_just_gone_is_refused(shelf: Shelf) -> None:
    layer = noise(500, 1)
    await shelf.blob(layer)
    shelf.age()
    await collected(shelf)
    await shelf.blob(b"{}")
    with pytest.raises(ManifestBlobUnknown):
        await shelf.manifest(image(layer), "v1")
    await shelf.blob(layer)
    await shelf.manifest(image(layer), "v1")


@pytest.mark.parametrize("point", ["marker", "row"])
async def test_a_blob_that_is_just_pushed_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """The upload is finished step by step; the steps fall on both sides of the removal."""
    layer = noise(500, 1)
    digest = await shelf.blob(layer)
    shelf.age()
    between = Between(monkeypatch, "_unnamed")
    reached, go_on = threading.Event(), threading.Event()
    step = {"marker": (shelf.pushes.hosted, "add"), "row": (shelf.pushes.rows, "add_pushed")}[point]
    real = getattr(*step)

    def stop(*args: Any) -> None:
        real(*args)
        reached.set()
        assert go_on.wait(20)

    pushing: list[asyncio.Task[Any]] = []

    async def push() -> None:
        monkeypatch.setattr(*step, stop)
        pushing.append(asyncio.create_task(shelf.blob(layer)))
        assert await asyncio.to_thread(reached.wait, 20)

    assert await between.run(shelf, push) == set()
    go_on.set()
    await pushing[0]
    assert (await shelf.content.blob_head(APP, digest)).size == 500
    assert shelf.pushes.hosted.has(digest)


async def test_the_row_of_a_blob_that_is_just_pushed_stays(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = noise(500, 1)
    shelf.pushes.rows.add_pushed(APP.name, Digest.of(layer), 500)
    between = Between(monkeypatch, "_is_gone")
    await between.run(shelf, lambda: shelf.blob(layer))
    assert (await shelf.content.blob_head(APP, Digest.of(layer))).size == 500


async def test_the_row_of_a_manifest_that_is_just_pushed_stays(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    body = await shelf.image(1)
    os.unlink(shelf.layout.blob(Digest.of(body)))
    between = Between(monkeypatch, "_tagged")
    await between.run(shelf, lambda: shelf.manifest(body))
    assert (await shelf.pull(Digest.of(body))).body == body


async def test_a_deletion_sees_what_is_pushed_meanwhile(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob's deletion has read all manifests, and one that names it comes before the blob goes."""
    layer = noise(500, 1)
    for content in (layer, b"{}"):
        await shelf.blob(content)
    store, loop = shelf.hosted._manifests, asyncio.get_running_loop()
    removing = store._lock.removing

    def late(*args: Any) -> Any:
        asyncio.run_coroutine_threadsafe(shelf.manifest(image(layer), "v1"), loop).result(20)
        return removing(*args)

    monkeypatch.setattr(store._lock, "removing", late)
    with pytest.raises(Exception, match="names this blob"):
        await shelf.hosted.delete_blob(APP, Digest.of(layer), "ci")
    assert (await shelf.pull("v1")).body == image(layer)


def test_pushes_do_not_keep_garbage_collection_out(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.locks.mkdir(parents=True)
    lock = GcLock(layout)
    ended = threading.Event()
    active = 0
    guard = threading.Lock()
    wrong = []

    def push() -> None:
        nonlocal active
        while not ended.is_set():
            with lock.pushing():
                with guard:
                    active += 1
                time.sleep(0.002)
                with guard:
                    active -= 1

    threads = [threading.Thread(target=push) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            with lock.removing(10):
                if active:
                    wrong.append(active)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_the_lock_is_given_up_on(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.locks.mkdir(parents=True)
    lock = GcLock(layout)
    with lock.removing():
        with pytest.raises(NotYet), lock.pushing(0.02):
            pass
        with pytest.raises(NotYet), lock.removing(0.02):
            pass
    with lock.pushing():
        with lock.pushing(0.02):
            pass
        with pytest.raises(NotYet), lock.removing(0.02):
            pass
    with lock.removing():
        pass


@pytest.mark.parametrize("place", ["", "/_manifests", "/_tags"])
@pytest.mark.parametrize("kind", ["file", "pipe"])
async def test_what_is_in_the_place_of_a_folder_does_not_make_garbage(shelf: Shelf, place: str, kind: str) -> None:
    body = await shelf.image(1, "v1")
    for seed in range(30, 70):
        await shelf.image(seed, f"v{seed}", OTHER)
    shelf.age()
    stored, folder = shelf.stored(), Path(f"{shelf.layout.repositories / APP.name}{place}")
    away = shelf.layout.root.with_name("away")
    folder.rename(away)
    folder.touch() if kind == "file" else os.mkfifo(folder)
    with pytest.raises(StoreUnreadable, match="Not a directory"):
        await asyncio.to_thread(shelf.collect, yes=False)
    DISK_FAULTS.retry()
    assert DISK_FAULTS.told(), "it is still there"
    folder.unlink()
    away.rename(folder)
    DISK_FAULTS.retry()
    assert (shelf.stored(), DISK_FAULTS.told()) == (stored, [])
    assert (await shelf.pull("v1")).body == body


async def test_what_a_tag_means_is_kept_though_its_row_is_lost(shelf: Shelf) -> None:
    body = await shelf.image(1, "v1")
    for seed in range(30, 70):
        await shelf.image(seed, f"v{seed}", OTHER)
    shelf.age()
    stored = shelf.stored()
    shutil.rmtree(shelf.layout.manifests(APP.name))
    assert await collected(shelf) == {}
    assert shelf.stored() == stored
    await shelf.manifest(body, "v1")
    assert (await shelf.pull("v1")).body == body
