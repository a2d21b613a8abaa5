"""Many clients, several workers and several services on one store: one fetch, nobody failed, nothing wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mirror.config import load
from mirror.oci.digest import Digest
from mirror.store.ingest import Part, PartNote, boot_id, store_bytes
from mirror.store.layout import Layout
from tests.faults.invariants import broken, contents, leftovers
from tests.faults.wire import Got, ask
from tests.peers import faults
from tests.peers.images import digest_of, noise
from tests.peers.process import RunningRegistry, running
from tests.peers.scripted import ScriptedRegistry
from tests.tools.mirror import Mirror
from tests.unit.content.conftest import Room

pytestmark = [pytest.mark.usefixtures("hurried"), pytest.mark.timeout(120)]

MIB = 1 << 20
SIZE = 12 * MIB
NAME = "/v2/lab/team/app"


@pytest.fixture(scope="module")
def upstream() -> Iterator[RunningRegistry]:
    with running("team/app:v1", SIZE) as registry:
        yield registry


@pytest.fixture
def services(tmp_path: Path, upstream: RunningRegistry) -> Iterator[list[Mirror]]:
    """Return a function's worth of services: two on one store, the first with two workers."""
    upstream.heal()
    upstream.forget()
    document = {
        "workers": 2,
        "upstreams": {"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "2s"}}},
        "storage": {"path": str(tmp_path / "store"), "keep_free": "1%"},
    }
    both = [Mirror(tmp_path / "one", document), Mirror(tmp_path / "two", {**document, "workers": 1})]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Mirror.start, both))
        yield both
    finally:
        for each in both:
            each.kill()


def address(service: Mirror) -> tuple[str, int]:
    host, _, port = service.address.partition(":")
    return host, int(port)


def layer(upstream: RunningRegistry) -> str:
    return next(iter(upstream.images.values()))["layers"][0]


def gets(upstream: RunningRegistry, kind: str, method: str = "GET") -> list[dict[str, Any]]:
    return [one for one in upstream.requests(kind) if one["method"] == method]


async def leave(where: tuple[str, int], target: str, after: int) -> None:
    """Read `after` bytes and go."""
    reader, writer = await asyncio.open_connection(*where)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await reader.readexactly(after)
    writer.transport.abort()


async def settled(layout: Layout, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while leftovers(layout):
            await asyncio.sleep(0.02)


def workers(service: Mirror) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()]


def holder(path: Path) -> int:
    """Return the process that holds the lock of a file, 0 for none (proc(5), /proc/locks)."""
    inode = path.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    return 0


async def test_many_cold_clients(services: list[Mirror], upstream: RunningRegistry, tmp_path: Path) -> None:
    content = noise(SIZE)
    target = f"{NAME}/blobs/{layer(upstream)}"
    upstream.fail("blob", "Stall", {"at": 3 * MIB, "seconds": 0.5}, times=1)
    chance = random.Random(7)

    async def one(number: int) -> Got | None:
        where = address(services[number % 2])
        if number % 10 < 3:
            await leave(where, target, chance.randrange(1, SIZE))
            return None
        if number % 10 == 3:
            return await ask(where, target, headers={"Range": f"bytes=0-{MIB - 1}"})
        return await ask(where, target)

    answers = await asyncio.gather(*(one(number) for number in range(50)))
    for got in answers:
        if got is None:
            continue
        assert got.clean
        assert got.status in (200, 206)
        assert got.body == (content if got.status == 200 else content[:MIB])
    assert len(gets(upstream, "blob")) == 1
    assert sum(one["sent"] for one in upstream.requests("blob")) == SIZE
    layout = Layout(tmp_path / "store")
    await settled(layout)
    assert contents(layout) == {layer(upstream): True}
    words = [got.cache for got in answers if got is not None]
    assert words.count("MISS") <= 1  # whoever began it may have left
    assert set(words) <= {"MISS", "JOINED", "HIT"}


