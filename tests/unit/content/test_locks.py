"""Locks on the host: one holder at a time, woken in turn, and apart by upstream."""

from __future__ import annotations

import asyncio
import hashlib
from itertools import count
from pathlib import Path

import pytest

from mirror.content import locks as module
from mirror.content.locks import Locks
from mirror.store.layout import Layout
from mirror.store.threads import Threads


@pytest.fixture
def threads() -> Threads:
    return Threads("locks", 1)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "run" / "locks").mkdir(parents=True)
    return Layout(tmp_path)


async def take(locks: Locks, key: str, order: list[str], release: asyncio.Event, upstream: str = "slow") -> None:
    async with locks.hold("tag", key, upstream=upstream):
        order.append(key)
        await release.wait()


async def test_who_lets_go_wakes_the_next_of_its_process_in_turn(layout: Layout, threads: Threads) -> None:
    locks, order, release = Locks(layout, threads), [], asyncio.Event()
    release.set()
    async with locks.hold("tag", "a", upstream="slow"):
        waiting = [asyncio.create_task(take(locks, "a", order, release)) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert order == []
    await asyncio.gather(*waiting)
    assert order == ["a"] * 3
    assert locks._turns == {}


async def test_one_of_a_process_waits_for_another_process_and_without_threads(
    layout: Layout, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    hops = 0
    run = threads.run

    def counted(*arguments: object) -> object:
        nonlocal hops
        hops += 1
        return run(*arguments)  # type: ignore[arg-type]

    ours, theirs = Locks(layout, threads), Locks(layout, Threads("others", 1))
    monkeypatch.setattr(threads, "run", counted)
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.001)
    order: list[str] = []
    release = asyncio.Event()
    release.set()
    async with theirs.hold("tag", "a", upstream="slow"):
        waiting = [asyncio.create_task(take(ours, "a", order, release)) for _ in range(50)]
        await asyncio.sleep(0.2)
        assert order == []
        assert hops == 1
    await asyncio.gather(*waiting)
    assert len(order) == 50


async def test_locks_of_upstreams_are_apart(layout: Layout, threads: Threads) -> None:
    locks, order, release = Locks(layout, threads), [], asyncio.Event()
    one = asyncio.create_task(take(locks, "a", order, release))
    share = module._FILES
    wanted = int.from_bytes(hashlib.sha256(b"a").digest()[:4]) % share
    twin = next(
        f"b{n}" for n in count() if int.from_bytes(hashlib.sha256(f"b{n}".encode()).digest()[:4]) % share == wanted
    )
    async with asyncio.timeout(10):
        while order != ["a"]:
            await asyncio.sleep(0.001)
        other = asyncio.create_task(take(locks, twin, order, release, upstream="healthy"))
        while order != ["a", twin]:
            await asyncio.sleep(0.001)
    release.set()
    await asyncio.gather(one, other)


@pytest.mark.parametrize("who", ["first in turn", "second in turn", "the one that waits for another process"])
async def test_who_leaves_while_it_waits_is_in_nobodys_way(layout: Layout, threads: Threads, who: str) -> None:
    locks, theirs = Locks(layout, threads), Locks(layout, Threads("others", 1))
    order: list[str] = []
    release = asyncio.Event()
    release.set()
    async with theirs.hold("tag", "a", upstream="slow"):
        waiting = [asyncio.create_task(take(locks, "a", order, release)) for _ in range(4)]
        await asyncio.sleep(0.05)
        gone = waiting[{"the one that waits for another process": 0, "first in turn": 1, "second in turn": 2}[who]]
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting, return_exceptions=True)
    assert len(order) == 3
    assert locks._turns == {}
