"""One client cannot stop the others: what thousands of clients leave behind that ask for what is not there and go."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mirror.content import coalesce
from mirror.content.answers import Target
from mirror.content.lines import _WIDTH, TAGS
from tests.faults.service import Service, serving
from tests.peers import faults
from tests.peers.scripted import ScriptedRegistry

pytestmark = pytest.mark.timeout(120)

CROWD = 300
FILLS = 32  # twice fetches_per_upstream
OF_ONE = _WIDTH - _WIDTH // 4  # pieces of work that one repository may have under way


@pytest.fixture
def silent() -> Iterator[str]:
    """Give the address of what accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
async def well() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        registry.add_image("team/app", "v1")
        yield registry


@pytest.fixture
async def service(tmp_path: Path, silent: str, well: ScriptedRegistry) -> AsyncIterator[Service]:
    upstreams = {
        "sick": {"endpoints": [silent]},
        "well": {"endpoints": [f"http://127.0.0.1:{well.port}"], "tags": {"fresh_for": "0s"}},
    }
    async with serving(tmp_path, upstreams) as made:
        yield made


def path_of(kind: str, number: int) -> str:
    made_up = hashlib.sha256(str(number).encode()).hexdigest()
    paths = {
        "tags": f"manifests/{made_up[:20]}",
        "signature tags": f"manifests/sha256-{made_up}.sig",
        "manifests": f"manifests/sha256:{made_up}",
        "blobs": f"blobs/sha256:{made_up}",
        "referrers": f"referrers/sha256:{made_up}",
    }
    return f"/v2/sick/team/app/{paths[kind]}"


KINDS = ("tags", "signature tags", "manifests", "blobs", "referrers")


def hang_up(service: Service, target: str, method: str = "GET") -> None:
    """Ask, and close the connection without waiting for an answer. For threads."""
    with closing(socket.create_connection(service.address)) as client:
        client.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def crowd(service: Service, kind: str, method: str) -> None:
    """Have a crowd come, wait until all of it waits for upstream, and until it is noticed that all have left."""
    clients = [await asyncio.open_connection(*service.address) for _ in range(CROWD)]
    for number, (_, writer) in enumerate(clients):
        writer.write(f"{method} {path_of(kind, number)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(30):
        while waiting(service) < CROWD:
            await asyncio.sleep(0.01)
        for _, writer in clients:
            writer.close()
        while service.connections.open or len(service.requests.lines) < CROWD:
            await asyncio.sleep(0.01)


def waiting(service: Service) -> int:
    """Return how many pieces of work are under way or wait."""
    content = service.room.content
    works = (
        content._tags._checks,
        content._manifests._fetches,
        content._members._proofs,
        content._referrers._asking,
    )
    return sum(len(work._works) for work in works) + len(content._fetcher._fills)


@pytest.mark.parametrize(("kind", "method"), [*((kind, "GET") for kind in KINDS), ("tags", "HEAD"), ("blobs", "HEAD")])
async def test_work_of_clients_that_left_is_dropped_if_it_has_not_begun(
    service: Service, kind: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalesce, "_HELD", 3600.0)  # which is for clients that were told to ask again
    await crowd(service, kind, method)
    async with asyncio.timeout(30):
        while waiting(service) > FILLS:  # what is dropped ends in the next turns of the loop
            await asyncio.sleep(0.01)
    parts = len(os.listdir(service.room.layout.ingest))
    assert parts <= FILLS
    left = [line for line in service.requests.lines if line["status"] == 499 and line["why"] == "client left"]
    assert len(left) == CROWD


@pytest.mark.parametrize("kind", KINDS)
async def test_another_upstream_is_asked_at_once_meanwhile(service: Service, kind: str) -> None:
    assert (await service.get("/v2/well/team/app/manifests/v1")).status == 200
    for number in range(CROWD):
        await asyncio.to_thread(hang_up, service, path_of(kind, number))
        if number % 50 == 0:
            got = await service.get("/v2/well/team/app/manifests/v1")
            assert (got.status, got.headers.get("warning")) == (200, None)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_repository_that_is_silent_holds_up_no_other_of_its_upstream(
    service: Service, well: ScriptedRegistry, kind: str
) -> None:
    """All places were its own, and the tags of the others stale after five seconds each."""
    well.add_image("team/silent", "v1")
    for one in ("manifest", "blob", "referrers"):
        well.fail(one, faults.HangHeaders(), repository="team/silent")
    for number in range(50):
        await asyncio.to_thread(hang_up, service, path_of(kind, number).replace("/sick/team/app", "/well/team/silent"))
    for _ in range(3):
        async with asyncio.timeout(4):
            got = await service.get("/v2/well/team/app/manifests/v1")
        assert (got.status, got.headers.get("warning")) == (200, None)


async def test_who_does_not_hang_up_is_answered_at_once_where_the_line_is_full(service: Service) -> None:
    line = service.room.content._tags._lines.of(Target("sick", "team/app", "sick/team/app"), TAGS).line
    line._most = 20
    asks = [asyncio.create_task(service.get(path_of("tags", number))) for number in range(OF_ONE + 25)]
    done, late = await asyncio.wait(asks, timeout=5)
    assert sorted(ask.result().status for ask in done) == [503] * 5
    assert {ask.result().headers["retry-after"] for ask in done} == {"5"}
    assert len(late) == OF_ONE + 20
    for ask in late:
        ask.cancel()
    await asyncio.gather(*late, return_exceptions=True)


async def test_a_known_tag_is_stale_at_once_where_the_line_is_full(service: Service, well: ScriptedRegistry) -> None:
    assert (await service.get("/v2/well/team/app/manifests/v1")).status == 200
    line = service.room.content._tags._lines.of(Target("well", "team/app", "well/team/app"), TAGS).line
    for number in range(_WIDTH):
        await line.enter("crowd", f"team/{number}")
    line._most = 1
    waits = asyncio.create_task(line.enter("crowd", "team/other"))
    await asyncio.sleep(0)
    got = await service.get("/v2/well/team/app/manifests/v1")
    assert got.status == 200
    assert "too many requests wait" in got.headers["warning"]
    waits.cancel()
