"""Manifests under many tags that are deleted: gone at once, carried out behind the answer, and after a kill.

What is not done yet is held up by a tag that another process is moving.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from mirror.content import deletions
from mirror.content.immutable import Immutable
from mirror.errors import ManifestBlobUnknown, NotHere
from mirror.oci.digest import Digest
from mirror.store.deletions import Deletion, Deletions
from mirror.store.lock import FileLock
from tests.faults.invariants import broken
from tests.peers.images import noise
from tests.unit.content.hosted_bed import Open, Shelf, image, index
from tests.unit.content.push_bed import APP

LAYER = noise(500, 1)
BODY = image(LAYER)
DIGEST = Digest.of(BODY)
TAGS = ("a", "b", "c")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions, "_PATIENCE", 0)
    monkeypatch.setattr(deletions, "_BATCH", 1)


@dataclass
class Going:
    """Two processes, of which the first deletes a manifest and has forgotten all of its tags but one, which is locked.

    `told` is what both tell of deletions that are done.
    """

    shelf: Shelf
    other: Shelf
    lock: FileLock
    told: list[tuple[str, Digest, str, str, int]] = field(default_factory=list)

    @property
    def tags(self) -> set[str]:
        return set(os.listdir(self.shelf.layout.tags(APP.name)))

    async def begin(self) -> None:
        await self.shelf.hosted.delete_manifest(APP, DIGEST, "ci", "192.0.2.1")
        await until(lambda: self.tags == {"c"})

    async def end(self) -> None:
        """Let the tag be free, and wait until the deletion is over."""
        self.lock.release()
        await until(lambda: Deletions(self.shelf.layout).list() == [])
        assert not os.path.exists(self.shelf.layout.manifest(APP.name, DIGEST))
        assert broken(self.shelf.layout) == []
        assert self.told == [(APP.name, DIGEST, "ci", "192.0.2.1", 3)]

    async def assert_gone(self, *references: str | Digest) -> None:
        for reader in (self.shelf, self.other):
            for reference in references:
                with pytest.raises(NotHere):
                    await reader.pull(reference)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def going(open_shelf: Open) -> AsyncIterator[Going]:
    shelf, other = open_shelf(), open_shelf(immutable=Immutable((f"{APP.name}:*",)))
    made = Going(shelf, other, shelf.hosted._locks.file("tag", f"{APP.name}:c"))
    for one in (shelf, other):
        one.hosted.deletions.told = lambda *said: made.told.append(said)
    await shelf.blob(LAYER)
    await shelf.blob(b"{}")
    for tag in TAGS:
        await shelf.manifest(BODY, tag)
        for reader in (shelf, other):
            await reader.pull(tag)  # so that it is remembered
    assert made.lock.try_acquire()
    await made.begin()
    yield made
    made.lock.release()
    await shelf.hosted.deletions.stop()
    await other.hosted.deletions.stop()


async def test_all_of_it_is_gone_at_once_in_every_process(going: Going, open_shelf: Open) -> None:
    await going.assert_gone(*TAGS, DIGEST)
    await going.assert_gone(*TAGS, DIGEST)
    with pytest.raises(NotHere):
        await open_shelf().pull("c")
    assert going.told == []
    assert broken(going.shelf.layout) == []
    await going.end()
    await going.assert_gone(*TAGS, DIGEST)


async def deleted_again(shelf: Shelf) -> None:
    await shelf.hosted.delete_manifest(APP, DIGEST, "ci")


async def rolled_back(shelf: Shelf) -> None:
    await shelf.hosted.rollback(APP, "b", DIGEST, "ci")


async def named(shelf: Shelf) -> None:
    await shelf.manifest(index(BODY), "all")


@pytest.mark.parametrize(
    ("work", "error"), [(deleted_again, NotHere), (rolled_back, NotHere), (named, ManifestBlobUnknown)]
)
async def test_whoever_needs_it_is_told_that_it_is_not_here(
    going: Going, work: Callable[[Shelf], Awaitable[None]], error: type[Exception]
) -> None:
    for shelf in (going.shelf, going.other):
        with pytest.raises(error):
            await work(shelf)


async def test_its_blobs_may_be_deleted(going: Going) -> None:
    await going.shelf.hosted.delete_blob(APP, Digest.of(LAYER), "ci")


@pytest.mark.parametrize("resumed_by", ["other", "push"])
async def test_what_is_cut_off_is_carried_out_by_whoever_comes(going: Going, resumed_by: str) -> None:
    """And is told once, with the tags that had gone before."""
    await going.shelf.hosted.deletions.stop()
    await going.assert_gone(*TAGS, DIGEST)
    going.lock.release()
    if resumed_by == "other":
        await going.other.hosted.deletions.resume()
    else:
        await going.other.manifest(BODY, "new")
        assert (await going.shelf.pull("new")).body == BODY
        await going.assert_gone(*TAGS)
        await going.shelf.hosted.delete_tag(APP, "new", "ci")
        assert len(going.told) == 1
        return
    await going.end()
    await going.assert_gone(*TAGS, DIGEST)


async def test_a_push_of_the_same_manifest_revives_no_tag_and_is_not_lost(going: Going) -> None:
    pushing = [asyncio.create_task(one.manifest(BODY, tag)) for one, tag in ((going.shelf, "b"), (going.other, "new"))]
    await asyncio.wait(pushing, timeout=0.1)
    assert not any(one.done() for one in pushing)
    await going.assert_gone(*TAGS, DIGEST)
    going.lock.release()
    await asyncio.gather(*pushing)
    for reader in (going.shelf, going.other):
        for reference in ("b", "new", DIGEST):
            assert (await reader.pull(reference)).body == BODY
    await going.assert_gone("a", "c")
    await asyncio.sleep(0.05)
    assert going.tags == {"b", "new"}
    assert len(going.told) == 1


@pytest.mark.parametrize("tag", ["a", "c"], ids=["forgotten-already", "not-yet"])
async def test_a_tag_that_is_moved_meanwhile_keeps_what_it_means(going: Going, tag: str) -> None:
    """Although it is immutable: it means nothing any more."""
    second = image(LAYER, annotations={"n": "2"})
    if tag == "c":
        await going.shelf.hosted.deletions.stop()
        going.lock.release()
    await going.other.manifest(second, tag)
    if tag == "c":
        await going.shelf.hosted.deletions.resume()
    else:
        await going.end()
    for reader in (going.shelf, going.other):
        assert (await reader.pull(tag)).body == second
    assert dict(await going.shelf.hosted.history(APP))[tag].history == ()
    await going.assert_gone(DIGEST)


async def test_a_note_that_makes_no_sense_still_hides_and_ends(going: Going) -> None:
    await going.shelf.hosted.deletions.stop()
    path = going.shelf.layout.deletion(APP.name, DIGEST)
    with open(path, "wb"):
        pass
    await going.assert_gone(*TAGS, DIGEST)
    going.lock.release()
    await going.other.hosted.deletions.resume()  # which cannot know what it is about
    assert os.path.exists(path)
    await going.other.manifest(BODY, "new")
    assert not os.path.exists(path)
    await going.assert_gone(*TAGS)


async def test_one_that_cannot_be_carried_out_stops_no_other(going: Going, monkeypatch: pytest.MonkeyPatch) -> None:
    await going.shelf.hosted.deletions.stop()
    going.lock.release()
    resuming, ill = going.other.hosted.deletions, Deletion(APP.name, Digest.of(b"ill"))
    notes = Deletions(going.shelf.layout)
    notes.write(ill)
    carry_out = resuming._carry_out

    async def fail(name: str, digest: Digest) -> None:
        if digest == ill.digest:
            raise OSError(errno.EIO, "no")
        await carry_out(name, digest)

    monkeypatch.setattr(resuming, "_carry_out", fail)
    monkeypatch.setattr(resuming._notes, "list", lambda: [ill, Deletion(APP.name, DIGEST)])
    with pytest.raises(OSError, match="no"):
        await resuming.resume()
    assert notes.list() == [ill]
    notes.remove(ill)
    await going.end()
