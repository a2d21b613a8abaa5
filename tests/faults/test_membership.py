"""Whom cached and half-fetched content is for: those whose repository has it (CVE-2024-39897)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.ingest import PartNote, boot_id
from tests.faults.invariants import leftovers
from tests.faults.service import Service, serving
from tests.peers import faults
from tests.peers.images import digest_of, noise
from tests.peers.scripted import ScriptedRegistry

pytestmark = [pytest.mark.usefixtures("hurried"), pytest.mark.timeout(30)]

SECRET = noise(200_000, 6)
DIGEST = digest_of(SECRET)
OURS, THEIRS = f"/v2/lab/team/other/blobs/{DIGEST}", f"/v2/lab/team/app/blobs/{DIGEST}"
RANGES = [None, "bytes=0-99", "bytes=1000-100000", "bytes=-5"]


@pytest.fixture
async def service(upstream: ScriptedRegistry, serve: Callable[..., Any]) -> Service:
    """Return a service whose upstream has the secret in one repository, and another one without it."""
    upstream.add_blob("team/app", SECRET)
    upstream.add_image("team/other", "v1")
    return await serve({"lab": {"endpoints": [upstream.url]}})


@pytest.fixture
async def second(service: Service, upstream: ScriptedRegistry, tmp_path: Path) -> AsyncIterator[Service]:
    """Yield what another process would be, on the same store."""
    async with serving(tmp_path, {"lab": {"endpoints": [upstream.url]}}) as opened:
        yield opened


async def refused(service: Service) -> None:
    for method in ("HEAD", "GET"):
        for value in RANGES:
            got = await service.get(OURS, method, {"Range": value} if value else {})
            assert got.status in (404, 503), (method, value, got.status)
            assert not got.body or got.body[:20] not in SECRET


async def test_what_is_here(service: Service, upstream: ScriptedRegistry) -> None:
    assert (await service.get(THEIRS)).body == SECRET
    await service.settled()
    await refused(service)
    await upstream.stop()
    await refused(service)
    assert (await service.get(THEIRS)).body == SECRET


async def test_what_is_being_fetched(service: Service, second: Service, upstream: ScriptedRegistry) -> None:
    upstream.fail("blob", faults.Stall(150_000, 0.8), 1)
    fetching = asyncio.create_task(service.get(THEIRS))
    while not any(path.stat().st_size >= 150_000 for path in service.room.layout.ingest.glob("*.part")):
        await asyncio.sleep(0.01)
    await refused(service)
    await refused(second)
    assert (await fetching).body == SECRET
    assert (await second.get(THEIRS)).body == SECRET


@pytest.mark.parametrize("state", ["begun", "whole", "marked"])
@pytest.mark.parametrize("up", [True, False])
async def test_what_somebody_has_left_behind(
    service: Service, upstream: ScriptedRegistry, state: str, up: bool
) -> None:
    layout, digest = service.room.layout, Digest.parse(DIGEST)
    Path(layout.part(digest)).write_bytes(SECRET[:150_000] if state == "begun" else SECRET)
    if state == "marked":
        Path(layout.part(digest)).chmod(files.SEALED_MODE)
    Path(layout.part_note(digest)).write_bytes(PartNote(len(SECRET), "lab", "team/app", boot_id()).dump())
    if not up:
        await upstream.stop(returning=True)
    await refused(service)
    with contextlib.suppress(TimeoutError):
        await service.settled(3)
    if not up:
        await upstream.restart()
        service.room.clients["lab"]._endpoints[0].breakers.succeeded("team/app")
    # Theirs goes on where it was left, whoever else has asked for it meanwhile.
    upstream.forget()
    assert (await service.get(THEIRS)).body == SECRET
    await service.settled()
    assert upstream.sent("blob") == (50_000 if state == "begun" else 0)
    assert leftovers(layout) == []


async def test_whose_repository_has_it_too_is_asked_once(
    service: Service, second: Service, upstream: ScriptedRegistry
) -> None:
    upstream.add_blob("team/other", SECRET)
    upstream.fail("blob", faults.Stall(150_000, 0.3), 1)
    fetching = asyncio.create_task(service.get(THEIRS))
    while not any(path.stat().st_size >= 150_000 for path in service.room.layout.ingest.glob("*.part")):
        await asyncio.sleep(0.01)
    answers = await asyncio.gather(service.get(OURS), second.get(OURS), second.get(OURS, headers={"Range": RANGES[1]}))
    assert [got.body for got in answers] == [SECRET, SECRET, SECRET[:100]]
    assert (await fetching).body == SECRET
    assert upstream.count("blob", "GET") == 1
    assert upstream.count("blob", "HEAD") <= 2
