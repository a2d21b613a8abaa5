"""Ranges of a blob that is being fetched: headers at once, bytes from the download or from beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mirror.content.answers import BlobAnswer, ByteRange, Target
from mirror.content.fill import Fill
from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from tests.peers import faults
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room, read

LAB = Target("lab", "team/app", "lab/team/app")
MIB = 1024 * 1024
CONTENT = noise(4 * MIB)
SLOW = faults.Drip(64 * 1024, 0.015)  # 4 MiB a second

# As containerd 2.1 does: open-ended, all at once.
PARALLEL = [ByteRange(start, None) for start in range(0, 4 * MIB, 700_000)]
# As lazy pulling does: the footer first, then small pieces from everywhere.
LAZY = [ByteRange(None, 47), ByteRange(4 * MIB - 100_000, 4 * MIB - 100_000 + 900), ByteRange(3 * MIB, 3 * MIB),
        ByteRange(None, 100_000), ByteRange(2 * MIB, 2 * MIB + 65_535), ByteRange(1, 1)]  # fmt: skip


@pytest.fixture
def digest(upstream: ScriptedRegistry) -> Digest:
    return Digest.parse(upstream.add_blob("team/app", CONTENT))


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.content.blobs.CLIENT_PATIENCE", 0.3)  # to wait for a place is a refusal after this
    monkeypatch.setattr("mirror.content.ahead.WAIT_AHEAD", 0.0)  # how far is far does not hang on how fast it came


def cut(wanted: ByteRange) -> bytes:
    span = wanted.resolve(len(CONTENT))
    assert span is not None
    return CONTENT[slice(*span)]


async def opened(room: Room, digest: Digest) -> BlobAnswer:
    """Begin to fetch, and return when the first bytes are here."""
    answer = await room.content.blob(LAB, digest, None)
    assert answer.file is not None
    await answer.file.more(0)
    return answer


@pytest.mark.parametrize("wanted", [PARALLEL, LAZY], ids=["parallel", "lazy"])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("first", "others"),
    [
        pytest.param(SLOW, SLOW, id="slow"),
        pytest.param(SLOW, faults.IgnoreRange(), id="upstream gives no ranges"),
        pytest.param(SLOW, faults.WrongContentRange(), id="upstream gives other ranges"),
        pytest.param(SLOW, faults.Status(503), id="upstream is busy"),
        pytest.param(SLOW, faults.Status(403), id="upstream refuses"),
        pytest.param(SLOW, faults.Html(), id="a page"),
        pytest.param(SLOW, faults.HangHeaders(), id="upstream never answers"),
        pytest.param(SLOW, faults.Truncate(1000), id="cut after some bytes"),
        pytest.param(SLOW, faults.Truncate(1000, rst=True), id="reset after some bytes"),
        pytest.param(SLOW, faults.Stall(30), id="no byte after the first"),
        pytest.param(faults.Truncate(MIB), SLOW, id="the download is cut"),
    ],
)
async def test_every_range_of_a_slow_download_is_answered(
    make_room: Callable[..., Room],
    upstream: ScriptedRegistry,
    digest: Digest,
    first: faults.Fault,
    others: faults.Fault,
    processes: int,
    wanted: list[ByteRange],
) -> None:
    rooms = [make_room() for _ in range(processes)]
    upstream.fail("blob", first, times=1, method="GET")
    upstream.fail("blob", others, method="GET")
    begun = await opened(rooms[0], digest)

    async def one(number: int, span: ByteRange) -> bytes:
        return await read(await rooms[number % processes].content.blob(LAB, digest, span))

    got = await asyncio.gather(*(one(number, span) for number, span in enumerate(wanted)))
    assert [len(body) for body in got] == [len(cut(span)) for span in wanted]
    assert got == [cut(span) for span in wanted]
    assert await read(begun) == CONTENT
    if isinstance(others, faults.IgnoreRange):
        assert upstream.count("blob", "GET") <= 1 + 2 * processes, "asked again and again for what it does not give"


async def test_headers_of_any_number_of_ranges_are_out_at_once(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, digest: Digest
) -> None:
    room = make_room()
    upstream.fail("blob", faults.Stall(MIB), times=1)
    begun = await opened(room, digest)
    answers = [await room.content.blob(LAB, digest, ByteRange(2 * MIB + number, None)) for number in range(20)]
    assert [(one.start, one.stop, one.total) for one in answers] == [
        (2 * MIB + number, 4 * MIB, 4 * MIB) for number in range(20)
    ]
    assert [one.cache for one in answers] == ["BYPASS"] * 2 + ["JOINED"] * 18
    for one in answers:
        assert one.chunks is not None
        await one.chunks.aclose()
    begun.close()


async def test_a_place_that_falls_free_goes_to_who_waits(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, digest: Digest
) -> None:
    room = make_room()
    upstream.fail("blob", faults.Stall(MIB), times=1)
    begun = await opened(room, digest)
    holders = [await room.content.blob(LAB, digest, ByteRange(2 * MIB, None)) for _ in range(2)]
    waiting = asyncio.create_task(read(await room.content.blob(LAB, digest, ByteRange(3 * MIB, None))))
    late = asyncio.create_task(read(await room.content.blob(LAB, digest, ByteRange(None, 9))))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert holders[0].chunks is not None
    await holders[0].chunks.aclose()
    assert await waiting == CONTENT[3 * MIB :]
    assert await late == CONTENT[-9:]
    assert await read(holders[1]) == CONTENT[2 * MIB :]
    begun.close()


async def test_who_waits_is_asked_whether_anybody_listens(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, digest: Digest
) -> None:
    """An empty piece is what lets the face find out that its client left, before a place is taken for it."""
    room = make_room()
    upstream.fail("blob", SLOW, times=1)
    upstream.fail("blob", faults.HangHeaders())
    begun = await opened(room, digest)
    for _ in range(2):
        await room.content.blob(LAB, digest, ByteRange(2 * MIB, None))
    answer = await room.content.blob(LAB, digest, ByteRange(3 * MIB, None))
    assert answer.chunks is not None
    assert await anext(aiter(answer.chunks)) == b""
    await answer.chunks.aclose()
    assert await read(begun) == CONTENT


async def test_what_is_passed_beside_a_download_is_bounded_by_the_blob(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, digest: Digest
) -> None:
    room = make_room()
    upstream.fail("blob", faults.Stall(MIB), times=1)
    begun = await opened(room, digest)
    passed = 0
    for _ in range(10):
        answer = await room.content.blob(LAB, digest, ByteRange(2 * MIB, None))
        if answer.cache != "BYPASS":
            break
        passed += len(await read(answer))
    assert answer.chunks is not None
    await answer.chunks.aclose()
    begun.close()
    assert passed == len(CONTENT)
    assert upstream.sent("blob") <= 2 * len(CONTENT)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        (ByteRange(None, 47), False),
        (ByteRange(4 * MIB - 1, None), False),
        (ByteRange(1, None), False),
        (ByteRange(0, 4 * MIB - 2), False),
        (ByteRange(0, None), True),  # with None: what makes the whole blob is held back, as before
        (ByteRange(None, 4 * MIB), True),
        (None, True),
    ],
)
async def test_only_an_answer_that_makes_the_whole_blob_is_held_back(
    make_room: Callable[..., Room],
    upstream: ScriptedRegistry,
    digest: Digest,
    monkeypatch: pytest.MonkeyPatch,
    wanted: ByteRange | None,
    held: bool,
    processes: int,
) -> None:
    agreed = asyncio.Event()
    mark = Fill._mark

    async def mark_later(fill: Fill, part: object) -> None:
        await agreed.wait()
        await mark(fill, part)  # type: ignore[arg-type]

    monkeypatch.setattr(Fill, "_mark", mark_later)
    rooms = [make_room() for _ in range(processes)]
    begun = await opened(rooms[0], digest)
    answer = await rooms[-1].content.blob(LAB, digest, wanted)
    fill = rooms[-1].content._fetcher.find(digest)
    assert fill is not None
    while fill.written < len(CONTENT):
        await fill.change()
    reading = asyncio.create_task(read(answer))
    if held:
        await asyncio.wait((reading,), timeout=0.2)
        assert not reading.done()
    else:
        async with asyncio.timeout(10):
            assert await reading == cut(wanted)  # type: ignore[arg-type]
        assert not agreed.is_set()
        assert upstream.count("blob", "GET") == 1, "asked for what is here"
    agreed.set()
    assert await reading == (cut(wanted) if wanted is not None else CONTENT)
    assert await read(begun) == CONTENT


@pytest.mark.parametrize(
    ("holds", "wanted", "at_once"),
    [
        (4 * MIB - 100, ByteRange(4 * MIB - 200, 4 * MIB - 101), True),
        (4 * MIB - 100, ByteRange(1, 4 * MIB - 101), True),
        (MIB, ByteRange(0, 99), True),  # as before, and so are those that need more than there is
        (MIB, ByteRange(MIB - 9, MIB), False),
        (MIB, ByteRange(None, 3 * MIB + 9), False),
    ],
)
async def test_a_range_that_a_part_holds_is_answered_while_upstream_is_silent(
    make_room: Callable[..., Room],
    upstream: ScriptedRegistry,
    digest: Digest,
    holds: int,
    wanted: ByteRange,
    at_once: bool,
) -> None:
    one = make_room()
    upstream.fail("blob", faults.Stall(holds), times=1)
    begun = await opened(one, digest)
    fill = one.content._fetcher.find(digest)
    assert fill is not None
    while fill.written < holds:
        await fill.change()
    begun.close()
    await one.content.stop()
    upstream.fail("blob", faults.HangHeaders(), times=1)
    asking = asyncio.create_task(make_room().content.blob(LAB, digest, wanted))
    while not upstream.hanging:
        await asyncio.sleep(0.01)
    if not at_once:
        assert not asking.done()
        upstream.hang_up()
    async with asyncio.timeout(10):
        assert await read(await asking) == cut(wanted)


@pytest.mark.parametrize("wanted", [ByteRange(3 * MIB, None), ByteRange(MIB // 2, None), ByteRange(None, 10)])
async def test_a_download_that_dies_cuts_who_waits_for_it(
    make_room: Callable[..., Room],
    upstream: ScriptedRegistry,
    digest: Digest,
    monkeypatch: pytest.MonkeyPatch,
    wanted: ByteRange,
) -> None:
    for module in ("pull", "ahead", "through"):
        monkeypatch.setattr(f"mirror.content.{module}.PROGRESS_LIMIT", 0.5)
    room = make_room()
    upstream.fail("blob", faults.Truncate(MIB), times=1)
    upstream.fail("blob", faults.CloseBeforeHeaders())
    begun = await room.content.blob(LAB, digest, None)
    answer = await room.content.blob(LAB, digest, wanted)
    with pytest.raises(MirrorError):
        await read(answer)
    with pytest.raises(MirrorError):
        await read(begun)


async def test_a_download_of_wrong_bytes_cuts_who_waits_for_it(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, digest: Digest
) -> None:
    room = make_room()
    upstream.fail("blob", faults.FlipBit(10), times=1)
    upstream.fail("blob", faults.HangHeaders())
    answers = [await room.content.blob(LAB, digest, span) for span in (None, *PARALLEL)]
    for answer, span in zip(answers, (None, *PARALLEL), strict=True):
        if span is None or span.first == 0:
            with pytest.raises(MirrorError):
                await read(answer)
            continue
        try:
            got = await read(answer)
        except MirrorError:
            continue  # it got less, which is right as well
        assert got == cut(span)
    assert room.stored() == set()


async def test_a_full_store_passes_the_rest_of_a_range_through(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = make_room()
    upstream.fail("blob", SLOW, times=1)
    begun = await opened(room, digest)
    answers = [await room.content.blob(LAB, digest, span) for span in PARALLEL[1:]]

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mirror.store.ingest.Part.append", refuse)
    got = await asyncio.gather(*(read(answer) for answer in answers))
    assert got == [cut(span) for span in PARALLEL[1:]]
    begun.close()
