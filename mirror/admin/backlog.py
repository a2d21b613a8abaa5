"""What waits for one webhook, as it was last seen, and what of it may go next."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mirror import logs
from mirror.metrics import NOTIFICATIONS, NOTIFICATIONS_WAITING, Metrics
from mirror.store.events import MOST, MOST_BYTES, Entry
from mirror.store.events import Events as Queues
from mirror.store.threads import Threads

_log = logs.get("delivery")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may wait for one webhook, and what one request may hold; sizes in bytes."""

    most: int = MOST
    most_bytes: int = MOST_BYTES
    request_bytes: int = 256 * 1024


@dataclass(slots=True)
class Trouble:
    """A line whose events are not taken: it goes alone, `limit` events at a time, and not before `until`."""

    limit: int = 1
    until: float = 0.0
    failures: int = 0
    refusals: int = 0


class Backlog:
    """The queue `key` of the webhook that is called `label`, at most `batch` events of it at a time.

    A line is a repository's events: a later one never goes before an earlier one.
    """

    def __init__(
        self, key: str, label: str, batch: int, queues: Queues, threads: Threads, metrics: Metrics, bounds: Bounds
    ) -> None:
        self._key = key
        self._label = label
        self._batch = batch
        self._queues = queues
        self._threads = threads
        self._metrics = metrics
        self._bounds = bounds
        self._waiting: dict[str, Entry] = {}  # in order
        self._bytes = 0
        self._troubles: dict[str, Trouble] = {}
        self._was_alone = False  # the last request was that of a line in trouble
        self._overflows = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def look(self) -> None:
        """See what is in the queue now, and drop the oldest of what is too much. Raises OSError."""
        names, fresh = await self._threads.run(self._queues.scan, self._key, self._waiting)
        self._forget([name for name in self._waiting if name not in names])
        for entry in fresh:
            self._waiting[entry.name] = entry
            self._bytes += entry.size
        await self._hold_to_bounds()
        if self._troubles:
            lines = {entry.line for entry in self._waiting.values()}
            self._troubles = {line: trouble for line, trouble in self._troubles.items() if line in lines}
        self._metrics.set(NOTIFICATIONS_WAITING, self._label, to=len(self._waiting))

    def due(self, now: float) -> list[Entry]:
        """Return what goes into the next request: the oldest that may go. A line in trouble goes alone.

        Such a line and all the others take turns, so that neither keeps the other from being posted.
        """
        plain = self._pick(self._batch, lambda line: line not in self._troubles)
        if plain and self._was_alone:
            return plain
        waited = sorted((trouble.until, line) for line, trouble in self._troubles.items() if trouble.until <= now)
        for _, line in waited:
            if batch := self._pick(self._troubles[line].limit, line.__eq__):
                return batch
        return plain

    def _pick(self, limit: int, fits: Callable[[str], bool]) -> list[Entry]:
        batch: list[Entry] = []
        size = 0
        for entry in self._waiting.values():
            if not fits(entry.line):
                continue
            size += entry.size
            if batch and size > self._bounds.request_bytes:
                break
            batch.append(entry)
            if len(batch) == limit:
                break
        return batch

    async def read(self, batch: Sequence[Entry]) -> tuple[list[Entry], list[bytes]]:
        """Return what of the batch is there, with its events; what cannot be one is dropped. Raises OSError."""
        self._was_alone = batch[0].line in self._troubles
        found, unreadable = await self._threads.run(self._read, [entry.name for entry in batch])
        self._forget([entry.name for entry in batch if entry.name not in found and entry.name not in unreadable])
        if unreadable:
            await self.take_out(unreadable, "lost")
            _log.error("notifications_unreadable", target=self._label, count=len(unreadable))
        return [entry for entry in batch if entry.name in found], list(found.values())

    async def take_out(self, names: Sequence[str], result: str) -> None:
        """Take events out of the queue, and count what became of them. Raises OSError: then they still wait."""
        await self._threads.complete(self._queues.remove, self._key, names)
        self._forget(names)
        self._metrics.add(NOTIFICATIONS, self._label, result, by=len(names))
        self._metrics.set(NOTIFICATIONS_WAITING, self._label, to=len(self._waiting))

    # -- lines in trouble ------------------------------------------------------------------------------------

    def trouble(self, entry: Entry) -> Trouble:
        """Return what stands in the way of the line of `entry`, which goes alone from now on."""
        return self._troubles.setdefault(entry.line, Trouble())

    def taken(self, batch: Sequence[Entry]) -> None:
        """A request was taken: a line that was in trouble may send twice as much, and with others again in the end."""
        trouble = self._troubles.get(batch[0].line)
        if trouble is None:
            return
        trouble.failures = trouble.refusals = 0
        trouble.limit *= 2
        if trouble.limit > self._batch:
            self.free(batch[0])

    def part(self, batch: Sequence[Entry]) -> None:
        """Have the lines of a batch go alone, each with half as much: one of the events is not to the other's taste."""
        for entry in batch:
            count = sum(other.line == entry.line for other in batch)
            self.trouble(entry).limit = max(1, count // 2)

    def free(self, entry: Entry) -> None:
        """Nothing stands in the way of the line of `entry` any more."""
        self._troubles.pop(entry.line, None)

    # -- inside ----------------------------------------------------------------------------------------------

    async def _hold_to_bounds(self) -> None:
        bounds, count, size = self._bounds, len(self._waiting), self._bytes
        over: list[str] = []
        for entry in self._waiting.values():
            if count <= bounds.most and size <= bounds.most_bytes:
                break
            over.append(entry.name)
            count, size = count - 1, size - entry.size
        if over:
            await self.take_out(over, "dropped")
            if not self._overflows:
                _log.warning("notifications_dropped", target=self._label, count=len(over), why="too many wait")
            self._overflows = True
        elif count <= bounds.most // 2 and size <= bounds.most_bytes // 2:
            self._overflows = False

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            self._bytes -= self._waiting.pop(name).size

    def _read(self, names: Sequence[str]) -> tuple[dict[str, bytes], list[str]]:
        """Return the events of these names that are there, and the names of those that cannot be one. For threads."""
        found: dict[str, bytes] = {}
        unreadable: list[str] = []
        for name, raw in zip(names, self._queues.read(self._key, names), strict=True):
            if raw is not None and _is_event(raw):
                found[name] = raw
            elif raw is not None:
                unreadable.append(name)
        return found, unreadable


def _is_event(raw: bytes) -> bool:
    try:
        found = json.loads(raw)
        return isinstance(found, dict) and isinstance(found.get("target"), dict)
    except (ValueError, RecursionError):
        return False
