"""One process keeps house, every process writes its uses, and no fault ends either."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import chain, count, repeat
from pathlib import Path

import pytest

from mirror.admin.delivery import Delivery
from mirror.admin.housekeeping import Housekeeping, Periods
from mirror.config import Amount, Storage
from mirror.errors import StoreError
from mirror.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.store import index as index_module
from mirror.store import reconcile
from mirror.store.events import Events as Queues
from mirror.store.index import BATCH, Index
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.probe import prepare
from mirror.store.quarantine import Quarantine
from mirror.store.sets import Sets
from mirror.store.space import Space
from mirror.store.walk import find_blobs
from tests.tools.mounts import SPAWN

QUICK = Periods(flush=0.02, lock=0.05, trim=0.02, sets=0.05, leftovers=0.05, reconcile=86400)
MIB = 1 << 20


def digest(number: int) -> Digest:
    return Digest("sha256", f"{number:064x}")


class House:
    """A store and its housekeeping."""

    def __init__(self, root: Path, periods: Periods = QUICK, cache_size: int | None = None) -> None:
        self.layout = Layout(root)
        prepare(self.layout)
        (self.layout.blobs / "sha256").mkdir(exist_ok=True)
        self.index = Index(self.layout, Quarantine(self.layout))
        storage = Storage(path=root, cache_size=cache_size, keep_free=Amount(bytes=0))
        self.space = Space(self.layout, self.index, storage)
        self.metrics = Metrics()
        self.keeping = Housekeeping(
            self.layout,
            self.index,
            self.space,
            self.metrics,
            Delivery(Queues(self.layout), (), {}, self.metrics),
            lambda name: name.startswith("apps/"),
            False,
            periods,
        )

    def put(self, *numbers: int, size: int = 10) -> None:
        for number in numbers:
            Path(self.layout.blob(digest(number))).write_bytes(bytes(size))

    def metric(self, name: str) -> float:
        (line,) = (line for line in self.metrics.render().decode().splitlines() if line.startswith(f"{name} "))
        return float(line.split()[-1])

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[House]:
        await self.keeping.start()
        try:
            yield self
        finally:
            await self.keeping.stop()
            await asyncio.to_thread(self.index.close)


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for what a thread is asked; a StoreError means not yet."""

    def holds() -> bool:
        try:
            return bool(condition())
        except (StoreError, ValueError):
            return False

    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


