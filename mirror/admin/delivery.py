"""Delivery of events: what waits is posted until it is taken, at least once, in order for each repository.

Done by the one process that keeps house. A webhook that is away, slow or answers faults holds up nothing but itself.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mirror import logs
from mirror.admin.backlog import Backlog, Bounds
from mirror.config.notifications import Notification, labels
from mirror.content.events import MEDIA_TYPE
from mirror.errors import StoreUnreadable, UpstreamError, UpstreamUnavailable
from mirror.metrics import NOTIFICATIONS, Metrics
from mirror.store.events import Entry
from mirror.store.events import Events as Queues
from mirror.store.threads import Threads
from mirror.upstream.webhook import Webhook

_log = logs.get("delivery")

# Nobody was reached who could judge the event: the receiver is away, overloaded, or does not know us.
_LATER = frozenset({401, 407, 408, 425, 429, 502, 503, 504})
# Says perhaps more of our login than of the event, so the event is kept.
_FORBIDDEN = 403

Verdict = Literal["taken", "later", "failed", "refused"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How deliveries that fail are repeated, and how often queues are looked at. Times are in seconds."""

    first: float = 1.0  # the pause after the first failure; doubles up to `longest`
    longest: float = 60.0
    refusals: int = 8  # times that one event is refused (4xx) before it is dropped: two minutes
    look: float = 1.0  # between looks at a queue while it is being emptied
    look_held: float = 5.0  # while its webhook is left alone
    tidy: float = 3600.0


class _Outcome(NamedTuple):
    verdict: Verdict
    what: str = ""
    remedy: str = ""
    retry_after: float = 0.0


