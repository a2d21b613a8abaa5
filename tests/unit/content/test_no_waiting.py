"""What a reader of a growing blob does not wait for: upstream's next bytes, and the disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from mirror.content import pull
from mirror.content.answers import Target
from mirror.errors import UpstreamInvalid
from mirror.oci.digest import Digest
from mirror.store.ingest import Part, PartNote
from tests.peers import faults
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room, read

LAB = Target("lab", "team/app", "lab/team/app")
MIB = 1024 * 1024


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what must be set before bytes reach the disk in the middle of a download."""
    released = threading.Event()
    sync = Part.sync

    def wait_and_sync(part: Part, position: int, note: PartNote) -> None:
        assert released.wait(20)
        sync(part, position, note)

    monkeypatch.setattr(Part, "sync", wait_and_sync)
    monkeypatch.setattr(pull, "_SYNC_EVERY", MIB)
    return released


async def settled(room: Room) -> None:
    while room.content._fetcher._fills:
        await asyncio.sleep(0.01)


async def test_what_came_is_readable_while_upstream_pauses(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    content = noise(2 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    upstream.fail("blob", faults.Stall(at=MIB), times=1)
    answer = await room.content.blob(LAB, digest, None)
    assert answer.file is not None
    async with asyncio.timeout(5):
        position = 0
        while position < MIB:
            position = await answer.file.more(position)
    assert answer.file.read(0, MIB) == content[:MIB]
    answer.close()


async def test_the_end_of_a_blob_does_not_wait_for_the_disk(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, disk: threading.Event
) -> None:
    room = make_room()
    content = noise(8 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    answer = await room.content.blob(LAB, digest, None)
    try:
        async with asyncio.timeout(10):
            assert await read(answer) == content
        assert room.stored() == set()
    finally:
        disk.set()
    await settled(room)
    assert room.stored() == {str(digest)}
    assert room.parts() == []


async def test_bad_content_leaves_no_promise_behind(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, disk: threading.Event
) -> None:
    room = make_room()
    digest = Digest.parse(upstream.add_blob("team/app", noise(8 * MIB)))
    upstream.fail("blob", faults.FlipBit(10))
    answer = await room.content.blob(LAB, digest, None)
    reading = asyncio.create_task(read(answer))
    while len(upstream.requests) < 1 or upstream.sent("blob") < 8 * MIB:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    disk.set()
    with pytest.raises(UpstreamInvalid):
        await reading
    await settled(room)
    assert room.stored() == set()
    assert room.parts() == []