async def test_uses_are_written_while_it_runs_and_at_its_end(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.put(1, 2)
    async with house.kept():
        house.index.note(digest(1), 10)
        await until(lambda: not house.index.noted() and house.index.count())
        await until(lambda: house.index.count() == 2)  # the file that was not used was found
    house = House(tmp_path, Periods(flush=3600))
    async with house.kept():
        await until(lambda: house.index.count() == 2)
        await asyncio.sleep(0.05)
        house.index.note(digest(3), 10)
    other = Index(house.layout, Quarantine(house.layout))
    assert await asyncio.to_thread(other.count) == 3
    await asyncio.to_thread(other.close)


async def test_an_empty_index_is_rebuilt_in_batches_from_the_files(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.put(*range(BATCH * 2 + 10), size=3)
    (house.layout.blobs / "sha256" / "no digest").touch()
    (house.layout.blobs / "sha256" / ("f" * 64)).mkdir()
    house.index.note(digest(5), 3)
    async with house.kept():
        await until(lambda: not house.index.needs_rebuild())
        assert await asyncio.to_thread(house.index.count) == BATCH * 2 + 10
        assert await asyncio.to_thread(house.index.total) == 3 * (BATCH * 2 + 10)
        last = (await asyncio.to_thread(house.index.oldest, 5000))[-1]
        assert last.digest == digest(5), "what was used is younger than what was found"


async def test_once_a_day_rows_and_files_are_compared(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.put(1, 2)
    house.index.adopt([(digest(1), 10, 5.0), (digest(7), 10, 6.0)])
    house.index.rebuilt(house.index.identity())
    done = house.layout.run / "reconciled"
    done.touch()
    async with house.kept():
        await until(lambda: house.keeping.keeps)
        await asyncio.sleep(0.2)
        assert await asyncio.to_thread(house.index.count) == 2, "not yet due"
        os.utime(done, (time.time() - 90_000,) * 2)
        await until(lambda: [entry.digest for entry in house.index.oldest(9)] == [digest(1), digest(2)])
        await until(lambda: time.time() - done.stat().st_mtime < 80_000)
        os.utime(done, (time.time() + 1e6,) * 2)  # by a clock that was wrong
        house.put(3)
        await until(lambda: house.index.count() == 3)


async def test_an_index_lost_while_it_runs_comes_back(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.put(1, 2, 3)
    async with house.kept():
        await until(lambda: not house.index.needs_rebuild())
        database = house.layout.index / "cache.db"
        garbage = house.layout.root / "garbage"
        garbage.write_bytes(b"garbage" * 1000)
        garbage.rename(database)
        await until(lambda: house.index.count() == 3 and not house.index.needs_rebuild())
        assert database.read_bytes().startswith(b"SQLite format 3")
        assert Quarantine(house.layout).held()[0] == 1


async def test_content_over_its_bound_goes_and_is_counted(tmp_path: Path) -> None:
    house = House(tmp_path, cache_size=2 * MIB)
    for number in range(4):
        Path(house.layout.blob(digest(number))).write_bytes(os.urandom(MIB))
        house.index.note(digest(number), MIB)
    async with house.kept():
        await until(lambda: sorted(os.listdir(house.layout.blobs / "sha256")) == [digest(2).hex, digest(3).hex])
        await until(lambda: house.metric("mirror_evicted_blobs_total") == 2)
        assert house.metric("mirror_evicted_bytes_total") == 2 * MIB
        await until(lambda: house.metric('mirror_store_bytes{kind="content"}') == 2 * MIB)
        assert house.metric('mirror_store_bytes{kind="promised"}') == 0
        assert house.metric("mirror_store_free_bytes") > 0


async def test_leftovers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(tmp_path)
    part = Path(house.layout.part(digest(1)))
    part.write_bytes(bytes(10))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 90_000)
    async with house.kept():
        await until(lambda: not part.exists())


async def test_only_one_keeps_house_and_the_next_takes_over(tmp_path: Path) -> None:
    first, second = House(tmp_path), House(tmp_path)
    first.put(1, 2)
    async with second.kept():
        async with first.kept():
            await until(lambda: first.keeping.keeps or second.keeping.keeps)
            await asyncio.sleep(0.2)
            assert first.keeping.keeps != second.keeping.keeps
            first.index.note(digest(1), 5)
            second.index.note(digest(2), 5)
            await until(lambda: first.index.count() == 2)
        await until(lambda: second.keeping.keeps)
    assert not second.keeping.keeps
    lock = FileLock(first.layout.housekeeping_lock)
    assert lock.try_acquire()
    lock.release()


def keep_house(root: str, ready) -> None:
    async def keep() -> None:
        house = House(Path(root))
        async with house.kept():
            await until(lambda: house.keeping.keeps)
            ready.set()
            await asyncio.sleep(60)

    asyncio.run(keep())


async def test_after_kill_9_another_process_keeps_house(tmp_path: Path) -> None:
    ready = SPAWN.Event()
    process = SPAWN.Process(target=keep_house, args=(str(tmp_path), ready))
    process.start()
    assert await asyncio.to_thread(ready.wait, 30)
    house = House(tmp_path)
    async with house.kept():
        await asyncio.sleep(0.2)
        assert not house.keeping.keeps
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: house.keeping.keeps)
    await asyncio.to_thread(process.join, 10)


async def test_a_duty_that_fails_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(tmp_path)
    house.put(1)
    failures = count()
    works = house.space.trim

    def fail() -> int:
        next(failures)
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(house.space, "trim", fail)
    async with house.kept():
        await until(lambda: next(failures) > 4)
        house.index.note(digest(1), 5)
        await until(lambda: house.index.count() == 1)
        await until(lambda: house.metric('mirror_faults_total{kind="housekeeping"}') > 2)
        monkeypatch.setattr(house.space, "trim", works)
        await asyncio.sleep(0.1)
        faults = house.metric('mirror_faults_total{kind="housekeeping"}')
        await asyncio.sleep(0.2)
        assert house.metric('mirror_faults_total{kind="housekeeping"}') == faults


async def test_without_an_index_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(tmp_path, cache_size=2 * MIB)
    house.put(1, 2, 3, size=MIB)

    def away(*_args):
        raise OSError(5, "I/O error")

    monkeypatch.setattr(index_module._Database, "__init__", away)
    async with house.kept():
        await until(lambda: len(os.listdir(house.layout.blobs / "sha256")) == 2)


async def test_stopping_ends_a_rebuild_in_its_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(tmp_path)
    house.put(*range(10))
    monkeypatch.setattr(reconcile, "find_blobs", lambda layout: chain.from_iterable(map(find_blobs, repeat(layout))))
    await house.keeping.start()
    await until(lambda: house.index.count() == 10)
    await house.keeping.stop()
    assert await asyncio.to_thread(house.index.needs_rebuild), "so that the next one begins it again"
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await house.keeping.stop()
    await asyncio.to_thread(house.index.close)


def pin(
    house: House, name: str, number: int, *digests: int, complete: bool = True, lacking: Sequence[str] = ()
) -> None:
    blobs = [{"digest": str(digest(one)), "size": 10} for one in digests]
    plan = json.dumps({"manifests": [], "blobs": blobs, "lacking": lacking}).encode()
    sets = Sets(house.layout)
    sets.write(name, number, plan)
    if complete:
        sets.complete(name, number, Digest.of(plan), "synced")


async def test_it_says_of_each_set_whether_all_of_it_is_here(tmp_path: Path) -> None:
    house = House(tmp_path / "store")
    house.put(1, 2, 3)
    pin(house, "prod", 1, 1, 2)
    pin(house, "prod", 2, 1, 2, 3, 4)
    pin(house, "lab", 1, 1, complete=False)
    pin(house, "tools", 1, 1, lacking=["quay.io/team/tool:v1: it is not there"])

    def said() -> dict[str, float]:
        lines = house.metrics.render().decode().splitlines()
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith("mirror_set_")
        }

    def name(family: str, of: str, number: int) -> str:
        return f'mirror_set_{family}{{generation="{number}",set="{of}"}}'

    async with house.kept():
        await until(lambda: len(said()) == 8)
        assert said() == {
            name("complete", "lab", 1): 0.0,
            name("complete", "prod", 1): 1.0,
            name("complete", "prod", 2): 0.0,
            name("complete", "tools", 1): 0.0,
            name("missing_digests", "lab", 1): 0.0,
            name("missing_digests", "prod", 1): 0.0,
            name("missing_digests", "prod", 2): 1.0,
            name("missing_digests", "tools", 1): 0.0,
        }
        await asyncio.to_thread(Sets(house.layout).remove, "prod", 2)
        await asyncio.to_thread(os.unlink, house.layout.blob(digest(1)))
        await until(lambda: said().get(name("complete", "prod", 1)) == 0.0 and len(said()) == 6)


async def test_deletions_that_were_cut_off_are_carried_out(tmp_path: Path) -> None:
    carried = asyncio.Event()

    async def resume() -> None:
        carried.set()

    house = House(tmp_path)
    house.keeping._deletions = resume
    async with house.kept():
        await asyncio.wait_for(carried.wait(), 20)
