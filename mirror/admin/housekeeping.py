"""What keeps a store in order beside a service: uses written, room kept free, index rebuilt, leftovers removed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, TypeVarTuple

from mirror import logs
from mirror.admin.delivery import Delivery
from mirror.admin.scrub import Scrubber
from mirror.errors import StoreError
from mirror.metrics import (
    EVICTED,
    EVICTED_BYTES,
    FAULTS,
    SET_COMPLETE,
    SET_MISSING,
    STORE_BYTES,
    STORE_FREE,
    STORE_INODES,
    Metrics,
)
from mirror.store.adopt import adopt
from mirror.store.brought import Brought
from mirror.store.faults import DISK_FAULTS
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.marked import Marked
from mirror.store.marking import mark, mark_if_lost, tell
from mirror.store.probe import mend
from mirror.store.reconcile import reconcile
from mirror.store.sample import sample
from mirror.store.sets import Pins, Sets
from mirror.store.space import Space
from mirror.store.threads import Threads

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

_FIRST = 10.0  # seconds that a start waits for the first count of what is promised


@dataclass(frozen=True, slots=True)
class Periods:
    """How often each duty is done, in seconds."""

    flush: float = 1.0  # each process its own uses
    lock: float = 3.0  # trying to become the one who keeps house, and looking whether the index needs a rebuild
    deliver: float = 0.5
    promises: float = 2.0  # looking whether what is promised is to be counted anew
    trim: float = 5.0
    faults: float = 1.0  # each process its own: trying again what the disk did not give
    sets: float = 60.0
    sample: float = 60.0
    quarantine: float = 3600.0
    leftovers: float = 3600.0
    deletions: float = 3.0
    reconcile: float = 86400.0
    scrub: float = 1.0


class _Duty(NamedTuple):
    name: str
    period: float
    do: Callable[[], Awaitable[None]]


class Housekeeping:
    """One in every worker; the one that holds run/housekeeping.lock does what must be done once.

    Never blocks the loop, and goes on after whatever a duty raises. `is_hosted` tells by the canonical name which
    repositories are pushed to; `everybody`: everybody may pull everything; `scrub_rate` is in bytes a second, 0 for
    never; `deletions` carries out those that were cut off.
    """

    def __init__(
        self,
        layout: Layout,
        index: Index,
        space: Space,
        metrics: Metrics,
        delivery: Delivery,
        is_hosted: Callable[[str], bool],
        everybody: bool,
        periods: Periods | None = None,
        scrubber: Scrubber | None = None,
        scrub_rate: int = 0,
        deletions: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._layout = layout
        self._index = index
        self._space = space
        self._metrics = metrics
        self._delivery = delivery
        self._is_hosted = is_hosted
        self._everybody = everybody
        self._marked = Marked(layout)
        self._scrubber = scrubber
        self._scrub_rate = scrub_rate
        self._deletions = deletions
        self._periods = periods if periods is not None else Periods()
        self._lock = FileLock(layout.housekeeping_lock)
        self._pins = Pins(layout)
        self._reconciled = layout.run / "reconciled"  # its mtime says when that was done last
        self._threads = Threads("housekeeping", 2)
        self._tasks: list[asyncio.Task[None]] = []
        self._failing: set[str] = set()
        self._counted = (0, 0)
        self._has_adopted = False
        self._log = logs.get("housekeeping")

    @property
    def keeps(self) -> bool:
        """Whether this process is the one who keeps house."""
        return self._lock.held

    async def start(self) -> None:
        """Begin; returns at once, or a little later where what is promised is to be counted first."""
        periods = self._periods
        first = asyncio.create_task(self._guard(_Duty("promises", 0, self._count_first)), name="first count")
        await asyncio.wait((first,), timeout=_FIRST)
        own = (_Duty("flush", periods.flush, self._flush), _Duty("faults", periods.faults, self._try_again))
        shared = (
            _Duty("measure", periods.trim, self._measure),
            _Duty("trim", periods.trim, self._trim),
            _Duty("sets", periods.sets, self._look_at_sets),
            _Duty("sample", periods.sample, self._sample),
            _Duty("leftovers", periods.leftovers, self._remove_leftovers),
        )
        # Reconciling takes minutes where there is much, and nothing else may wait for it.
        slow = (
            _Duty("mark", periods.lock, self._mark_if_lost),
            _Duty("adopt", periods.lock, self._adopt),
            _Duty("quarantine", periods.quarantine, self._put_back),
            _Duty("reconcile", periods.lock, self._reconcile_if_due),
        )
        counting = (_Duty("promises", periods.promises, self._count_promises),)
        telling = (_Duty("deliver", periods.deliver, self._delivery.step),)
        self._tasks = [
            first,
            asyncio.create_task(self._repeat(own), name="flush"),
            asyncio.create_task(
                self._repeat((_Duty("lock", periods.lock, self._take_lock),)), name="housekeeping lock"
            ),
            asyncio.create_task(self._repeat(shared, only_keeper=True), name="housekeeping"),
            asyncio.create_task(self._repeat(slow, only_keeper=True), name="reconcile"),
            asyncio.create_task(self._repeat(counting, only_keeper=True), name="promises"),
            asyncio.create_task(self._repeat(telling, only_keeper=True), name="delivery"),
        ]
        if self._deletions is not None:
            deletions = (_Duty("deletions", periods.deletions, self._deletions),)
            self._tasks.append(asyncio.create_task(self._repeat(deletions, only_keeper=True), name="deletions"))
        if self._scrubber is not None and self._scrub_rate:
            # Apart from the others too: what is found bad may be fetched again for minutes.
            scrub = (_Duty("scrub", periods.scrub, self._scrub),)
            self._tasks.append(asyncio.create_task(self._repeat(scrub, only_keeper=True), name="scrub"))

    async def stop(self) -> None:
        """End, writing the uses that are noted; then let another process keep house. Safe to call twice."""
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._guard(_Duty("flush", 0, self._flush))
        await self._delivery.close()
        if self._scrubber is not None:
            await self._guard(_Duty("scrub", 0, self._scrubber.close))
        await asyncio.to_thread(self._threads.close)
        self._lock.release()

    async def _repeat(self, duties: tuple[_Duty, ...], *, only_keeper: bool = False) -> None:
        """Do each duty when it is due, one after the other."""
        clock = asyncio.get_running_loop().time
        due = dict.fromkeys(duties, clock())
        while True:
            for duty in duties:
                if clock() >= due[duty] and (self._lock.held or not only_keeper):
                    await self._guard(duty)
                    due[duty] = clock() + duty.period
            # A process that does not keep house looks often enough to notice that it does.
            waits = [min(due[duty] - clock(), self._periods.lock) for duty in duties]
            await asyncio.sleep(max(0.01, min(waits)) if self._lock.held or not only_keeper else self._periods.lock / 3)

    async def _guard(self, duty: _Duty) -> None:
        """Do a duty; say once that it fails, and once that it works again."""
        try:
            await duty.do()
        except Exception as error:  # noqa: BLE001 - nothing that a duty meets may end the others
            self._metrics.add(FAULTS, "housekeeping")
            if duty.name not in self._failing:
                self._failing.add(duty.name)
                # A fault of the store is an expected one and needs no traceback.
                trace = None if isinstance(error, StoreError | OSError) else error
                # In a thread: a traceback is made from source files.
                await asyncio.to_thread(
                    self._log.warning, "duty_failed", duty=duty.name, error=str(error), exc_info=trace
                )
        else:
            if duty.name in self._failing:
                self._failing.discard(duty.name)
                self._log.info("duty_works_again", duty=duty.name)

    async def _take_lock(self) -> None:
        if not self._lock.held and await self._threads.run(self._lock.try_acquire):
            self._log.info("keeps_house", pid=os.getpid())

    async def _flush(self) -> None:
        eviction = self._space.eviction
        blobs, size = eviction.blobs, eviction.bytes
        self._metrics.add(EVICTED, by=blobs - self._counted[0])
        self._metrics.add(EVICTED_BYTES, by=size - self._counted[1])
        self._counted = (blobs, size)
        await self._threads.run(self._index.flush)

    async def _try_again(self) -> None:
        """Make again what is missing of the store and may be made; forget faults of the disk that are over."""
        for kind, count in DISK_FAULTS.take_counts().items():
            self._metrics.add(FAULTS, f"store_{kind}", by=count)
        await self._threads.run(mend, self._layout)
        if DISK_FAULTS:
            await self._threads.run(DISK_FAULTS.retry)

    async def _sample(self) -> None:
        await self._threads.run(sample, self._layout)

    async def _put_back(self) -> None:
        if self._scrubber is not None:
            await self._scrubber.put_back()

    async def _mark_if_lost(self) -> None:
        """Mark anew what was pushed, where markers are lost: until that is done nothing is evicted."""
        tell(await self._sum(mark_if_lost(self._layout, self._marked, self._is_hosted)))

    async def _adopt(self) -> None:
        """Take over, once a process and when that is due, which repositories have what that was not noted."""
        if self._everybody or (self._has_adopted and Brought(self._layout).is_complete):
            return
        count = await self._sum(adopt(self._layout))
        self._has_adopted = True
        if count:
            self._log.info("repositories_adopted", digests=count)

    async def _count_first(self) -> None:
        await self._threads.run(self._space.recount_if_old)

    async def _count_promises(self) -> None:
        """Count what is promised, paced: thousands of notes must not keep the loop from its clients."""
        await self._sum(self._space.counting())

    async def _trim(self) -> None:
        await self._threads.run(self._space.trim)

    async def _remove_leftovers(self) -> None:
        await self._threads.run(self._space.remove_leftovers)

    async def _scrub(self) -> None:
        if self._scrubber is not None:
            await self._scrubber.step(self._scrub_rate)

    async def _measure(self) -> None:
        disk = await self._threads.run(self._space.disk)
        self._metrics.set(STORE_FREE, to=disk.free)
        if disk.inodes:
            self._metrics.set(STORE_INODES, "free", to=disk.inodes_free)
            self._metrics.set(STORE_INODES, "total", to=disk.inodes)
        self._metrics.set(STORE_BYTES, "promised", to=await self._threads.run(self._space.promised))
        self._metrics.set(STORE_BYTES, "content", to=await self._threads.run(self._index.total))

    async def _look_at_sets(self) -> None:
        """Say of each generation whether all of it is here."""
        shortfalls = await self._threads.run(self._pins.shortfalls)
        current = await self._threads.run(Sets(self._layout).current)
        complete = {(one.set, one.generation) for one in current}
        labels = {key: (key[0], str(key[1])) for key in shortfalls}
        self._metrics.set_all(SET_MISSING, {labels[key]: short.missing for key, short in shortfalls.items()})
        self._metrics.set_all(
            SET_COMPLETE,
            {labels[key]: float(key in complete and not any(short)) for key, short in shortfalls.items()},
        )

    async def _reconcile_if_due(self) -> None:
        incomplete = await self._threads.run(self._index.needs_rebuild)
        if not incomplete and await self._threads.run(self._age) < self._periods.reconcile:
            return
        added, dropped = await self._reconcile()
        tell(await self._sum(mark(self._layout, self._marked, self._is_hosted)))
        await self._threads.run(Brought(self._layout).tidy)
        await self._threads.run(self._reconciled.touch, 0o600)
        if incomplete or added or dropped:
            self._log.info("index_reconciled", rebuilt=incomplete, added=added, dropped=dropped)

    def _age(self) -> float:
        """Return the seconds since index and files were last compared; a time ahead of the clock is long ago."""
        try:
            age = time.time() - self._reconciled.stat().st_mtime
        except FileNotFoundError:
            return self._periods.reconcile
        return age if age >= 0 else self._periods.reconcile

    async def _reconcile(self) -> tuple[int, int]:
        """Give every file its row and take away the rows without a file; return how many of each.

        In small batches with pauses as long as they took, so that a million files take minutes and nobody notices.
        """
        steps = reconcile(self._layout, self._index)
        added = dropped = 0
        while (step := await self._paced(next, steps, None)) is not None:
            added += step.added
            dropped += step.dropped
        return added, dropped

    async def _sum(self, steps: Iterator[int]) -> int:
        """Take steps that may be many, each paced; return what they come to."""
        total = 0
        while (step := await self._paced(next, steps, None)) is not None:
            total += step
        return total

    async def _paced(self, job: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """Run `job` in a thread, then rest as long as it took."""
        clock = asyncio.get_running_loop().time
        start = clock()
        result = await self._threads.run(job, *arguments)
        await asyncio.sleep(min(clock() - start, 1.0))
        return result
