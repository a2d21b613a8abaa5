"""The conditions of a service as metrics: one sample for each reason, measured by one worker, and none that lingers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from mirror.admin import measuring
from mirror.admin.conditions import REASONS, Condition, Trouble, samples
from mirror.admin.health import Health
from mirror.admin.measuring import keep_measuring
from mirror.admin.reload import Prepared
from mirror.admin.status import Status
from mirror.config import load
from mirror.metrics import CONDITION, KEEP_FREE, STORE_ROOM, Family, Metrics
from mirror.slots import Slots
from mirror.workers import Board
from tests.unit.content.conftest import Room

EVERY = {(kind, reason) for kind, reasons in REASONS.items() for reason in reasons}


def holding(found: Mapping[tuple[str, ...], float]) -> set[tuple[str, ...]]:
    """Return what holds; every other reason that there is has its sample too."""
    assert found.keys() == EVERY
    return {labels for labels, value in found.items() if value}


def test_each_reason_of_several_has_its_own_sample() -> None:
    found = [
        Condition("Available", False, "NoWorker", ""),
        Condition("Progressing", True, "Syncing", ""),
        Condition("Degraded", True, "Multiple", ""),
    ]
    troubles = [Trouble("StoreFull", "a"), Trouble("UpstreamAway", "b"), Trouble("StoreFull", "c")]
    assert holding(samples(found, troubles)) == {
        ("Progressing", "Syncing"),
        ("Degraded", "StoreFull"),
        ("Degraded", "UpstreamAway"),
    }
    well = [Condition("Available", True, "AsExpected", ""), Condition("Degraded", False, "AsExpected", "")]
    assert holding(samples(well, [])) == {("Available", "AsExpected")}


@pytest.fixture
def slots() -> Iterator[Slots]:
    found = Slots(2)
    yield found
    found.close()


class Service:
    """Two workers of a service over one store, and what its supervisor says of them."""

    def __init__(self, folder: Path, slots: Slots, keep_free: str) -> None:
        file = folder / "mirror.yaml"
        file.write_text(yaml.safe_dump({"storage": {"path": "store", "keep_free": keep_free}}))
        self.room = Room(load(file))
        self.board = Board(2)
        self.metrics = [Metrics(slots, index) for index in (0, 1)]
        self.health = [Health(self.board, index, {}) for index in (0, 1)]
        self.status = [self._status(index) for index in (0, 1)]
        self.tell(ready=(True, True))

    def _status(self, index: int) -> Status:
        prepared, room = Prepared(self.room.config, None, None, time.time(), ""), self.room
        return Status(prepared, "i", room.content, room.space, room.index, self.health[index], self.metrics[index])

    def tell(self, ready: tuple[bool, bool]) -> None:
        workers = [{"index": index, "pid": 1, "ready": one, "age": 1.0} for index, one in enumerate(ready)]
        facts = {"pid": 7, "phase": "serving", "began": time.time() + 3600, "workers": workers, "leaving": []}
        self.board.post_service(facts)

    def told(self, family: Family) -> list[dict[tuple[str, ...], float]]:
        """Return the series of a family as each worker tells them."""
        for one in self.metrics:
            one.fold()  # as each does once a second
        return [one.read(family)[0] for one in self.metrics]

    async def until(self, *expected: tuple[str, ...]) -> None:
        """Wait until this is what holds, whichever worker is asked."""
        async with asyncio.timeout(20):
            while any(not found or holding(found) != set(expected) for found in self.told(CONDITION)):
                await asyncio.sleep(0.01)

    async def until_nothing(self) -> None:
        """Wait until no worker tells anything."""
        async with asyncio.timeout(20):
            while any(any(self.told(family)) for family in (CONDITION, STORE_ROOM, KEEP_FREE)):
                await asyncio.sleep(0.01)


@pytest.fixture
def serve(tmp_path: Path, slots: Slots, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    for name in ("_TICK", "_PERIOD", "_LONGEST"):
        monkeypatch.setattr(measuring, name, 0.01)

    @asynccontextmanager
    async def start(keep_free: str = "5%") -> AsyncIterator[Service]:
        service = Service(tmp_path, slots, keep_free)
        parts = zip(service.status, service.health, service.metrics, strict=True)
        tasks = [asyncio.create_task(keep_measuring(*one)) for one in parts]
        try:
            yield service
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await service.room.close()

    return start


AVAILABLE, INDEXING = ("Available", "AsExpected"), ("Progressing", "Indexing")


async def test_a_condition_that_has_ended_is_0_whoever_measured_it(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        await service.until(AVAILABLE, INDEXING)
        current = service.room.layout.current_sets
        current.write_bytes(b"half")
        damaged = ("Degraded", "RecordDamaged")
        await service.until(AVAILABLE, INDEXING, damaged)
        current.unlink()
        await service.until(AVAILABLE, INDEXING)
        # Another worker takes over what the first one had measured, and finds that it has ended.
        current.write_bytes(b"half")
        await service.until(AVAILABLE, INDEXING, damaged)
        service.tell(ready=(False, True))
        missing = ("Degraded", "WorkersMissing")
        await service.until(AVAILABLE, INDEXING, damaged, missing)
        current.unlink()
        await service.until(AVAILABLE, INDEXING, missing)
        # Nobody serves: what was true of the service is not told any more.
        service.tell(ready=(False, False))
        await service.until_nothing()


async def test_the_room_is_what_may_still_be_taken(serve: Callable[..., Any]) -> None:
    async with serve("99%") as service:
        await service.until(AVAILABLE, INDEXING, ("Degraded", "StoreFull"))
        ((room,), (kept,)) = (found.values() for found in service.metrics[1].read(STORE_ROOM, KEEP_FREE))
        disk = service.room.space.disk()
        assert room == 0
        assert kept == pytest.approx(disk.total * 0.99, rel=0.001)
    async with serve("0") as service:
        await service.until(AVAILABLE, INDEXING)
        ((room,), (kept,)) = (found.values() for found in service.metrics[1].read(STORE_ROOM, KEEP_FREE))
        assert room == pytest.approx(service.room.space.disk().free, rel=0.05)
        assert kept == 0


async def test_what_cannot_be_found_out_is_not_told_and_found_out_later(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with structlog.testing.capture_logs() as logs:
        await _fail_for_a_while(serve, monkeypatch)
    assert {line["event"] for line in logs} == {"admin_failed"}


async def _fail_for_a_while(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as service:
        await service.until(AVAILABLE, INDEXING)
        with monkeypatch.context() as patched:
            patched.setattr(Status, "report", lambda _: 1 // 0)
            await service.until_nothing()
        await service.until(AVAILABLE, INDEXING)