async def test_a_worker_killed_in_the_middle(services: list[Mirror], upstream: RunningRegistry, tmp_path: Path) -> None:
    """Its readers are cut and come back; everybody else's go on; nothing is fetched twice."""
    content = noise(SIZE)
    target = f"{NAME}/blobs/{layer(upstream)}"
    layout = Layout(tmp_path / "store")
    part = Path(layout.part(Digest.parse(layer(upstream))))
    upstream.fail("blob", "Drip", {"size": 256 * 1024, "every": 0.03}, times=1)

    async def persistent(where: tuple[str, int]) -> bytes:
        """As a container runtime pulls: what is missing is asked for again, from where it broke off."""
        body = b""
        while len(body) < SIZE:
            got = await ask(where, target, headers={"Range": f"bytes={len(body)}-"} if body else {})
            assert got.status in (0, 200, 206), got
            body += got.body
        return body

    before = {pid for each in services for pid in workers(each)}
    pulls = [asyncio.create_task(persistent(address(services[number % 2]))) for number in range(8)]
    async with asyncio.timeout(20):
        while not part.exists() or part.stat().st_size < 4 * MIB:
            await asyncio.sleep(0.01)
    victim = holder(part)
    assert victim in before
    os.kill(victim, signal.SIGKILL)
    for pull in pulls:
        assert await pull == content
    assert sum(one["sent"] for one in upstream.requests("blob")) <= SIZE * 1.1
    await settled(layout)
    assert broken(layout) == []
    # The worker is replaced, and the service never was away.
    async with asyncio.timeout(10):
        while victim in workers(services[0]) or len(workers(services[0])) < 2:
            await asyncio.sleep(0.05)
    assert services[0].get("/readyz")[0] == 200


async def test_a_service_that_is_stopped_leaves_its_download_to_the_next(
    services: list[Mirror], upstream: RunningRegistry, tmp_path: Path
) -> None:
    content = noise(SIZE)
    target = f"{NAME}/blobs/{layer(upstream)}"
    part = Path(Layout(tmp_path / "store").part(Digest.parse(layer(upstream))))
    upstream.fail("blob", "Drip", {"size": 256 * 1024, "every": 0.05}, times=1)
    leaving = asyncio.create_task(leave(address(services[0]), target, 1 * MIB))
    async with asyncio.timeout(20):
        while not part.exists() or part.stat().st_size < 3 * MIB:
            await asyncio.sleep(0.01)
    await leaving
    assert await asyncio.to_thread(services[0].stop) == 0
    got = await ask(address(services[1]), target)
    assert (got.status, got.clean, got.body == content) == (200, True, True)
    assert sum(one["sent"] for one in upstream.requests("blob")) <= SIZE * 1.1
    assert len(gets(upstream, "blob")) == 2


async def test_a_storm_on_one_tag(services: list[Mirror], upstream: RunningRegistry) -> None:
    """One question for the whole host, whoever asks (zot #4393)."""
    for each in services:
        assert each.get(f"{NAME}/manifests/v1")[0] == 200
    await asyncio.sleep(2.1)  # what is known is not fresh any more
    upstream.forget()
    upstream.fail("manifest", "HangHeaders", {"seconds": 0.2}, times=1)
    answers = await asyncio.gather(*(ask(address(services[n % 2]), f"{NAME}/manifests/v1") for n in range(120)))
    assert {got.status for got in answers} == {200}
    assert {got.cache for got in answers} == {"HIT"}
    assert len({got.body for got in answers}) == 1
    assert [one["method"] for one in upstream.requests("manifest")] == ["HEAD"]


async def test_evictions_beside_pulls(tmp_path: Path) -> None:
    """A store too small for what is asked of it, and somebody who empties it all the time besides."""
    contents_of = {digest_of(one): one for one in (noise(300_000 + number, number) for number in range(12))}
    async with ScriptedRegistry() as upstream:
        for content in contents_of.values():
            upstream.add_blob("team/app", content)
        document = {
            "workers": 2,
            "upstreams": {"lab": {"endpoints": [upstream.url]}},
            "storage": {"path": str(tmp_path / "store"), "keep_free": "1%", "cache_size": "2MiB"},
        }
        service = Mirror(tmp_path / "one", document)
        await asyncio.to_thread(service.start)
        try:
            stop = asyncio.Event()

            async def evict() -> None:
                room = Room(load(service.configuration))
                try:
                    while not stop.is_set():
                        await asyncio.to_thread(room.space.eviction.free, 10**9)
                        await asyncio.sleep(0.05)
                finally:
                    await room.close()

            async def pull(seed: int) -> None:
                chance = random.Random(seed)
                for _ in range(40):
                    digest = chance.choice(list(contents_of))
                    target = f"{NAME}/blobs/{digest}"
                    if chance.random() < 0.2:
                        await leave(address(service), target, chance.randrange(300_000))
                        continue
                    got = await ask(address(service), target)
                    assert (got.status, got.clean, got.body == contents_of[digest]) == (200, True, True), got

            evicting = asyncio.create_task(evict())
            await asyncio.gather(*(pull(seed) for seed in range(8)))
            stop.set()
            await evicting
        finally:
            assert await asyncio.to_thread(service.stop) == 0
            assert "request_failed" not in service.log
        layout = Layout(tmp_path / "store")
        assert broken(layout, contents_of.get) == []
        assert [name for name in leftovers(layout) if name.endswith(".part")] == []


