"""What the service counts: one table of families, plain integers on the hot path, all workers' sum as text."""

from __future__ import annotations

import asyncio
import json
import resource
import threading
import time
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from mirror import __version__
from mirror.slots import Slots

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_REMOTE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 6.0, 10.0, 30.0, 60.0)
_LAG = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)


@dataclass(frozen=True, eq=False, slots=True)
class Family:
    """One metric: its name, what it says, its labels and its kind.

    `across` says what one gauge of several workers is: their sum, the largest, the smallest, or the one set last
    (for what all workers see alike, such as free space). A label called `upstream` takes only configured names.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Literal["counter", "gauge", "histogram"] = "counter"
    across: Literal["sum", "max", "min", "latest"] = "sum"
    buckets: tuple[float, ...] = ()


REQUESTS = Family("mirror_requests_total", "Requests answered.", ("route", "method", "status", "cache"))
REQUEST_SECONDS = Family(
    "mirror_request_seconds",
    "Time from request to the end of the answer.",
    ("route", "cache"),
    "histogram",
    buckets=_FAST,
)
CACHE_ANSWERS = Family("mirror_cache_answers_total", "Answers by where the bytes came from.", ("upstream", "cache"))
SENT_BYTES = Family("mirror_sent_bytes_total", "Body bytes sent to clients.", ("upstream", "cache"))
RECEIVED_BYTES = Family("mirror_upstream_received_bytes_total", "Body bytes taken from upstreams.", ("upstream",))
FETCHES = Family("mirror_fetches_total", "Fetches that ended, by how.", ("upstream", "result"))
FETCHES_RUNNING = Family("mirror_fetches_running", "Fetches under way.", ("upstream",), "gauge")
REVALIDATIONS = Family("mirror_tag_revalidations_total", "Tags asked for again, by outcome.", ("upstream", "result"))
UPSTREAM_SECONDS = Family(
    "mirror_upstream_request_seconds",
    "Time to an upstream's response header.",
    ("upstream",),
    "histogram",
    buckets=_REMOTE,
)
UPSTREAM_ERRORS = Family(
    "mirror_upstream_errors_total", "Requests that an upstream failed, by kind.", ("upstream", "kind")
)
LOGIN_REFUSED = Family(
    "mirror_upstream_login_refused",
    "1 while an upstream refuses our login as such.",
    ("upstream",),
    "gauge",
    "latest",
)
ENDPOINTS_AWAY = Family(
    "mirror_upstream_endpoints_away",
    "Endpoints not asked for now because they failed.",
    ("upstream",),
    "gauge",
    "max",
)
HUB_LIMIT = Family("mirror_docker_hub_pulls_limit", "Docker Hub's limit as it last said.", (), "gauge", "latest")
HUB_REMAINING = Family("mirror_docker_hub_pulls_remaining", "What is left of it.", (), "gauge", "latest")
STORE_BYTES = Family("mirror_store_bytes", "Bytes kept in the store, by kind.", ("kind",), "gauge", "latest")
STORE_INODES = Family(
    "mirror_store_inodes", "Inodes of the store's file system, by kind: free and total.", ("kind",), "gauge", "latest"
)
STORE_FREE = Family("mirror_store_free_bytes", "Free bytes on the store's file system.", (), "gauge", "latest")
STORE_ROOM = Family(
    "mirror_store_room_bytes",
    "Bytes that may still be taken: free beyond keep_free and what is promised, or to be evicted.",
    (),
    "gauge",
    "latest",
)
KEEP_FREE = Family("mirror_store_keep_free_bytes", "What storage.keep_free comes to.", (), "gauge", "latest")
EVICTED = Family("mirror_evicted_blobs_total", "Blobs evicted to make room.")
EVICTED_BYTES = Family("mirror_evicted_bytes_total", "Bytes evicted to make room.")
CORRUPT = Family(
    "mirror_corrupt_blobs_total", "Blobs that did not hash to their name, by who found out.", ("found_by",)
)
SCRUBBED_BYTES = Family("mirror_scrubbed_bytes_total", "Bytes of content hashed again.")
SCRUB_ENDED = Family(
    "mirror_scrub_ended_seconds", "When all content had been hashed again last (Unix time).", (), "gauge", "latest"
)
SCRUB_UNHEALED = Family(
    "mirror_scrub_unhealed", "Contents that the last scrub could not get again.", (), "gauge", "latest"
)
SET_COMPLETE = Family(
    "mirror_set_complete",
    "1 where a generation of an image set is complete and all of it is here.",
    ("set", "generation"),
    "gauge",
    "latest",
)
SET_MISSING = Family(
    "mirror_set_missing_digests",
    "Digests of a generation that are not here.",
    ("set", "generation"),
    "gauge",
    "latest",
)
NOTIFICATIONS = Family(
    "mirror_notifications_total",
    "Events for webhooks, by what became of them (failed: of attempts).",
    ("target", "result"),
)
NOTIFICATIONS_WAITING = Family(
    "mirror_notifications_waiting", "Events not delivered yet.", ("target",), "gauge", "latest"
)
CONNECTIONS = Family("mirror_connections", "Client connections open.", (), "gauge")
ACCEPTED = Family("mirror_connections_accepted_total", "Client connections accepted.")
CUT = Family("mirror_connections_cut_total", "Connections that we closed on a client, by why.", ("why",))
ACCEPT_PAUSES = Family("mirror_accept_pauses_total", "Times that accepting paused, by what ran out.", ("why",))
HELD_BYTES = Family("mirror_connections_held_bytes", "Memory that client connections hold.", (), "gauge")
MEMORY_SHORT = Family(
    "mirror_memory_short_seconds",
    "When client connections last held more than limits.memory allows (Unix time).",
    (),
    "gauge",
    "max",
)
CERTIFICATE_EXPIRES = Family(
    "mirror_tls_certificate_expires_seconds",
    "When the served certificate ends, Unix time.",
    (),
    "gauge",
    "min",
)
LOOP_LAG = Family("mirror_loop_lag_seconds", "How late the event loop runs what is due.", (), "histogram", buckets=_LAG)
LOG_DROPPED = Family("mirror_log_lines_dropped_total", "Log lines dropped because the sink stalled.")
FAULTS = Family("mirror_faults_total", "Faults that were caught and worked around, by kind.", ("kind",))
RELOAD_OK = Family("mirror_config_reload_ok", "1 if the last reload of the configuration worked.", (), "gauge", "min")
WORKERS = Family("mirror_workers", "Worker processes that are ready.", (), "gauge")
WORKER_RESTARTS = Family("mirror_worker_restarts_total", "Workers replaced, by why.", ("why",))
CPU_SECONDS = Family("mirror_cpu_seconds_total", "Processor time of all workers.")
MEMORY_PEAK = Family("mirror_worker_memory_peak_bytes", "Largest memory that a worker has used.", (), "gauge", "max")
CONDITION = Family(
    "mirror_condition",
    "1 while a condition of the service (Available, Progressing, Degraded) holds for that reason, else 0.",
    ("type", "reason"),
    "gauge",
    "latest",
)
INFO = Family("mirror_build_info", "1; the label says which version runs.", ("version",), "gauge", "max")

# Every family that is rendered, in this order.
FAMILIES: tuple[Family, ...] = (
    INFO, CONDITION, WORKERS, WORKER_RESTARTS, RELOAD_OK, CPU_SECONDS, MEMORY_PEAK, LOOP_LAG, LOG_DROPPED, FAULTS,
    CONNECTIONS, ACCEPTED, CUT, ACCEPT_PAUSES, HELD_BYTES, MEMORY_SHORT, CERTIFICATE_EXPIRES,
    REQUESTS, REQUEST_SECONDS, CACHE_ANSWERS, SENT_BYTES,
    RECEIVED_BYTES, FETCHES, FETCHES_RUNNING, REVALIDATIONS, UPSTREAM_SECONDS, UPSTREAM_ERRORS, LOGIN_REFUSED,
    ENDPOINTS_AWAY, HUB_LIMIT, HUB_REMAINING,
    STORE_BYTES, STORE_FREE, STORE_ROOM, KEEP_FREE, STORE_INODES, EVICTED, EVICTED_BYTES, CORRUPT,
    SCRUBBED_BYTES, SCRUB_ENDED, SCRUB_UNHEALED, SET_COMPLETE, SET_MISSING,
    NOTIFICATIONS, NOTIFICATIONS_WAITING,
)  # fmt: skip

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_MOST_SERIES = 4000  # of one process: what is over it is counted under "other"; keeps a snapshot under a slot's size

_Labels = tuple[str, ...]
# A counter is a number, a gauge [value, when it was set], a histogram [sum, count of each bucket …, count above].
_Values = dict[Family, dict[_Labels, Any]]


class Metrics:
    """The counters of one process, and through `slots` those of its siblings.

    `request` belongs to the event loop's thread; everything else may be called from any thread. With `slots` the
    process writes slot `index` and goes on from what a predecessor left there, so that no counter ever falls.
    `upstreams` are the configured names: any other is counted as the empty one.
    """

    def __init__(self, slots: Slots | None = None, index: int = 0, upstreams: Collection[str] = ()) -> None:
        self._slots = slots
        self._index = index
        self._upstreams = frozenset(upstreams)
        self._lock = threading.Lock()
        self._series = 0
        self._cells: dict[tuple[str, str, int, str, str], list[Any]] = {}
        self._values: _Values = {family: {} for family in FAMILIES}
        self._cpu = 0.0
        if slots is not None:
            self._restore(slots.read(index))
        for family in FAMILIES:
            if not family.labels and family.kind != "gauge":
                self._values[family].setdefault((), _empty(family))
        self.set(INFO, __version__, to=1)
        self.fold()

    def request(
        self, route: str, method: str, status: int, cache: str, upstream: str, bytes_out: int, seconds: float
    ) -> None:
        """Count one answered request. `bytes_out` are the body's bytes that were sent."""
        cell = self._cells.get((route, method, status, cache, upstream))
        if cell is None:
            cell = self._cell(route, method, status, cache, upstream)
        cell[0] += 1
        cell[1] += bytes_out
        cell[2] += seconds
        cell[3 + bisect_left(_FAST, seconds)] += 1

    def add(self, family: Family, *labels: str, by: float = 1) -> None:
        """Add `by` to a counter or a gauge."""
        with self._lock:
            series, key = self._find(family, labels)
            if family.kind == "gauge":
                series[key] = [series[key][0] + by, time.monotonic()]
            else:
                series[key] += by

    def set(self, family: Family, *labels: str, to: float) -> None:
        """Set a gauge."""
        with self._lock:
            series, key = self._find(family, labels)
            series[key] = [to, time.monotonic()]

    def set_all(self, family: Family, values: Mapping[tuple[str, ...], float]) -> None:
        """Set every series of a gauge, and drop those that are not named."""
        with self._lock:
            dropped = [labels for labels in self._values[family] if labels not in values]
            for labels in dropped:
                del self._values[family][labels]
            self._series -= len(dropped)
        for labels, value in values.items():
            self.set(family, *labels, to=value)

    def observe(self, family: Family, *labels: str, value: float) -> None:
        """Count `value` in a histogram."""
        with self._lock:
            series, key = self._find(family, labels)
            cell = series[key]
            cell[0] += value
            cell[1 + bisect_left(family.buckets, value)] += 1

    def fold(self) -> None:
        """Publish this process's numbers to its siblings; cheap enough for once a second."""
        with self._lock:
            spent = -self._cpu
            self._cpu = time.process_time()
            spent += self._cpu
        self.add(CPU_SECONDS, by=spent)
        self.set(MEMORY_PEAK, to=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        if self._slots is not None:
            with self._lock:
                self._slots.write(self._index, _encode(self._snapshot()))

    async def keep_folding(self, period: float = 1.0) -> None:
        """Fold every `period` seconds, until cancelled."""
        while True:
            await asyncio.sleep(period)
            self.fold()

    def settle(self, index: int) -> None:
        """Take the gauges out of slot `index`, whose process has ended: what it counted stays, what it had is gone."""
        if self._slots is not None:
            values = _decode(self._slots.read(index))
            self._slots.write(index, _encode({one: found for one, found in values.items() if one.kind != "gauge"}))

    def render(self) -> bytes:
        """Return the sum of all workers in Prometheus' text format. Takes milliseconds; may run in a thread."""
        return generate_latest(_Exposition(self._merged()))

    def read(self, *families: Family) -> list[dict[tuple[str, ...], float]]:
        """Return for each counter or gauge its series, all workers' together. May run in a thread."""
        merged = self._merged()
        return [
            {labels: value[0] if family.kind == "gauge" else value for labels, value in merged[family].items()}
            for family in families
        ]

    def _merged(self) -> _Values:
        self.fold()
        merged: _Values = {family: {} for family in FAMILIES}
        if self._slots is None:
            with self._lock:
                _merge(merged, self._snapshot())
        else:
            for index in range(len(self._slots)):
                _merge(merged, _decode(self._slots.read(index)))
        return merged

    def _find(self, family: Family, labels: _Labels) -> tuple[dict[_Labels, Any], _Labels]:
        series = self._values[family]
        if labels in series:
            return series, labels
        if len(labels) != len(family.labels):
            raise ValueError(f"{family.name} takes the labels {family.labels}")
        labels = tuple(
            "" if name == "upstream" and value not in self._upstreams else value
            for name, value in zip(family.labels, labels, strict=True)
        )
        if labels not in series:
            if labels and self._series >= _MOST_SERIES:
                labels = ("other",) * len(labels)
            self._series += labels not in series
            series.setdefault(labels, _empty(family))
        return series, labels

    def _cell(self, route: str, method: str, status: int, cache: str, upstream: str) -> list[Any]:
        key = (
            route,
            method if method in _METHODS else "other",
            status,
            cache,
            upstream if upstream in self._upstreams else "",
        )
        if key not in self._cells and self._series >= _MOST_SERIES:
            key = ("other", "other", 0, "", "")
        if key not in self._cells:
            # A cell becomes up to four series, two of them shared with others.
            self._series += 2
            with self._lock:
                self._cells[key] = [0, 0, 0.0, *_empty(REQUEST_SECONDS)[1:]]
        return self._cells[key]

    def _snapshot(self) -> _Values:
        values: _Values = {
            family: {labels: list(value) if isinstance(value, list) else value for labels, value in series.items()}
            for family, series in self._values.items()
        }
        cells: _Values = {REQUESTS: {}, REQUEST_SECONDS: {}, CACHE_ANSWERS: {}, SENT_BYTES: {}}
        for (route, method, status, cache, upstream), (count, sent, *histogram) in self._cells.items():
            _merge(
                cells,
                {
                    REQUESTS: {(route, method, str(status), cache): count},
                    REQUEST_SECONDS: {(route, cache): histogram},
                    CACHE_ANSWERS: {(upstream, cache): count} if cache else {},
                    SENT_BYTES: {(upstream, cache): sent},
                },
            )
        _merge(values, cells)
        return values

    def _restore(self, snapshot: bytes) -> None:
        for family, series in _decode(snapshot).items():
            if family.kind != "gauge":
                self._values[family] = series
                self._series += len(series)


def _empty(family: Family) -> Any:
    if family.kind == "histogram":
        return [0.0] + [0] * (len(family.buckets) + 1)
    return [0, 0.0] if family.kind == "gauge" else 0


def _merge(into: _Values, values: _Values) -> None:
    for family, series in values.items():
        target = into[family]
        for labels, value in series.items():
            other = target.get(labels)
            if other is None:
                target[labels] = value
            elif family.kind == "counter":
                target[labels] = other + value
            elif family.kind == "histogram":
                target[labels] = [a + b for a, b in zip(other, value, strict=True)]
            elif family.across == "sum":
                target[labels] = [other[0] + value[0], 0.0]
            elif family.across == "latest":
                target[labels] = max(other, value, key=lambda gauge: gauge[1])
            else:
                target[labels] = (max if family.across == "max" else min)(other, value)


def _encode(values: _Values) -> bytes:
    rows = {family.name: [[*labels, value] for labels, value in series.items()] for family, series in values.items()}
    return json.dumps(rows, separators=(",", ":")).encode()


def _decode(snapshot: bytes) -> _Values:
    rows: dict[str, list[Any]] = json.loads(snapshot) if snapshot else {}
    return {
        family: {tuple(labels): value for *labels, value in rows[family.name]}
        for family in FAMILIES
        if family.name in rows
    }


class _Exposition:
    """What prometheus-client renders: it knows how names and label values are escaped."""

    def __init__(self, values: _Values) -> None:
        self._values = values

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            series = sorted(self._values[family].items())
            if family.kind == "counter":
                counter = CounterMetricFamily(family.name, family.help, labels=family.labels)
                for labels, value in series:
                    counter.add_metric(labels, value)
                yield counter
            elif family.kind == "gauge":
                gauge = GaugeMetricFamily(family.name, family.help, labels=family.labels)
                for labels, (value, _) in series:
                    gauge.add_metric(labels, value)
                yield gauge
            else:
                histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
                for labels, (total, *counts) in series:
                    histogram.add_metric(labels, _cumulative(family.buckets, counts), total)
                yield histogram


def _cumulative(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    seen = 0
    for bound, count in zip((*map(repr, bounds), "+Inf"), counts, strict=True):
        seen += count
        buckets.append((bound, seen))
    return buckets
