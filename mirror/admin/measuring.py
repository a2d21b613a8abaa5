"""The conditions of a service and the room in its store as metrics: what `mirror status` says, for alerts."""

from __future__ import annotations

import asyncio

from mirror import logs
from mirror.admin.conditions import samples
from mirror.admin.health import Health
from mirror.admin.status import Status
from mirror.metrics import CONDITION, KEEP_FREE, STORE_ROOM, Metrics

_TICK = 1.0  # seconds between two looks whose turn it is
_PERIOD, _LONGEST = 10.0, 60.0  # seconds between two looks at the service, or
_SHARE = 20  # so many times what the last one took

_log = logs.get("admin")


async def keep_measuring(status: Status, health: Health, metrics: Metrics) -> None:
    """Measure for all workers where this one is the first of them, until cancelled.

    Nothing is measured when somebody scrapes, and no request waits for it. Every reason has its sample, so that one
    that has ended is 0 and not what it was; a worker that is not the first any more takes its own back.
    """
    clock = asyncio.get_running_loop().time
    due = 0.0
    while True:
        if not health.is_first():
            _forget(metrics)
            due = 0.0
        elif (began := clock()) >= due:
            await _measure(status, metrics)
            due = clock() + min(_LONGEST, max(_PERIOD, _SHARE * (clock() - began)))
        await asyncio.sleep(_TICK)


async def _measure(status: Status, metrics: Metrics) -> None:
    try:
        found = await status.report()
    except Exception as error:  # noqa: BLE001 - what cannot be told must not end it
        _forget(metrics)
        _log.error("admin_failed", path="/metrics", exc_info=error)
        return
    metrics.set_all(CONDITION, samples(found.conditions, found.troubles))
    store = found.facts["store"]
    free, evictable, kept = store["room_bytes"], store["evictable_bytes"], store["keep_free_bytes"]
    metrics.set_all(STORE_ROOM, {(): free + evictable} if free is not None else {})
    metrics.set_all(KEEP_FREE, {(): kept} if kept is not None else {})


def _forget(metrics: Metrics) -> None:
    for family in (CONDITION, STORE_ROOM, KEEP_FREE):
        metrics.set_all(family, {})
