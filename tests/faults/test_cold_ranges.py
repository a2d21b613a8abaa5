"""Clients that read a layer by ranges while it is being fetched from a slow upstream, by one worker or by two.

containerd since 2.1 asks for a layer by parallel open-ended ranges, reads a chunk of each and hangs up; it takes a 503
for the end of a mirror. Lazy and partial pulls (stargz, zstd:chunked) read the end first, then small pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.faults.service import Service
from tests.faults.wire import Got
from tests.peers import faults
from tests.peers.images import digest_of, noise
from tests.peers.scripted import ScriptedRegistry
from tests.tools.byteranges import parts

pytestmark = pytest.mark.timeout(60)

LAYER = noise(3_000_000, 11)
TOTAL = len(LAYER)
CHUNK = TOTAL // 6
BLOB = f"/v2/lab/team/app/blobs/{digest_of(LAYER)}"
SLOW = faults.Drip(64 * 1024, 0.04)  # 1.5 MB a second


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
async def workers(
    request: pytest.FixtureRequest, upstream: ScriptedRegistry, serve: Callable[..., Any]
) -> list[Service]:
    upstream.add_image("team/app", "v1", layers=[LAYER])
    limits = {"write_stall": 0.7}  # who waits for upstream does not stand still
    return [await serve({"lab": {"endpoints": [upstream.url]}}, limits=limits) for _ in range(request.param)]


@contextlib.asynccontextmanager
async def asking(worker: Service, wanted: str) -> AsyncIterator[tuple[Got, asyncio.StreamReader]]:
    """Ask for a range, and hang up in the end whatever has come."""
    reader, writer = await asyncio.open_connection(*worker.address)
    try:
        writer.write(f"GET {BLOB} HTTP/1.1\r\nHost: m\r\nRange: {wanted}\r\n\r\n".encode())
        got = Got()
        line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        got.status = int(line.split()[1])
        got.headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        yield got, reader
    finally:
        writer.transport.abort()


async def settled(workers: list[Service], upstream: ScriptedRegistry) -> None:
    for worker in workers:
        await worker.settled(30)
    got = await workers[-1].get(BLOB)
    assert (got.status, got.cache, got.body) == (200, "HIT", LAYER)


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(SLOW, id="slow"),
        pytest.param(faults.IgnoreRange(), id="no ranges"),
        pytest.param(faults.HangHeaders(), id="one connection only"),
        pytest.param(faults.Status(503), id="busy"),
        pytest.param(faults.Truncate(100_000), id="cut"),
    ],
)
async def test_a_layer_by_parallel_open_ended_ranges(
    workers: list[Service], upstream: ScriptedRegistry, others: faults.Fault
) -> None:
    upstream.fail("blob", SLOW, times=1)
    upstream.fail("blob", others)

    async def chunk(number: int) -> bytes:
        start = number * CHUNK
        async with asking(workers[number % len(workers)], f"bytes={start}-") as (got, reader):
            assert got.status == 206
            assert got.headers["content-range"] == f"bytes {start}-{TOTAL - 1}/{TOTAL}"
            assert got.headers["content-length"] == str(TOTAL - start)
            return await reader.readexactly(CHUNK)

    assert b"".join(await asyncio.gather(*map(chunk, range(6)))) == LAYER
    await settled(workers, upstream)
    # The download once, and beside it at most the blob again for each worker.
    if others == SLOW:
        assert upstream.sent("blob") <= TOTAL * (1 + len(workers))


@pytest.mark.parametrize("others", [SLOW, faults.IgnoreRange(), faults.HangHeaders(), faults.Status(503)])
async def test_a_lazy_pull_reads_the_end_first(
    workers: list[Service], upstream: ScriptedRegistry, others: faults.Fault
) -> None:
    upstream.fail("blob", SLOW, times=1)
    upstream.fail("blob", others)
    wanted = [(TOTAL - 47, TOTAL), (TOTAL - 50_000, TOTAL - 40_000), (7, 8), (TOTAL // 2, TOTAL // 2 + 1)]

    async def piece(number: int, start: int, stop: int) -> None:
        value = f"bytes=-{TOTAL - start}" if stop == TOTAL else f"bytes={start}-{stop - 1}"
        got = await workers[number % len(workers)].get(BLOB, headers={"Range": value})
        assert (got.status, got.clean, got.body) == (206, True, LAYER[start:stop])

    await asyncio.gather(*(piece(number, *span) for number, span in enumerate(wanted * 5)))
    await settled(workers, upstream)


@pytest.mark.parametrize("others", [SLOW, faults.IgnoreRange(), faults.HangHeaders(), faults.Status(503)])
async def test_a_partial_pull_gets_its_ranges_and_no_more(
    workers: list[Service], upstream: ScriptedRegistry, others: faults.Fault
) -> None:
    upstream.fail("blob", SLOW, times=1)
    upstream.fail("blob", others)
    spans = [(10, 2000), (2000, 70_000), (TOTAL - 20_000, TOTAL - 10_000), (TOTAL - 10_000, TOTAL)]
    value = "bytes=" + ", ".join(f"{start}-{stop - 1}" for start, stop in spans)
    answers = await asyncio.gather(*(worker.get(BLOB, headers={"Range": value}) for worker in workers * 3))
    for got in answers:
        assert (got.status, got.clean) == (206, True)
        found = parts(got.headers["content-type"], got.body)
        assert [(one.start, one.stop, one.total, one.content) for one in found] == [
            (start, stop, TOTAL, LAYER[start:stop]) for start, stop in spans
        ]
    await settled(workers, upstream)
    lines = [line for worker in workers for line in worker.requests.lines if line["status"] == 206]
    assert [line["bytes"] for line in lines] == [len(answers[0].body)] * len(answers)


async def test_several_ranges_of_what_has_no_length_come_whole(
    workers: list[Service], upstream: ScriptedRegistry
) -> None:
    upstream.fail("blob", faults.NoLength())
    got = await workers[-1].get(BLOB, headers={"Range": "bytes=1-2,5-6"})
    assert (got.status, got.clean, got.body) == (200, True, LAYER)


async def test_clients_that_hang_up_while_they_wait_hold_nothing(
    workers: list[Service], upstream: ScriptedRegistry
) -> None:
    """Neither a place beside the download nor a descriptor, once the download has moved."""
    upstream.fail("blob", SLOW, times=1)
    upstream.fail("blob", faults.HangHeaders())

    async def leave(number: int) -> None:
        async with asking(workers[number % len(workers)], f"bytes={TOTAL - 1 - number}-") as (got, _):
            assert got.status == 206

    await asyncio.gather(*map(leave, range(40)))
    fills = [fill for worker in workers for fill in worker.room.content._fetcher._fills.values()]
    await settled(workers, upstream)
    for worker in workers:
        while len(worker.requests.lines) < 40 // len(workers):
            await asyncio.sleep(0.01)
    assert [fill._readers for fill in fills] == [0] * len(fills)
    assert [fill.beside._taken for fill in fills] == [0] * len(fills)


async def test_wrong_bytes_are_nobodys_whole_layer(workers: list[Service], upstream: ScriptedRegistry) -> None:
    """What lacks a byte may end before the digest is known; what holds all of them may not."""
    upstream.fail("blob", faults.FlipBit(TOTAL - 5), times=1)
    upstream.fail("blob", faults.HangHeaders(), times=2)
    wanted = ["bytes=0-", f"bytes=-{TOTAL}", "bytes=1000-1999", "bytes=0-9,20-29", "bytes=0-9,10-"]
    answers = await asyncio.gather(*(workers[0].get(BLOB, headers={"Range": value}) for value in wanted))
    for got, spans in zip(answers, [[(0, TOTAL)], [(0, TOTAL)], [(1000, 2000)], None, [(0, TOTAL)]], strict=True):
        if not got.clean or got.status >= 500:
            continue
        assert spans != [(0, TOTAL)], "a whole blob of wrong bytes, and a clean end"
        if spans is not None:
            assert got.body == LAYER[slice(*spans[0])]
        else:
            assert [one.content for one in parts(got.headers["content-type"], got.body)] == [LAYER[:10], LAYER[20:30]]
