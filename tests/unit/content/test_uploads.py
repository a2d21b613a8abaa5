"""Pushes over several requests: what is kept of one that breaks off or is refused, and what a finished one means."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.content import receive
from mirror.content import uploads as uploads_module
from mirror.content.answers import Quota, Target
from mirror.content.members import Members
from mirror.content.quotas import Quotas
from mirror.errors import (
    DigestMismatch,
    MirrorError,
    NotYet,
    RangeOutOfOrder,
    SizeMismatch,
    StoreError,
    StoreFull,
    TooLarge,
    UploadUnknown,
)
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.upload import Upload
from tests.unit.content.conftest import read
from tests.unit.content.push_bed import APP, OTHER, Pushes, make_room, pieces

BODY = os.urandom(3_000_000)
DIGEST = Digest.of(BODY)
EMPTY = Digest.of(b"")
PROXIED = Target("lab", "org/app", "lab/org/app")


class BrokenOff(Exception):
    """What the face raises where a client is gone."""


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Pushes]]:
    """Return a function that opens the store, each time as another process would."""
    opened: list[Pushes] = []

    def open_one(document: dict[str, Any] | None = None, **more: Any) -> Pushes:
        opened.append(Pushes(make_room(tmp_path, document), **more))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()
        await one.room.close()


@pytest.fixture
def pushes(make: Callable[..., Pushes]) -> Pushes:
    return make()


async def begun(pushes: Pushes, *parts: bytes) -> str:
    state = await pushes.uploads.begin(APP, "ci")
    if parts:
        await pushes.uploads.append(APP, state.id, pieces(*parts))
    return state.id


async def pulled(pushes: Pushes, target: Target, digest: Digest) -> bytes:
    return await read(await pushes.room.content.blob(target, digest, None))


# -- what becomes a blob


async def test_a_blob_in_pieces_is_here_for_good(pushes: Pushes) -> None:
    state = await pushes.uploads.begin(APP, "ci")
    assert state.offset == 0
    state = await pushes.uploads.append(APP, state.id, pieces(BODY[:1_000_000]), 0, 1_000_000)
    assert state.offset == 1_000_000
    state = await pushes.uploads.append(APP, state.id, pieces(BODY[1_000_000:1_000_001], BODY[1_000_001:2_500_000]))
    assert (await pushes.uploads.state(APP, state.id)).offset == 2_500_000
    size = await pushes.uploads.finish(APP, state.id, DIGEST, pieces(BODY[2_500_000:]), 2_500_000, 500_000)
    assert size == len(BODY)
    assert await pulled(pushes, APP, DIGEST) == BODY
    assert files.is_sealed(os.stat(pushes.layout.blob(DIGEST)))
    assert pushes.hosted.has(DIGEST)
    row = pushes.rows.member(APP.name, DIGEST)
    assert row is not None
    assert row.size == len(BODY)
    assert pushes.under_way() == []
    assert pushes.room.space.promised() == 0
    pushes.room.index.flush()
    assert [entry.digest for entry in pushes.room.index.oldest(10, None)] == [DIGEST]
    with pytest.raises(MirrorError):
        await pulled(pushes, OTHER, DIGEST)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("body", [b"", b"x", BODY], ids=["empty", "one", "large"])
async def test_whole_blobs(pushes: Pushes, algorithm: str, body: bytes) -> None:
    digest = Digest.of(body, algorithm)
    for length in (None, len(body)):
        assert await pushes.uploads.put_whole(APP, digest, pieces(body), length, "ci") == len(body)
    assert await pulled(pushes, APP, digest) == body
    assert pushes.under_way() == []


async def test_an_upload_without_a_byte_is_the_empty_blob(pushes: Pushes) -> None:
    assert await pushes.uploads.finish(APP, await begun(pushes), EMPTY) == 0
    assert await pulled(pushes, APP, EMPTY) == b""
    with pytest.raises(DigestMismatch):
        await pushes.uploads.finish(APP, await begun(pushes), DIGEST)


async def test_a_digest_of_another_algorithm_than_was_expected(pushes: Pushes) -> None:
    state = await pushes.uploads.begin(APP, "ci", "sha512")
    await pushes.uploads.append(APP, state.id, pieces(BODY[:2_000_000]))
    await pushes.uploads.finish(APP, state.id, DIGEST, pieces(BODY[2_000_000:]))
    identity = await begun(pushes, BODY)
    await pushes.uploads.finish(APP, identity, Digest.of(BODY, "sha512"))
    assert await pulled(pushes, APP, Digest.of(BODY, "sha512")) == BODY


async def test_pushing_what_is_here_heals_it(pushes: Pushes) -> None:
    await pushes.uploads.put_whole(APP, DIGEST, pieces(BODY), None, "ci")
    path = Path(pushes.layout.blob(DIGEST))
    path.chmod(0o600)
    path.write_bytes(b"rotten")
    await pushes.uploads.put_whole(APP, DIGEST, pieces(BODY), None, "ci")
    assert await pulled(pushes, APP, DIGEST) == BODY


@pytest.mark.parametrize("whole", [True, False])
async def test_wrong_bytes_are_dropped(pushes: Pushes, whole: bool) -> None:
    if whole:
        pushing = pushes.uploads.put_whole(APP, DIGEST, pieces(b"other"), 5, "ci")
    else:
        pushing = pushes.uploads.finish(APP, await begun(pushes, b"oth"), DIGEST, pieces(b"er"), 3, 2)
    with pytest.raises(DigestMismatch, match=f"{Digest.of(b'other')}, not to {DIGEST}"):
        await pushing
    assert pushes.under_way() == []
    assert pushes.room.stored() == set()
    assert not pushes.hosted.has(DIGEST)
    assert pushes.rows.member(APP.name, DIGEST) is None


# -- going on


async def test_what_came_before_the_end_is_kept(pushes: Pushes) -> None:
    state = await pushes.uploads.begin(APP, "ci")
    with pytest.raises(BrokenOff):
        await pushes.uploads.append(APP, state.id, pieces(BODY[:2_000_000], BODY[2_000_000:2_000_007], BrokenOff()))
    assert (await pushes.uploads.state(APP, state.id)).offset == 2_000_007
    assert pushes.room.space.promised() == 0
    with pytest.raises(BrokenOff):
        await pushes.uploads.finish(APP, state.id, DIGEST, pieces(BODY[2_000_007:2_100_000], BrokenOff()), 2_000_007)
    assert (await pushes.uploads.state(APP, state.id)).offset == 2_100_000
    await pushes.uploads.finish(APP, state.id, DIGEST, pieces(BODY[2_100_000:]))
    assert await pulled(pushes, APP, DIGEST) == BODY


async def test_nothing_stays_of_one_request_that_breaks_off(pushes: Pushes) -> None:
    with pytest.raises(BrokenOff):
        await pushes.uploads.put_whole(APP, DIGEST, pieces(BODY[:2_000_000], BrokenOff()), len(BODY), "ci")
    assert pushes.under_way() == []


async def test_another_process_goes_on(make: Callable[..., Pushes]) -> None:
    first, second = make(), make()
    identity = await begun(first, BODY[:1_000_000])
    await second.uploads.append(APP, identity, pieces(BODY[1_000_000:1_500_000]))
    await first.uploads.append(APP, identity, pieces(BODY[1_500_000:2_000_000]))
    await second.uploads.append(APP, identity, pieces(BODY[2_000_000:2_100_000]))
    assert await make().uploads.finish(APP, identity, DIGEST, pieces(BODY[2_100_000:])) == len(BODY)
    assert await pulled(second, APP, DIGEST) == BODY


async def test_only_what_this_process_did_not_take_in_is_read_again(
    make: Callable[..., Pushes], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_again: list[tuple[int, int]] = []
    hashing = Upload.hash

    def noted(self: Upload, hasher: Any, start: int, stop: int) -> None:
        read_again.append((start, stop))
        hashing(self, hasher, start, stop)

    monkeypatch.setattr(Upload, "hash", noted)
    first, second = make(), make()
    identity = await begun(first, BODY[:1_000_000])
    await first.uploads.append(APP, identity, pieces(BODY[1_000_000:2_000_000]))
    assert read_again == []
    await second.uploads.append(APP, identity, pieces(BODY[2_000_000:2_500_000]))
    assert read_again == [(0, 2_000_000)]
    await first.uploads.finish(APP, identity, DIGEST, pieces(BODY[2_500_000:]))
    assert read_again == [(0, 2_000_000), (2_000_000, 2_500_000)]


async def test_out_of_order_is_refused_with_the_offset(pushes: Pushes) -> None:
    identity = await begun(pushes, BODY[:1000])
    for start in (0, 999, 1001, 10**18):
        for pushing in (
            pushes.uploads.append(APP, identity, never(), start, 10),
            pushes.uploads.finish(APP, identity, DIGEST, never(), start, 10),
        ):
            with pytest.raises(RangeOutOfOrder) as caught:
                await pushing
            assert caught.value.offset == 1000
    assert (await pushes.uploads.state(APP, identity)).offset == 1000


async def never() -> AsyncIterator[bytes]:
    pytest.fail("the body is asked for although it is refused")
    yield b""


@pytest.mark.parametrize("parts", [[b"123456"], [b"123", b"456"], [b"12"], [], [BODY, b"1"], [BODY[:-1]]])
async def test_another_length_than_was_said_changes_nothing(pushes: Pushes, parts: list[bytes]) -> None:
    identity = await begun(pushes, b"abc")
    length = len(BODY) if sum(map(len, parts)) > 100 else 5
    for _ in range(2):
        with pytest.raises(SizeMismatch):
            await pushes.uploads.append(APP, identity, pieces(*parts), 3, length)
        assert (await pushes.uploads.state(APP, identity)).offset == 3
    await pushes.uploads.finish(APP, identity, Digest.of(b"abcdefgh"), pieces(b"defgh"), 3, 5)
    assert pushes.room.space.promised() == 0


@pytest.mark.parametrize("ask", ["append", "finish", "state", "cancel"])
async def test_there_is_no_such_upload(pushes: Pushes, ask: str) -> None:
    identity = await begun(pushes)
    calls: dict[str, Callable[[Target, str], Any]] = {
        "append": lambda target, name: pushes.uploads.append(target, name, never()),
        "finish": lambda target, name: pushes.uploads.finish(target, name, DIGEST, never()),
        "state": pushes.uploads.state,
        "cancel": pushes.uploads.cancel,
    }
    for target, name in ((OTHER, identity), (APP, "../format"), (APP, "0" * 36)):
        with pytest.raises(UploadUnknown):
            await calls[ask](target, name)
    await pushes.uploads.cancel(APP, identity)
    with pytest.raises(UploadUnknown):
        await calls[ask](APP, identity)
    assert pushes.under_way() == []


# -- two at once


async def test_two_clients_on_one_upload(make: Callable[..., Pushes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads_module, "_PATIENCE", 0.1)
    first, second = make(), make()
    identity = await begun(first, b"abc")
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"def"
        arrived.set()
        await go_on.wait()
        yield b"ghi"

    sending = asyncio.create_task(first.uploads.append(APP, identity, slow()))
    await arrived.wait()
    for other in (first, second):
        with pytest.raises(NotYet, match="another request"):
            await other.uploads.append(APP, identity, never())
        with pytest.raises(NotYet):
            await other.uploads.finish(APP, identity, DIGEST)
        with pytest.raises(NotYet):
            await other.uploads.cancel(APP, identity)
        assert 3 <= (await other.uploads.state(APP, identity)).offset <= 6
    go_on.set()
    assert (await sending).offset == 9
    assert (await second.uploads.finish(APP, identity, Digest.of(b"abcdefghi"))) == 9


async def test_a_client_that_comes_back_at_once_waits_for_its_own_end(pushes: Pushes) -> None:
    identity = await begun(pushes)

    async def breaks_off_soon() -> AsyncIterator[bytes]:
        yield b"abc"
        await asyncio.sleep(0.2)
        raise BrokenOff

    first = asyncio.create_task(pushes.uploads.append(APP, identity, breaks_off_soon()))
    await asyncio.sleep(0.05)
    assert (await pushes.uploads.state(APP, identity)).offset == 3
    with pytest.raises(BrokenOff):
        await first


async def test_a_request_that_is_cancelled_keeps_what_came_and_lets_go(pushes: Pushes) -> None:
    identity = await begun(pushes)
    arrived = asyncio.Event()

    async def hangs() -> AsyncIterator[bytes]:
        yield BODY[:1_000_000]
        arrived.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(pushes.uploads.append(APP, identity, hangs()))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await pushes.uploads.state(APP, identity)).offset == 1_000_000
    await pushes.uploads.finish(APP, identity, DIGEST, pieces(BODY[1_000_000:]))


async def test_cancelled_at_any_moment_nothing_stays_locked(pushes: Pushes) -> None:
    for turn in range(40):
        identity = await begun(pushes, b"abc")
        task = asyncio.create_task(pushes.uploads.append(APP, identity, pieces(BODY)))
        await asyncio.sleep(turn / 4000)
        task.cancel()
        await asyncio.wait([task])
        offset = (await pushes.uploads.state(APP, identity)).offset
        expected = Digest.of(b"abc" + BODY[: offset - 3])
        assert await pushes.uploads.finish(APP, identity, expected) == offset
    assert pushes.under_way() == []


async def test_many_pushes_at_once(make: Callable[..., Pushes]) -> None:
    processes = [make(), make()]
    bodies = [os.urandom(200_000 + number) for number in range(24)]

    async def push(number: int, body: bytes) -> None:
        uploads = processes[number % 2].uploads
        if number % 3 == 0:
            await uploads.put_whole(APP, Digest.of(body), pieces(body[:1], body[1:]), len(body), "ci")
            return
        state = await uploads.begin(APP, "ci")
        await uploads.append(APP, state.id, pieces(body[:100_000]))
        await processes[(number + 1) % 2].uploads.finish(APP, state.id, Digest.of(body), pieces(body[100_000:]))

    await asyncio.gather(*(push(number, body) for number, body in enumerate(bodies * 2)))
    for body in bodies:
        assert await pulled(processes[0], APP, Digest.of(body)) == body
    assert processes[0].under_way() == []


# -- what may not be


@pytest.mark.parametrize("length", [2001, 10**15])
async def test_a_length_that_is_too_much_is_refused_before_the_first_byte(
    make: Callable[..., Pushes], length: int
) -> None:
    pushes = make(blob_limit=3000)
    identity = await begun(pushes, bytes(1000))
    with pytest.raises(TooLarge, match=r"3000 bytes.*limits\.blob"):
        await pushes.uploads.append(APP, identity, never(), None, length)
    await pushes.uploads.append(APP, identity, pieces(bytes(2000)), 1000, 2000)
    assert (await pushes.uploads.state(APP, identity)).offset == 3000


async def test_a_body_that_becomes_too_much_is_taken_back(make: Callable[..., Pushes]) -> None:
    pushes = make(blob_limit=2_000_000)
    identity = await begun(pushes, BODY[:1000])
    with pytest.raises(TooLarge):
        await pushes.uploads.append(APP, identity, pieces(BODY[1000:1_500_000], BODY[1_500_000:]))
    assert (await pushes.uploads.state(APP, identity)).offset == 1000
    assert os.stat(pushes.layout.upload(identity)).st_blocks * 512 <= 8192, "the room is free again"
    await pushes.uploads.finish(APP, identity, Digest.of(BODY[:1_000_000]), pieces(BODY[1000:1_000_000]))


async def test_no_room_is_said_before_the_first_byte(make: Callable[..., Pushes]) -> None:
    pushes = make({"limits": {"blob": "900TiB"}})
    identity = await begun(pushes, b"abc")
    with pytest.raises(TooLarge, match=r"no room for .* of a push to team/app: .* are free of"):
        await pushes.uploads.append(APP, identity, never(), 3, 1 << 49)
    assert pushes.room.space.promised() == 0
    assert (await pushes.uploads.state(APP, identity)).offset == 3


async def test_room_for_a_body_without_a_length_is_promised_bit_by_bit(
    pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive, "UNIT", 1_000_000)
    identity = await begun(pushes, b"abc")
    asked: list[int] = []
    reserve = pushes.room.space.reserve_upload

    def counted(upload: str, name: str, size: int | None, *more: Any) -> None:
        assert size is None
        asked.append(os.stat(pushes.layout.upload(upload)).st_size)
        if len(asked) == 3:
            raise StoreFull("no room for it: 12 bytes are free", "make room")
        reserve(upload, name, size, *more)

    monkeypatch.setattr(pushes.room.space, "reserve_upload", counted)
    with pytest.raises(TooLarge, match="12 bytes are free"):
        await pushes.uploads.append(APP, identity, pieces(*(bytes(100_000) for _ in range(40))))
    assert len(asked) == 3
    assert (await pushes.uploads.state(APP, identity)).offset == 3
    assert pushes.room.space.promised() == 0


@pytest.mark.parametrize(("number", "error"), [(28, TooLarge), (122, TooLarge), (5, StoreError)])
@pytest.mark.parametrize("length", [None, len(BODY) - 3])
async def test_a_disk_that_fails_loses_nothing(
    pushes: Pushes, monkeypatch: pytest.MonkeyPatch, number: int, error: type[MirrorError], length: int | None
) -> None:
    identity = await begun(pushes, BODY[:3])
    write, count = os.pwrite, 0

    def fails_later(fd: int, content: Any, position: int) -> int:
        nonlocal count
        count += 1
        if count == 2:
            return write(fd, content[:1000], position)
        if count == 3:
            raise OSError(number, os.strerror(number))
        return write(fd, content, position)

    monkeypatch.setattr(os, "pwrite", fails_later)
    parts = [BODY[at : at + 100_000] for at in range(3, len(BODY), 100_000)]
    with pytest.raises(error):
        await pushes.uploads.append(APP, identity, pieces(*parts), 3, length)
    assert (await pushes.uploads.state(APP, identity)).offset == 3
    await pushes.uploads.finish(APP, identity, DIGEST, pieces(BODY[3:]), 3)
    assert await pulled(pushes, APP, DIGEST) == BODY


@pytest.mark.parametrize("call", ["rename", "fsync", "fdatasync", "fchmod", "utime"])
async def test_what_cannot_be_committed_can_be_finished_later(
    pushes: Pushes, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    identity = await begun(pushes, BODY)

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        with pytest.raises(StoreError):
            await pushes.uploads.finish(APP, identity, DIGEST)
    assert pushes.room.stored() == set()
    await pushes.uploads.finish(APP, identity, DIGEST)
    assert await pulled(pushes, APP, DIGEST) == BODY


async def test_a_quota_is_what_repositories_hold_together(make: Callable[..., Pushes]) -> None:
    pushes = make()
    quota = Quota("team", 5000, lambda name: name.startswith("team/"))
    elsewhere = Target("", "solo", "solo", hosted=True)
    await pushes.uploads.put_whole(elsewhere, Digest.of(bytes(9000)), pieces(bytes(9000)), 9000, "ci")
    first, second = os.urandom(2000), os.urandom(2500)
    await pushes.uploads.put_whole(APP, Digest.of(first), pieces(first), 2000, "ci", quota)
    await pushes.uploads.put_whole(OTHER, Digest.of(second), pieces(second), None, "ci", quota)
    for length in (501, None):
        body = pieces(bytes(400), bytes(101)) if length is None else never()
        with pytest.raises(TooLarge, match=r"500 of 5000 bytes left"):
            await pushes.uploads.put_whole(APP, DIGEST, body, length, "ci", quota)
    # Another process counts anew: the same content in two repositories counts once.
    other = make()
    await other.uploads.put_whole(OTHER, Digest.of(first), pieces(first), 2000, "ci")
    with pytest.raises(TooLarge, match=r"500 of 5000 bytes left"):
        await other.uploads.put_whole(APP, DIGEST, never(), 501, "ci", quota)
    # What is on its way counts too.
    identity = await begun(other, bytes(300))
    with pytest.raises(TooLarge, match=r"200 of 5000 bytes left"):
        await make().uploads.append(APP, identity, never(), 300, 201, quota)
    await make().uploads.append(APP, identity, pieces(bytes(200)), 300, 200, quota)


async def test_a_quota_is_not_counted_for_each_push(pushes: Pushes, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Quota] = []
    count = Quotas._count

    def noted(self: Quotas, quota: Quota) -> int:
        counted.append(quota)
        return count(self, quota)

    monkeypatch.setattr(Quotas, "_count", noted)
    quota = Quota("app", 3000, APP.name.__eq__)
    for number in range(3):
        body = os.urandom(1000 - number)
        await pushes.uploads.put_whole(APP, Digest.of(body), pieces(body), None, "ci", quota)
    assert len(counted) == 1
    with pytest.raises(TooLarge, match="has 3 of 3000 bytes left"):
        await pushes.uploads.put_whole(APP, DIGEST, never(), 4, "ci", quota)


async def test_a_quota_holds_among_processes(make: Callable[..., Pushes]) -> None:
    """What one has counted grows by what another stores, at once."""
    both, quota = (make(), make()), Quota("team", 5000, lambda name: name.startswith("team/"))
    for number in range(4):
        body = os.urandom(1000)
        await both[number % 2].uploads.put_whole(APP, Digest.of(body), pieces(body), None, "ci", quota)
    await make().uploads.put_whole(OTHER, Digest.of(bytes(900)), pieces(bytes(900)), None, "ci")
    for pushes in both:
        with pytest.raises(TooLarge, match=r"100 of 5000 bytes left"):
            await pushes.uploads.put_whole(APP, DIGEST, never(), 101, "ci", quota)
        with pytest.raises(TooLarge, match=r"100 of 5000 bytes left"):
            await pushes.uploads.put_whole(APP, DIGEST, pieces(bytes(60), bytes(41)), None, "ci", quota)
    assert both[0].room.stored() == both[1].room.stored()


async def test_a_quota_holds_for_those_that_come_at_once(make: Callable[..., Pushes]) -> None:
    """All of them are let in, because nothing is here yet; whoever ends first gets what there is."""
    both, quota = (make(), make()), Quota("app", 5000, APP.name.__eq__)
    bodies = [os.urandom(1500) for _ in range(8)]
    gate = asyncio.Event()

    async def held(body: bytes) -> AsyncIterator[bytes]:
        yield body[:700]
        await gate.wait()
        yield body[700:]

    pushing = [
        asyncio.create_task(
            both[number % 2].uploads.put_whole(APP, Digest.of(body), held(body), len(body), "ci", quota)
        )
        for number, body in enumerate(bodies)
    ]
    await asyncio.sleep(0.2)
    gate.set()
    ended = await asyncio.gather(*pushing, return_exceptions=True)
    assert [type(one) for one in ended].count(TooLarge) == 5
    assert [one for one in ended if not isinstance(one, TooLarge)] == [1500] * 3
    assert list(both[0].room.layout.uploads.iterdir()) == []
    # What was refused is given back.
    body = os.urandom(500)
    await both[0].uploads.put_whole(APP, Digest.of(body), pieces(body), None, "ci", quota)


@pytest.mark.parametrize("known", [True, False], ids=["length", "chunked"])
async def test_open_uploads_of_others_count(make: Callable[..., Pushes], known: bool) -> None:
    """One upload after the other that is left open: what they hold never is more than the quota."""
    both, quota = (make(), make()), Quota("team", 5000, lambda name: name.startswith("team/"))
    opened = [(await both[0].uploads.begin(APP, "ci")).id for _ in range(6)]
    told = []
    for number, identity in enumerate(opened):
        pushes = both[number % 2]
        try:
            await pushes.uploads.append(APP, identity, pieces(bytes(1900)), 0, 1900 if known else None, quota)
        except TooLarge as error:
            told.append(error.what)
    assert told == ["the quota for team/app has 1200 of 5000 bytes left"] * 4
    assert both[0].stored.held(quota.covers) == 3800
    await both[1].uploads.cancel(APP, opened[0])
    await both[0].uploads.append(APP, opened[2], pieces(bytes(1900)), 0, None, quota)


@pytest.mark.parametrize("known", [True, False], ids=["length", "chunked"])
async def test_bodies_that_come_at_once_share_a_quota(make: Callable[..., Pushes], known: bool) -> None:
    both, quota = (make(), make()), Quota("app", 2_000_000, APP.name.__eq__)
    opened = [(await both[0].uploads.begin(APP, "ci")).id for _ in range(8)]
    body = os.urandom(900_000)
    parts = [body[at : at + 60_000] for at in range(0, len(body), 60_000)]
    sending = [
        both[number % 2].uploads.append(APP, identity, pieces(*parts), 0, len(body) if known else None, quota)
        for number, identity in enumerate(opened)
    ]
    ended = await asyncio.gather(*sending, return_exceptions=True)
    assert {type(one) for one in ended if isinstance(one, BaseException)} == {TooLarge}
    held = both[0].stored.held(quota.covers)
    assert held <= 2_000_000
    if known:
        assert held == 2 * len(body)


async def test_what_ends_without_a_body_is_checked(make: Callable[..., Pushes]) -> None:
    """Bytes that came while nothing bounded them; and what is under way elsewhere is not given away."""
    pushes, quota = make(), Quota("app", 5000, APP.name.__eq__)
    first, second = os.urandom(3000), os.urandom(2500)
    one, other = await begun(pushes, first), await begun(pushes, second)
    with pytest.raises(TooLarge, match=r"2500 of 5000 bytes left"):
        await make().uploads.finish(APP, one, Digest.of(first), quota=quota)
    assert await make().uploads.finish(APP, other, Digest.of(second), quota=quota) == 2500
    assert pushes.under_way() == []


async def test_what_becomes_a_blob_counts_once(pushes: Pushes, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = Quota("app", 5000, APP.name.__eq__)
    body, commit = os.urandom(3000), pushes.uploads._commit
    left = []

    def committing(target: Target, upload: Upload, digest: Digest, size: int) -> None:
        left.append(pushes.uploads._quotas._room(quota, ""))
        if len(left) == 1:
            raise StoreError("not this time")
        commit(target, upload, digest, size)

    monkeypatch.setattr(pushes.uploads, "_commit", committing)
    identity = await begun(pushes, body)
    with pytest.raises(StoreError):
        await pushes.uploads.finish(APP, identity, Digest.of(body), quota=quota)
    assert pushes.uploads._quotas._room(quota, "") == 2000, "it is an upload again"
    await pushes.uploads.finish(APP, identity, Digest.of(body), quota=quota)
    assert left == [2000, 2000]
    assert pushes.uploads._quotas._room(quota, "") == 2000


async def test_what_fails_at_its_end_does_not_count(pushes: Pushes, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = Quota("app", 1000, APP.name.__eq__)
    body = os.urandom(900)
    with monkeypatch.context() as patched:
        patched.setattr(pushes.uploads, "_commit", _fails)
        with pytest.raises(StoreError):
            await pushes.uploads.put_whole(APP, Digest.of(body), pieces(body), None, "ci", quota)
    await pushes.uploads.put_whole(APP, Digest.of(body), pieces(body), None, "ci", quota)


def _fails(*_: object) -> None:
    raise StoreError("the disk is sick")


# -- mounting


def anybody(_name: str) -> bool:
    return True


@pytest.mark.parametrize("source", [OTHER, None], ids=["from", "anywhere"])
async def test_a_mounted_blob_is_here_for_good(pushes: Pushes, source: Target | None) -> None:
    await pushes.uploads.put_whole(OTHER, DIGEST, pieces(BODY), None, "ci")
    assert await pushes.uploads.mount(APP, DIGEST, source, anybody, "ci")
    assert await pulled(pushes, APP, DIGEST) == BODY
    row = pushes.rows.member(APP.name, DIGEST)
    assert row is not None
    assert row.size == len(BODY)


async def test_nothing_is_mounted_that_the_client_may_not_pull(pushes: Pushes) -> None:
    await pushes.uploads.put_whole(OTHER, DIGEST, pieces(BODY), None, "ci")
    asked: list[str] = []

    def refuses(name: str) -> bool:
        asked.append(name)
        return False

    for source in (OTHER, None):
        assert not await pushes.uploads.mount(APP, DIGEST, source, refuses, "ci")
    assert asked == [OTHER.name, OTHER.name]
    assert pushes.rows.member(APP.name, DIGEST) is None


@pytest.mark.parametrize("source", [OTHER, PROXIED, None], ids=["hosted", "proxied", "anywhere"])
async def test_what_is_not_there_cannot_be_mounted(pushes: Pushes, source: Target | None) -> None:
    # Here, but no repository's: somebody deleted it, or never had it.
    files.write_atomically(pushes.layout.blob(DIGEST), BODY, durable=False)
    for digest in (DIGEST, Digest.of(b"nowhere")):
        assert not await pushes.uploads.mount(APP, digest, source, anybody, "ci")
        assert not pushes.hosted.has(digest)
        assert pushes.rows.member(APP.name, digest) is None


@pytest.mark.parametrize("source", [PROXIED, None], ids=["from", "anywhere"])
async def test_what_was_pulled_through_can_be_mounted_and_stays(pushes: Pushes, source: Target | None) -> None:
    files.write_atomically(pushes.layout.blob(DIGEST), BODY, durable=False)
    pushes.rows.add_brought(PROXIED.name, DIGEST)
    assert await pushes.uploads.mount(APP, DIGEST, source, anybody, "ci")
    assert pushes.room.space.eviction.free(1 << 40) == 0
    assert await pulled(pushes, APP, DIGEST) == BODY


async def test_bad_content_is_not_mounted(pushes: Pushes) -> None:
    await pushes.uploads.put_whole(OTHER, DIGEST, pieces(BODY), None, "ci")
    path = Path(pushes.layout.blob(DIGEST))
    path.chmod(0o600)
    path.write_bytes(b"rotten")
    assert not await pushes.uploads.mount(APP, DIGEST, OTHER, anybody, "ci")


async def test_what_is_evicted_in_between_is_not_mounted(pushes: Pushes, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_atomically(pushes.layout.blob(DIGEST), BODY, durable=False)
    pushes.rows.add_brought(PROXIED.name, DIGEST)
    find = Members.find

    async def gone_meanwhile(self: Members, target: Target, digest: Digest, may_pull: Any) -> Any:
        found = await find(self, target, digest, may_pull)
        await asyncio.to_thread(os.unlink, pushes.layout.blob(digest))
        return found

    monkeypatch.setattr(Members, "find", gone_meanwhile)
    assert not await pushes.uploads.mount(APP, DIGEST, PROXIED, anybody, "ci")
    assert not pushes.hosted.has(DIGEST)


async def test_a_mount_counts_for_the_quota_once(pushes: Pushes) -> None:
    await pushes.uploads.put_whole(OTHER, DIGEST, pieces(BODY), None, "ci")
    quota = Quota("app", 100, APP.name.__eq__)
    with pytest.raises(TooLarge):
        await pushes.uploads.mount(APP, DIGEST, OTHER, anybody, "ci", quota)
    assert await pushes.uploads.mount(APP, DIGEST, OTHER, anybody, "ci")
    assert await pushes.uploads.mount(APP, DIGEST, OTHER, anybody, "ci", quota), "it is here already"


# -- any order of events


@st.composite
def _events(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Requests of a push: what happens to each, how many bytes it brings, which process gets it."""
    kinds = st.sampled_from(["whole", "whole", "broken", "short", "long", "early", "large"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 1_300_000), st.integers(0, 1)), max_size=8))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=_events())
