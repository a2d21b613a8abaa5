"""A blob through content: fetched once, verified, kept, resumed, never wrong."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mirror.content import fill as fill_module
from mirror.content.answers import ByteRange, RangeUnsatisfiable, Target
from mirror.errors import MirrorError, NotHere, UpstreamInvalid, UpstreamNotFound, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.ingest import Part, PartNote, boot_id
from tests.peers import faults
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room, read

LAB = Target("lab", "team/app", "lab/team/app")
OTHER = Target("lab", "team/other", "lab/team/other")
MIB = 1024 * 1024


async def get(room: Room, digest: Digest, wanted: ByteRange | None = None, target: Target = LAB) -> tuple[str, bytes]:
    answer = room.content.blob_now(target, digest) if wanted is None else None
    if answer is None:
        answer = await room.content.blob(target, digest, wanted)
    return answer.cache, await read(answer)


async def sent(upstream: ScriptedRegistry, size: int) -> None:
    """Wait until upstream was asked for a blob, has sent that much of it and what arrived is being kept."""
    async with asyncio.timeout(20):
        while not upstream.count("blob") or upstream.sent("blob") < size:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)


async def settled(room: Room) -> None:
    """Wait until every fill has been committed."""
    while room.content._fetcher._fills:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("size", [0, 1, 300, 64 * 1024, 64 * 1024 + 1, 5 * MIB])
async def test_fetches_once_and_keeps(make_room: Callable[..., Room], upstream: ScriptedRegistry, size: int) -> None:
    room = make_room()
    content = noise(size)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    assert await get(room, digest) == ("MISS", content)
    await settled(room)
    assert await get(room, digest) == ("HIT", content)
    assert upstream.count("blob", "GET") == 1
    assert room.parts() == []
    path = room.layout.blob(digest)
    assert files.is_sealed(os.stat(path))
    assert Path(path).read_bytes() == content


async def test_many_readers_take_one_fetch(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room()
    content = noise(8 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))

    async def slowly(_: int) -> None:
        await asyncio.sleep(0.002)

    async def one(number: int) -> None:
        answer = await room.content.blob(LAB, digest, None)
        if number % 3 == 0:
            answer.close()
            return
        assert await read(answer, slowly if number % 2 else None) == content

    await asyncio.gather(*(one(number) for number in range(40)))
    await settled(room)
    assert upstream.count("blob", "GET") == 1
    assert upstream.sent("blob") == len(content)


async def test_the_leaving_of_the_first_client_touches_nobody(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    content = noise(4 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    upstream.fail("blob", faults.HangHeaders(0.5), times=1)
    first = asyncio.create_task(room.content.blob(LAB, digest, None))
    await sent(upstream, 0)
    second = asyncio.create_task(room.content.blob(LAB, digest, None))
    await asyncio.sleep(0.05)
    first.cancel()
    answer = await second
    assert answer.cache == "JOINED"
    assert await read(answer) == content
    assert upstream.count("blob", "GET") == 1


@pytest.mark.parametrize("fault", [faults.Truncate(MIB), faults.Truncate(MIB, rst=True), faults.Truncate(0)])
async def test_resumes_where_upstream_stopped(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, fault: faults.Fault
) -> None:
    room = make_room()
    content = noise(3 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    upstream.fail("blob", fault, times=1)
    assert await get(room, digest) == ("MISS", content)
    assert upstream.sent("blob") <= len(content) * 1.1


async def test_an_ignored_range_is_read_over(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room()
    content = noise(3 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    upstream.fail("blob", faults.Truncate(MIB), times=1)
    upstream.fail("blob", faults.IgnoreRange())
    assert await get(room, digest) == ("MISS", content)


@pytest.mark.parametrize("size", [1000, 2 * MIB])
async def test_wrong_bytes_never_reach_a_client_whole(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, size: int
) -> None:
    room = make_room()
    content = noise(size)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    upstream.fail("blob", faults.FlipBit(10))
    got = bytearray()

    async def keep(count: int) -> None:
        got.extend(b"x" * (count - len(got)))

    with pytest.raises(UpstreamInvalid):
        await read(await room.content.blob(LAB, digest, None), keep)
    assert len(got) <= max(0, size - fill_module.HOLD_BACK)
    assert room.stored() == set()
    upstream.heal()
    await settled(room)
    assert await get(room, digest) == ("MISS", content)


async def test_ranges_of_what_is_here(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room()
    content = noise(200_000)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    await get(room, digest)
    await settled(room)
    assert await get(room, digest, ByteRange(10, 19)) == ("HIT", content[10:20])
    assert await get(room, digest, ByteRange(199_000, None)) == ("HIT", content[199_000:])
    assert await get(room, digest, ByteRange(None, 5)) == ("HIT", content[-5:])
    with pytest.raises(RangeUnsatisfiable) as caught:
        await room.content.blob(LAB, digest, ByteRange(200_000, None))
    assert caught.value.total == 200_000


async def test_a_range_far_ahead_is_passed_through(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.content.ahead.WAIT_AHEAD", 0.0)  # how far is far does not hang on how fast it came
    room = make_room()
    content = noise(6 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    upstream.fail("blob", faults.Stall(MIB, 1.0), times=1)
    whole = asyncio.create_task(get(room, digest))
    await sent(upstream, MIB)
    assert await get(room, digest, ByteRange(5 * MIB, 5 * MIB + 99)) == ("BYPASS", content[5 * MIB : 5 * MIB + 100])
    assert await get(room, digest, ByteRange(0, 99)) == ("JOINED", content[:100])
    assert await whole == ("MISS", content)


async def test_a_cold_range_from_zero_starts_the_fill(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    content = noise(3 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    assert await get(room, digest, ByteRange(0, None)) == ("MISS", content)
    await settled(room)
    assert await get(room, digest) == ("HIT", content)


async def test_no_length_is_sent_chunked_and_stored(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room()
    content = noise(MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    upstream.fail("blob", faults.NoLength())
    answer = await room.content.blob(LAB, digest, None)
    assert answer.total is None
    assert await read(answer) == content
    await settled(room)
    assert await get(room, digest) == ("HIT", content)


async def test_another_repository_must_have_the_blob_too(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    content = noise(1000)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    upstream.add_blob("team/other", b"something else")
    await get(room, digest)
    await settled(room)
    with pytest.raises((NotHere, UpstreamNotFound)):
        await room.content.blob(OTHER, digest, None)
    upstream.add_blob("team/other", content)
    asked = upstream.sent("blob")
    assert await get(room, digest, target=OTHER) == ("HIT", content)
    assert upstream.sent("blob") == asked, "its membership is asked for, its bytes are here"


async def test_a_damaged_file_is_put_away_and_fetched_again(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    content = noise(100_000)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    await get(room, digest)
    await settled(room)
    path = Path(room.layout.blob(digest))
    path.chmod(0o640)
    path.write_bytes(content[:50_000])
    assert await get(room, digest) == ("MISS", content)
    assert any(room.layout.quarantine.iterdir())


async def test_an_unsealed_file_is_hashed_and_sealed(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    content = noise(100_000)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    await get(room, digest)
    await settled(room)
    os.utime(room.layout.blob(digest))
    assert await get(room, digest) == ("HIT", content)
    assert files.is_sealed(os.stat(room.layout.blob(digest)))
    assert upstream.count("blob", "GET") == 1


async def test_two_processes_on_one_store_take_one_fetch(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    one, two = make_room(), make_room()
    content = noise(6 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    upstream.fail("blob", faults.Stall(2 * MIB, 0.5), times=1)
    answers = await asyncio.gather(get(one, digest), get(two, digest))
    assert [body for _, body in answers] == [content, content]
    assert sorted(cache for cache, _ in answers) == ["JOINED", "MISS"]
    assert upstream.count("blob", "GET") == 1


async def test_another_process_takes_over_where_the_first_stopped(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    one, two = make_room(), make_room()
    content = noise(6 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    upstream.fail("blob", faults.Stall(3 * MIB, 60), times=1)
    first = asyncio.create_task(get(one, digest))
    await sent(upstream, 3 * MIB)
    second = asyncio.create_task(get(two, digest))
    await asyncio.sleep(0.2)
    await one.content.stop()
    with pytest.raises(MirrorError):
        await first
    assert (await second)[1] == content
    assert upstream.sent("blob") <= len(content) * 1.1


async def test_a_part_left_behind_is_resumed(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    one = make_room()
    content = noise(4 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    upstream.fail("blob", faults.Stall(3 * MIB, 60), times=1)
    first = asyncio.create_task(get(one, digest))
    await sent(upstream, 3 * MIB)
    await one.content.stop()
    with pytest.raises(MirrorError):
        await first
    assert len(one.parts()) == 2
    assert await get(make_room(), digest) == ("MISS", content)
    assert upstream.sent("blob") <= len(content) * 1.1


async def test_a_part_of_another_boot_is_cut_back(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    one = make_room()
    content = noise(2 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    Path(one.layout.part(digest)).write_bytes(content[: MIB // 2] + bytes(MIB))
    Path(one.layout.part_note(digest)).write_text(
        f'{{"size": {len(content)}, "upstream": "lab", "repository": "team/app", '
        f'"boot": "before", "synced": {MIB // 2}, "who": "x"}}'
    )
    assert await get(one, digest) == ("MISS", content)
    assert upstream.sent("blob") == len(content) - MIB // 2


async def test_a_marked_part_of_this_boot_is_committed_without_upstream(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    one = make_room()
    content = noise(MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    part = Path(one.layout.part(digest))
    part.write_bytes(content)
    part.chmod(0o440)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    Path(one.layout.part_note(digest)).write_text(
        f'{{"size": {MIB}, "upstream": "lab", "repository": "team/app", "boot": "{boot}", "synced": 0, "who": ""}}'
    )
    assert (await get(one, digest))[1] == content
    await settled(one)
    assert upstream.count("blob", "GET") == 0
    assert one.stored() == {str(digest)}


async def test_upstream_away_is_said_and_leaves_nothing(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    digest = Digest.parse(upstream.add_blob("team/app", noise(1000)))
    await upstream.stop()
    with pytest.raises(UpstreamUnavailable):
        await room.content.blob(LAB, digest, None)
    assert room.parts() == []


async def test_head_fetches_nothing(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room()
    digest = Digest.parse(upstream.add_blob("team/app", noise(1000)))
    head = await room.content.blob_head(LAB, digest)
    assert (head.size, head.cache) == (1000, "BYPASS")
    assert room.stored() == set()
    await get(room, digest)
    await settled(room)
    head = await room.content.blob_head(LAB, digest)
    assert (head.size, head.cache) == (1000, "HIT")
    assert upstream.count("blob", "HEAD") == 1


@contextmanager
def commits_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let no verified part get its name; the event is set when one waits for it."""
    waits, goes_on = threading.Event(), threading.Event()
    commit = Part.commit

    def late(part: Part) -> None:
        waits.set()
        assert goes_on.wait(20)
        commit(part)

    monkeypatch.setattr(Part, "commit", late)
    try:
        yield waits
    finally:
        goes_on.set()