class Delivery:
    """The webhooks of a configuration. Only who holds the lock of housekeeping calls `step`. Must be closed before
    that lock is given back.
    """

    def __init__(
        self,
        queues: Queues,
        targets: Sequence[Notification],
        webhooks: Mapping[str, Webhook],
        metrics: Metrics,
        pace: Pace | None = None,
        bounds: Bounds | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._queues = queues
        self._threads = Threads("deliver", 2)
        self._pace = pace if pace is not None else Pace()
        bounds = bounds if bounds is not None else Bounds()
        self._targets: dict[str, _Target] = {}
        for target in targets:
            label = labels(targets)[target.key]
            backlog = Backlog(target.key, label, target.batch, queues, self._threads, metrics, bounds)
            self._targets[target.key] = _Target(label, backlog, webhooks[target.key], metrics, self._pace, jitter)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._tidied: float | None = None

    async def step(self) -> None:
        """See that every webhook is told what waits for it, without waiting until it is.

        Raise what was met with a webhook's queue since the last step: OSError.
        """
        failed: BaseException | None = None
        for key, target in self._targets.items():
            task = self._running.get(key)
            if task is not None and not task.done():
                continue
            if task is not None and not task.cancelled():
                failed = failed or task.exception()
            self._running[key] = asyncio.create_task(target.run(), name=f"deliver to {target.label}")
        if failed is not None:
            raise failed
        now = asyncio.get_running_loop().time()
        if self._targets and (self._tidied is None or now >= self._tidied + self._pace.tidy):
            self._tidied = now
            for queue, count in (await self._threads.run(self._queues.tidy, self._targets)).items():
                _log.warning("notifications_forgotten", queue=queue, count=count, why="no webhook is configured for it")

    async def close(self) -> None:
        """Stop posting; what was not answered by now is posted again by whoever goes on. Safe to call twice."""
        tasks, self._running = list(self._running.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._threads.close)


class _Target:
    """One webhook and its backlog. Posts one request at a time."""

    def __init__(
        self,
        label: str,
        backlog: Backlog,
        webhook: Webhook,
        metrics: Metrics,
        pace: Pace,
        jitter: Callable[[], float],
    ) -> None:
        self.label = label
        self._backlog = backlog
        self._webhook = webhook
        self._metrics = metrics
        self._pace = pace
        self._jitter = jitter
        self._clock = asyncio.get_running_loop().time
        # Since a request was taken last: how often nobody was there to take one, and whose events were not taken.
        self._failures = 0
        self._failing: set[str] = set()
        self._until = 0.0  # left alone till then
        self._looked = float("-inf")
        self._held = False  # and it was said

    async def run(self) -> None:
        """Post until nothing is due. Raises OSError."""
        try:
            while True:
                held = self._clock() < self._until
                if held and self._clock() < self._looked + self._pace.look_held:
                    return
                batch = [] if held else self._backlog.due(self._clock())
                if not batch or self._clock() >= self._looked + self._pace.look:
                    await self._backlog.look()
                    self._looked = self._clock()
                    batch = [] if held else self._backlog.due(self._clock())
                if not batch:
                    return
                await self._send(batch)
        except (OSError, StoreUnreadable):
            # What cannot be taken out of its queue would be posted over and over.
            self._until = self._looked = self._clock() + self._pace.longest
            raise

    async def _send(self, batch: Sequence[Entry]) -> None:
        batch, events = await self._backlog.read(batch)
        if not batch:
            return
        outcome = await self._post(b'{"events":[%b]}' % b",".join(events))
        if outcome.verdict == "taken":
            self._failures = 0
            self._failing.clear()
            if self._held:
                self._held = False
                _log.info("notifications_delivered_again", target=self.label, waiting=len(self._backlog))
            self._backlog.taken(batch)
            await self._backlog.take_out([entry.name for entry in batch], "delivered")
            return
        self._metrics.add(NOTIFICATIONS, self.label, "failed", by=len(batch))
        if outcome.verdict == "later":
            self._failures += 1
            if not self._held:
                self._held = True
                _log.warning("notifications_held", target=self.label, what=outcome.what, remedy=outcome.remedy)
        elif len(batch) > 1:
            self._failing.add(batch[0].line)
            self._backlog.part(batch)
        else:
            self._failing.add(batch[0].line)
            await self._blame(batch[0], events[0], outcome)
        # One event that is never taken slows nobody else; many are the sign of a receiver that takes none.
        pause = self._pause(max(1, self._failures + len(self._failing)))
        self._until = self._clock() + max(pause, outcome.retry_after)

    async def _post(self, body: bytes) -> _Outcome:
        try:
            said = await self._webhook.post(body, MEDIA_TYPE)
        except UpstreamError as error:
            wished = error.retry_after if isinstance(error, UpstreamUnavailable) else 0.0
            return _Outcome("later", error.what, error.remedy, wished)
        status, what = said.status, f"it answers {said.status}"
        if 200 <= status < 300:
            return _Outcome("taken")
        if 300 <= status < 400:
            return _Outcome("later", what, "give the URL that it leads to: redirects are not followed")
        if status in _LATER:
            return _Outcome("later", what, "see header_file" if status == 401 else "", said.retry_after)
        kept = status >= 500 or status == _FORBIDDEN
        return _Outcome("failed" if kept else "refused", what, "see what the receiver logs", said.retry_after)

    async def _blame(self, entry: Entry, event: bytes, outcome: _Outcome) -> None:
        """Hold an event back, with what follows it in its line; drop it when it was refused often enough."""
        trouble = self._backlog.trouble(entry)
        trouble.limit = 1
        trouble.failures += 1
        trouble.refusals = trouble.refusals + 1 if outcome.verdict == "refused" else 0
        trouble.until = self._clock() + self._pause(trouble.failures)
        found = json.loads(event)
        facts = {"target": self.label, "id": found.get("id"), "name": found["target"].get("repository")}
        if trouble.refusals >= self._pace.refusals:
            self._backlog.free(entry)
            await self._backlog.take_out([entry.name], "refused")
            _log.warning("notification_refused", **facts, what=outcome.what, tries=self._pace.refusals)
        elif trouble.failures == 1:
            _log.warning("notification_held", **facts, what=outcome.what, remedy=outcome.remedy)

    def _pause(self, failures: int) -> float:
        # Jitter: a receiver that serves several mirrors is not asked by all of them at once.
        return min(self._pace.longest, self._pace.first * 2.0 ** min(failures - 1, 30)) * (0.5 + self._jitter() / 2)
