"""A sync gives way to what others download, and to nobody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from mirror.content.answers import Target
from mirror.content.courtesy import Courtesy
from mirror.oci.digest import Digest
from mirror.store.ingest import Part, PartNote, boot_id
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room

LAB = Target("lab", "team/app", "lab/team/app")
MIB = 1024 * 1024


def begin(room: Room, seed: int, who: str, upstream: str = "lab") -> Part:
    """Hold a download as another process does."""
    part = Part.open(room.layout, Digest.of(noise(10, seed)), create=True)
    assert part is not None
    assert part.try_lock()
    part.write_note(PartNote(100, upstream, "team/app", boot_id(), 0, who))
    return part


async def busy(room: Room) -> set[str]:
    courtesy = Courtesy(room.layout, room.readers)
    found = set()
    for name in ("lab", "quay.io"):
        began = time.monotonic()
        await courtesy.after_piece(name, 0.1)
        if time.monotonic() - began > 0.25:
            found.add(name)
    return found


async def test_downloads_of_a_service_are_given_way_to(make_room: Callable[..., Room]) -> None:
    room = make_room()
    assert await busy(room) == set()
    part = begin(room, 1, "a1b2-0")
    assert await busy(room) == {"lab"}
    part.close()
    assert await busy(room) == set(), "a download that nobody fills any more"


async def test_other_syncs_are_not_given_way_to(make_room: Callable[..., Room]) -> None:
    room = make_room()
    part = begin(room, 1, "sync 4711")
    assert await busy(room) == set()
    part.close()


async def test_only_the_same_upstream_is_given_way_on(make_room: Callable[..., Room]) -> None:
    room = make_room()
    part = begin(room, 1, "a1b2-0", "quay.io")
    assert await busy(room) == {"quay.io"}
    part.close()


async def test_a_new_download_waits_until_the_node_has_its_own(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    node, sync = make_room(), make_room(courteous=True)
    content = noise(MIB, 7)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    part = begin(node, 1, "a1b2-0")
    keeping = asyncio.create_task(sync.content.bring.keep(LAB, digest, len(content)))
    await asyncio.sleep(0.5)
    assert upstream.count("blob", "GET") == 0
    part.close()
    assert await keeping
    assert upstream.count("blob", "GET") == 1
