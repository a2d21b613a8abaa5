"""Markers of what was pushed: what is told by them, and how they come back where they are lost."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mirror.content.garbage import hosted_by
from mirror.errors import StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import marked as marked_module
from mirror.store.hosted import Hosted
from mirror.store.ingest import store_bytes
from mirror.store.layout import Layout
from mirror.store.marked import Marked
from mirror.store.marking import mark_if_lost
from mirror.store.probe import prepare
from tests.peers.images import noise
from tests.unit.content.hosted_bed import Shelf

ONE, OTHER = Digest.of(b"one"), Digest.of(b"other")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "store")
    prepare(layout)
    return layout


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    opened = Shelf(tmp_path)
    yield opened
    await opened.close()


async def mark_again(shelf: Shelf) -> None:
    """Do what housekeeping does, and each command that works in the store."""
    is_hosted = hosted_by(shelf.content.resolve)
    await asyncio.to_thread(lambda: sum(mark_if_lost(shelf.layout, Marked(shelf.layout), is_hosted)))


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def restore(layout: Layout) -> None:
    """Copy the folder as a backup would have had it before the last push."""
    (layout.hosted / "sha256").rename(layout.hosted / "old")
    (layout.hosted / "sha256").mkdir()
    (layout.hosted / "sha256" / OTHER.hex).touch()
    shutil.rmtree(layout.hosted / "old")


def halve(layout: Layout) -> None:
    for path in sorted((layout.hosted / "sha256").iterdir())[::2]:
        path.unlink()


LOSSES: list[Callable[[Layout], None]] = [
    lambda layout: empty(layout.hosted),
    lambda layout: empty(layout.hosted / "sha256"),
    lambda layout: shutil.rmtree(layout.hosted / "sha256"),
    lambda layout: (layout.run / "marked").write_bytes(b""),
    restore,
    halve,
]


def test_a_new_store_has_all_of_its_markers(layout: Layout) -> None:
    hosted = Hosted(layout)
    assert not hosted.has(ONE)
    hosted.add(ONE)
    assert (hosted.has(ONE), hosted.has(OTHER)) == (True, False)
    (layout.hosted / "sha256" / ONE.hex).unlink()
    with pytest.raises(StoreUnreadable):
        hosted.has(ONE)  # the first one is missed, too
    hosted.add(ONE)
    hosted.add(OTHER)
    assert hosted.has(OTHER)


@pytest.mark.parametrize("lose", LOSSES)
def test_what_may_have_lost_its_marker_is_not_said_to_have_none(layout: Layout, lose: Callable[[Layout], None]) -> None:
    hosted = Hosted(layout)
    hosted.add(ONE)
    Marked(layout).keep_up()
    assert not hosted.has(OTHER)
    lose(layout)
    for one in (hosted, Hosted(layout)):
        with pytest.raises(StoreUnreadable, match="not all that was pushed has its marker"):
            one.has(Digest.of(b"a third"))


@pytest.mark.parametrize("lose", [LOSSES[0], LOSSES[2], restore])
def test_a_folder_that_is_another_one_is_looked_at_however_long_that_takes(
    layout: Layout, lose: Callable[[Layout], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes into a folder of very many is counted now and then; that it is gone shows at once."""
    monkeypatch.setattr(marked_module, "_FEW", 0)
    monkeypatch.setattr(marked_module, "_SHARE", 1e9)
    hosted = Hosted(layout)
    hosted.add(ONE)
    Marked(layout).keep_up()
    assert not hosted.has(OTHER)
    lose(layout)
    with pytest.raises(StoreUnreadable, match="not all that was pushed has its marker"):
        hosted.has(Digest.of(b"a third"))


def test_a_store_of_an_earlier_release_has_to_be_looked_at_first(layout: Layout) -> None:
    hosted = Hosted(layout)
    hosted.add(ONE)
    (layout.run / "marked").unlink()
    assert hosted.has(ONE)
    with pytest.raises(StoreUnreadable):
        hosted.has(OTHER)


@pytest.mark.parametrize("lose", LOSSES)
async def test_markers_come_back_from_what_repositories_have(shelf: Shelf, lose: Callable[[Layout], None]) -> None:
    for seed in range(3):
        await shelf.image(seed, f"v{seed}")
    spare = await shelf.blob(noise(300, 9))
    marked = shelf.marked()
    assert str(spare) in marked
    await mark_again(shelf)
    lose(shelf.layout)
    eviction = shelf.room.space.eviction
    assert await asyncio.to_thread(eviction.free, 10**9) == 0
    with pytest.raises(StoreUnreadable):
        await asyncio.to_thread(eviction.delete, [Digest.of(b"a third")])
    with pytest.raises(StoreUnreadable):
        await asyncio.to_thread(shelf.collect, yes=True)
    await mark_again(shelf)
    assert shelf.marked() >= marked
    assert await asyncio.to_thread(eviction.free, 10**9) == 0
    assert shelf.stored() == marked


async def test_a_manifest_that_cannot_be_read_keeps_what_it_names(shelf: Shelf) -> None:
    body = await shelf.image(1, "v1")
    marked = shelf.marked()
    path = Path(shelf.layout.blob(Digest.of(body)))
    os.chmod(path, 0o600)
    path.write_bytes(b"rubbish")
    empty(shelf.layout.hosted)
    await mark_again(shelf)
    assert shelf.marked() == marked


async def test_what_was_lost_with_its_marker_stays_when_it_comes_again(shelf: Shelf) -> None:
    """A layer that a disk lost, and that a pull through another repository brings back: found by the model."""
    body = await shelf.image(1, "v1")
    layer = Digest.parse(json.loads(body)["layers"][0]["digest"])
    path = Path(shelf.layout.blob(layer))
    content, stored = path.read_bytes(), shelf.stored()
    await mark_again(shelf)
    path.unlink()
    empty(shelf.layout.hosted)
    await mark_again(shelf)
    store_bytes(shelf.layout, layer, content)
    assert await asyncio.to_thread(shelf.room.space.eviction.free, 10**9) == 0
    assert shelf.stored() == stored


async def test_garbage_collection_may_take_the_last_marker(shelf: Shelf) -> None:
    spare = await shelf.blob(noise(300, 9))
    await mark_again(shelf)
    shelf.age()
    _, gone = await asyncio.to_thread(shelf.collect)
    assert set(gone) == {str(spare)}
    assert not await asyncio.to_thread(Hosted(shelf.layout).has, spare)


async def test_who_removes_markers_while_they_are_made_anew_is_noticed(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow `rm -r` goes on behind the one who marks: then not all is there that was just made."""
    for seed in range(3):
        await shelf.image(seed, f"v{seed}")
    await mark_again(shelf)
    marked, real = shelf.marked(), Hosted.mark_again
    empty(shelf.layout.hosted)
    made: list[Digest] = []

    def mark_and_lose(self: Hosted, digest: Digest) -> bool:
        found = real(self, digest)
        made.append(digest)
        if len(made) == len(marked):
            empty(shelf.layout.hosted)
        return found

    monkeypatch.setattr(Hosted, "mark_again", mark_and_lose)
    await mark_again(shelf)
    await mark_again(shelf)
    assert shelf.marked() == marked