@pytest.mark.parametrize("wanted", [None, ByteRange(0, 99), ByteRange(MIB, None)])
async def test_what_was_verified_when_a_request_came_is_a_hit(
    make_room: Callable[..., Room],
    upstream: ScriptedRegistry,
    monkeypatch: pytest.MonkeyPatch,
    wanted: ByteRange | None,
) -> None:
    """In this process and in another one, though the file has not got its name yet."""
    room, other = make_room(), make_room()
    content = noise(2 * MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    part = content if wanted is None else content[slice(*wanted.resolve(len(content)))]  # type: ignore[misc]
    with commits_held(monkeypatch) as waits:
        assert await get(room, digest) == ("MISS", content)
        assert await asyncio.to_thread(waits.wait, 20)
        assert room.stored() == set()
        for one in (room, other):
            assert (await one.content.blob_head(LAB, digest)).cache == "HIT"
            assert await get(one, digest, wanted) == ("HIT", part)
    await settled(room)
    assert upstream.count("blob", "GET") == 1


async def test_what_a_killed_process_had_verified_is_a_hit(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    content = noise(MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    left = Part.open(room.layout, digest, create=True)
    assert left is not None
    assert left.try_lock()
    left.write_note(PartNote(len(content), "lab", "team/app", boot_id()))
    left.append(0, [content], digest.hasher())
    left.mark()
    left.close()
    assert await get(room, digest) == ("HIT", content)
    assert upstream.count("blob", "GET") == 0


async def test_a_blob_evicted_the_moment_it_is_committed_is_read_to_its_end(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process commits between this one's look at the part and its try for the lock, and eviction takes it."""
    room = make_room()
    content = noise(MIB)
    digest = Digest.parse(upstream.add_blob("team/app", content))
    other = Part.open(room.layout, digest, create=True)
    assert other is not None
    assert other.try_lock()
    note = PartNote(len(content), "lab", "team/app", boot_id())
    other.write_note(note)
    other.append(0, [content], digest.hasher())
    reading = asyncio.create_task(get(room, digest))
    await asyncio.sleep(0.1)
    try_lock = Part.try_lock

    def finish() -> None:
        other.mark()
        other.commit()
        os.unlink(room.layout.blob(digest))
        other.close()

    def finish_first(part: Part) -> bool:
        finishing = threading.Thread(target=finish)
        if other.fd >= 0:
            finishing.start()
        while finishing.is_alive():
            pass
        return try_lock(part)

    monkeypatch.setattr(Part, "try_lock", finish_first)
    assert await reading == ("JOINED", content)
    assert upstream.count("blob", "GET") == 0