class TestADownloadOfAnotherProcess:
    """Another process fetches, and what it fetched is removed under those who read along."""

    @pytest.fixture
    async def upstream(self) -> AsyncIterator[ScriptedRegistry]:
        async with ScriptedRegistry() as registry:
            yield registry

    @pytest.mark.parametrize("again", [False, True])
    @pytest.mark.parametrize(("size", "came"), [(MIB, 0), (MIB, 500_000), (MIB, MIB), (30_000, 30_000)])
    async def test_that_it_cannot_keep(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any], size: int, came: int, again: bool
    ) -> None:
        """`again`: it is stored before those who read along have seen that it was removed."""
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        content = noise(size)
        part, reading = await self._read_along(service, upstream, content, content[:came])
        part.drop()
        if again:
            store_bytes(service.room.layout, part.digest, content)
        part.close()
        got = await reading
        assert (got.status, got.clean, got.body == content) == (200, True, True)
        assert broken(service.room.layout) == []

    @pytest.mark.parametrize("size", [MIB, 30_000])
    async def test_that_it_refuses(self, upstream: ScriptedRegistry, serve: Callable[..., Any], size: int) -> None:
        """Who was sent the beginning of bad bytes is cut off; who was sent nothing gets what upstream has now."""
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        content = noise(size)
        part, reading = await self._read_along(service, upstream, content, noise(size, 1))
        part.give_away()
        part.close()
        got = await reading
        assert (got.status, got.clean) == (200, size == 30_000)
        assert got.body == content or not got.clean
        assert broken(service.room.layout) == []

    async def _read_along(
        self, service: Any, upstream: ScriptedRegistry, content: bytes, came: bytes
    ) -> tuple[Part, asyncio.Task[Got]]:
        digest = Digest.parse(upstream.add_blob("team/app", content))
        part = Part.open(service.room.layout, digest, create=True)
        assert part is not None
        assert part.try_lock()
        part.write_note(PartNote(len(content), "lab", "team/app", boot_id()))
        part.append(0, [came], digest.hasher())
        reading = asyncio.create_task(service.get(f"{NAME}/blobs/{digest}"))
        await asyncio.sleep(0.3)
        assert not reading.done()
        return part, reading


class TestADownloadForAnotherRepository:
    """One repository's source is slow, and another has the same blob: each is given what its own source has."""

    @pytest.mark.parametrize(
        "fault",
        [
            faults.HangHeaders(),
            faults.Stall(0),
            faults.Stall(300_000),
            faults.Drip(50, 0.05),
        ],
        ids=["silent", "no byte", "stands still", "drips"],
    )
    async def test_that_is_slow(
        self, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, fault: faults.Fault
    ) -> None:
        monkeypatch.setattr("mirror.content.fill.ELSEWHERE", 0.5)
        monkeypatch.setattr("mirror.content.blobs.ELSEWHERE", 0.5)
        content = noise(MIB)
        async with ScriptedRegistry() as upstream:
            digest = upstream.add_blob("team/slow", content)
            upstream.add_blob("team/app", content)
            upstream.fail("blob", fault, method="GET", repository="team/slow")
            service = await serve({"lab": {"endpoints": [upstream.url]}})
            first = asyncio.create_task(service.get(f"/v2/lab/team/slow/blobs/{digest}"))
            while not upstream.count("blob", "GET"):
                await asyncio.sleep(0.01)
            async with asyncio.timeout(10):
                got = await service.get(f"{NAME}/blobs/{digest}")
            assert (got.status, got.clean, got.body == content) == (200, True, True)
            first.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await first

    async def test_that_is_slow_and_says_no_length(
        self, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without a length nobody can go on elsewhere in the middle: who reads along waits, and is not cut off."""
        monkeypatch.setattr("mirror.content.fill.ELSEWHERE", 0.5)
        monkeypatch.setattr("mirror.content.blobs.ELSEWHERE", 0.5)
        content = noise(MIB)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def answer(request: web.Request) -> web.StreamResponse:
            if request.method == "HEAD":
                return web.Response(headers={"Content-Length": str(MIB)})
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(content[:300_000])
            begun.set()
            await go_on.wait()
            await response.write(content[300_000:])
            return response

        application = web.Application()
        application.router.add_get("/v2/{path:.*}", answer)
        async with TestServer(application) as upstream:
            service = await serve({"lab": {"endpoints": [f"http://127.0.0.1:{upstream.port}"]}})
            digest = digest_of(content)
            first = asyncio.create_task(service.get(f"/v2/lab/team/slow/blobs/{digest}"))
            await begun.wait()
            second = asyncio.create_task(service.get(f"{NAME}/blobs/{digest}"))
            await asyncio.sleep(1.5)
            go_on.set()
            for got in (await first, await second):
                assert (got.status, got.clean, got.body == content) == (200, True, True)