def test_any_order_of_events_ends_in_the_right_blob(events: list[tuple[str, int, int]], tmp_path_factory: Any) -> None:
    asyncio.run(_push_through(events, tmp_path_factory.mktemp("any")))


async def _push_through(events: list[tuple[str, int, int]], folder: Path) -> None:
    body = BODY * 3
    processes = [Pushes(make_room(folder), blob_limit=len(body)) for _ in range(2)]
    try:
        identity, offset = await begun(processes[0]), 0
        for kind, length, number in events:
            uploads, content = processes[number].uploads, body[offset : offset + length]
            parts = [content[at : at + 300_000] for at in range(0, len(content), 300_000)]
            if kind == "whole":
                offset = (await uploads.append(APP, identity, pieces(*parts), offset, len(content))).offset
                continue
            if kind == "broken":
                with pytest.raises(BrokenOff):
                    await uploads.append(APP, identity, pieces(*parts, BrokenOff()), offset)
                offset += len(content)
            elif kind in ("short", "long"):
                wrong = parts or [b"x"]
                said = sum(map(len, wrong)) + (1 if kind == "short" else -1)
                with pytest.raises(SizeMismatch):
                    await uploads.append(APP, identity, pieces(*wrong), offset, said)
            elif kind == "early":
                with pytest.raises(RangeOutOfOrder):
                    await uploads.append(APP, identity, never(), offset + 1 + length, 5)
            else:
                with pytest.raises(TooLarge):
                    await uploads.append(APP, identity, pieces(*parts, body, b"x"))
            assert (await processes[1 - number].uploads.state(APP, identity)).offset == offset
        assert await processes[0].uploads.finish(APP, identity, Digest.of(body[:offset])) == offset
        assert await pulled(processes[1], APP, Digest.of(body[:offset])) == body[:offset]
    finally:
        for one in processes:
            one.close()
            await one.room.close()
