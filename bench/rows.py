"""The rows of the table: what is done to each server, and the figure to reach (DESIGN, section 6)."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import load
from bench.content import MIB, TAG, Blob
from bench.ground import Ground
from bench.peers import find, mirror_command
from bench.processes import ROOT, BenchError, MemoryWatch, Server
from bench.report import Row, Sample, Verdict

GB = 1e9
MB = 1e6

_ZOT = "zot (estimated)"


@dataclass(frozen=True, slots=True)
class Zot:
    """How zot 2.1.20, which is not run here, did beside nginx where the figures to reach were taken, on two cores."""

    rate: float  # requests a second, of nginx'
    cpu: float  # processor time a request, of nginx'


_ZOT_DIGEST = Zot(rate=0.21, cpu=8.0)
_ZOT_TAG = Zot(rate=0.15, cpu=8.9)
_ZOT_SMALL = Zot(rate=0.16, cpu=9.6)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done: rounds a row, seconds of wrk a sample, and bytes of the blob that thirty clients pull."""

    rounds: int
    seconds: int
    requests: int  # for the warm blob, a connection
    crowd_rounds: int
    crowd_size: int


FULL = Effort(rounds=5, seconds=2, requests=2, crowd_rounds=3, crowd_size=64 * MIB)
QUICK = Effort(rounds=2, seconds=1, requests=1, crowd_rounds=1, crowd_size=32 * MIB)

Measure = Callable[[Server], Sample]


def _in_turn(row: Row, servers: Sequence[Server], rounds: int, measure: Measure) -> None:
    """Take a sample of each server a round, each round beginning with another one."""
    for number in range(rounds):
        turn = number % len(servers)
        for server in [*servers[turn:], *servers[:turn]]:
            row.samples.setdefault(server.name, []).append(measure(server))
    row.samples = {server.name: row.samples[server.name] for server in servers}


# -- warm ------------------------------------------------------------------------------------------------------


def warm(ground: Ground, effort: Effort) -> Row:
    """A large blob that is here, over plain HTTP."""
    row = Row("warm 256 MiB blob, plain, 4 connections")
    servers = [ground.nginx, ground.distribution, ground.ours]
    before = ground.ours.loop_lag()
    _in_turn(row, servers, effort.rounds, lambda server: _stream(ground, server, 4, effort.requests))
    late = _lag(before, ground.ours.loop_lag())
    row.notes.append("loop lag of ours: " + ", ".join(f"{n} samples <= {bound * 1000:g} ms" for bound, n in late))
    row.verdicts = [
        Verdict("CPU a GB, of nginx'", row.ratio("CPU s/GB", "ours", "nginx"), 1.1),
        Verdict("CPU a GB, of distribution's", row.ratio("CPU s/GB", "ours", "distribution"), 0.7),
        Verdict("loop lag, 99 of 100 samples", 1000 * _p99(late), 20, " ms"),
    ]
    return row


def warm_tls(ground: Ground, effort: Effort) -> Row:
    """The same over TLS."""
    row = Row("warm 256 MiB blob, TLS 1.3, 2 connections")
    servers = ground.secure()
    try:
        _in_turn(row, servers, effort.rounds, lambda server: _stream(ground, server, 2, effort.requests))
    finally:
        for server in servers:
            server.stop()
    row.verdicts = [
        Verdict("GB/s, of distribution's", row.ratio("GB/s", "ours", "distribution"), 1.5, least=True),
        Verdict("GB/s, of nginx'", row.ratio("GB/s", "ours", "nginx"), 1.0, least=True),
    ]
    return row


def _stream(ground: Ground, server: Server, connections: int, requests: int) -> Sample:
    blob = ground.content.warm
    before = server.cpu()
    seen = load.pull(server, blob.route, blob.size, connections=connections, requests=requests, processes=connections)
    return {"GB/s": seen.bytes / seen.seconds / GB, "CPU s/GB": (server.cpu() - before) / (seen.bytes / GB)}


def _lag(before: Counter[float], after: Counter[float]) -> list[tuple[float, int]]:
    """Return (upper bound in seconds, samples) of what fell between two looks, the lowest bound first."""
    return sorted((bound, after[bound] - before[bound]) for bound in after if after[bound] > before[bound])


def _p99(samples: list[tuple[float, int]]) -> float:
    """Return the bound under which 99 of 100 samples are."""
    total, seen = sum(count for _, count in samples), 0
    for bound, count in samples:
        seen += count
        if seen >= 0.99 * total:
            return bound
    raise BenchError("ours publishes no loop lag")


# -- small answers ---------------------------------------------------------------------------------------------


def by_digest(ground: Ground, effort: Effort) -> Row:
    """A manifest by its digest."""
    row = Row("manifest by digest, 32 connections")
    servers = [ground.nginx, ground.distribution, ground.ours]
    _small(row, servers, f"manifests/{ground.content.manifest.digest}", effort)
    row.verdicts = [
        *_of_zot(row, _ZOT_DIGEST, 1.5),
        Verdict("p99, of distribution's", row.ratio("p99 ms", "ours", "distribution"), 1.0),
    ]
    return row


def by_tag(ground: Ground, effort: Effort) -> Row:
    """A manifest by a tag: ours and distribution's second one pull it through, and ours has a fresh one."""
    row = Row("manifest by tag, 32 connections (ours: proxied and fresh)")
    servers = [ground.nginx, ground.distribution, ground.proxy, ground.ours]
    _small(row, servers, f"manifests/{TAG}", effort)
    row.verdicts = _of_zot(row, _ZOT_TAG, 2.0)
    return row


def small_blob(ground: Ground, effort: Effort) -> Row:
    """A blob as small as an image's configuration."""
    row = Row("blob of 300 bytes, 32 connections")
    servers = [ground.nginx, ground.distribution, ground.proxy, ground.ours]
    _small(row, servers, ground.content.small.route, effort)
    row.verdicts = _of_zot(row, _ZOT_SMALL, 2.0)
    return row


def _small(row: Row, servers: Sequence[Server], path: str, effort: Effort) -> None:
    wrk = find("wrk")

    def measure(server: Server) -> Sample:
        before = server.cpu()
        seen = load.ask(server, path, effort.seconds, wrk)
        used = server.cpu() - before
        return {"req/s": seen.rate, "CPU us each": used / seen.requests * 1e6, "p99 ms": seen.p99 * 1000}

    _in_turn(row, servers, effort.rounds, measure)


def _of_zot(row: Row, zot: Zot, factor: float) -> list[Verdict]:
    """Return what `factor` times zot is: in requests a second, and in processor time, which others disturb less."""
    row.samples[_ZOT] = [
        {"req/s": sample["req/s"] * zot.rate, "CPU us each": sample["CPU us each"] * zot.cpu}
        for sample in row.samples["nginx"]
    ]
    row.samples["ours"] = row.samples.pop("ours")
    return [
        Verdict("req/s, of zot's (estimated)", row.ratio("req/s", "ours", _ZOT), factor, least=True),
        Verdict("CPU a request, of zot's (estimated)", row.ratio("CPU us each", "ours", _ZOT), 1 / factor),
    ]


# -- cold ------------------------------------------------------------------------------------------------------


def cold_one(ground: Ground, effort: Effort) -> Row:
    """A blob that is not here, for one client; `direct` asks the upstream itself."""
    row = Row("cold 256 MiB blob, 1 client")
    blobs: list[Blob] = []
    servers = [ground.upstream, ground.proxy, ground.ours]

    def measure(server: Server) -> Sample:
        if len(blobs) <= len(row.samples.get(server.name, ())):
            blobs.append(ground.cold_blob(256 * MIB))
        blob = blobs[-1]
        load.announce(server, blob)
        ground.settle()
        seen = load.pull(server, blob.route, blob.size, connections=1, processes=1)
        return {"s": seen.whole[0], "first byte ms": seen.first[0] * 1000}

    _in_turn(row, servers, effort.rounds, measure)
    first = [row.median(name, "first byte ms") for name in ("ours", "direct")]
    row.verdicts = [
        Verdict("time, of distribution's", row.ratio("s", "ours", ground.proxy.name), 0.9),
        Verdict("first byte over direct", first[0] - first[1], 10, " ms"),
    ]
    return row


def cold_crowd(ground: Ground, effort: Effort) -> Row:
    """A blob that is not here, for thirty clients at once, and for fifty."""
    row = Row(f"cold {effort.crowd_size // MIB} MiB blob, 30 clients")
    servers = [ground.upstream, ground.proxy, ground.ours]
    _in_turn(row, servers, effort.crowd_rounds, lambda server: _crowd(ground, server, 30, effort))
    for _ in range(effort.crowd_rounds):
        row.samples.setdefault("ours, 50 clients", []).append(_crowd(ground, ground.ours, 50, effort))
    row.verdicts = [
        Verdict("taken from upstream, 30 clients", row.median("ours", "taken x"), 1.0),
        Verdict("taken from upstream, 50 clients", row.median("ours, 50 clients", "taken x"), 1.0),
        Verdict("first byte of the median client", row.median("ours", "first byte ms"), 50, " ms"),
        Verdict("first byte of the last client", row.median("ours", "last's ms"), 50, " ms"),
    ]
    return row


def _crowd(ground: Ground, server: Server, clients: int, effort: Effort) -> Sample:
    blob = ground.cold_blob(effort.crowd_size)
    load.announce(server, blob)
    seen = load.pull(server, blob.route, blob.size, connections=clients)
    return {
        "taken x": ground.taken(blob),
        "first byte ms": statistics.median(seen.first) * 1000,
        "last's ms": max(seen.first) * 1000,
        "s": seen.seconds,
    }


def memory(ground: Ground, effort: Effort) -> Row:
    """The memory of each process while thirty cold clients a worker pull."""
    row = Row(f"memory, 30 cold clients a worker ({ground.ours.workers()} workers)")
    small, large = effort.crowd_size // 2, effort.crowd_size * 2

    def measure(server: Server, size: int, clients: int) -> Sample:
        blob = ground.cold_blob(size)
        with MemoryWatch(server) as watch:
            load.pull(server, blob.route, blob.size, connections=clients)
        return {"RSS MB": watch.resident / MB, "PSS MB": watch.proportional / MB}

    clients = 30 * ground.ours.workers()
    row.samples[f"ours, {small // MIB} MiB"] = [measure(ground.ours, small, clients)]
    row.samples[f"ours, {large // MIB} MiB"] = [measure(ground.ours, large, clients)]
    row.samples[f"{ground.proxy.name}, {small // MIB} MiB"] = [measure(ground.proxy, small, 30)]
    peak = row.median(f"ours, {large // MIB} MiB", "RSS MB")
    row.verdicts = [
        Verdict("RSS of the largest worker", peak, 120, " MB"),
        Verdict("RSS with four times the blob", peak / row.median(f"ours, {small // MIB} MiB", "RSS MB"), 1.2),
    ]
    return row


def resume(ground: Ground, effort: Effort) -> Row:
    """What is taken from upstream when every process is killed in the middle of a download and started again."""
    row = Row("resume after kill -9 in the middle of a download")
    blob = ground.cold_blob(effort.crowd_size * 2)
    with ground.slow() as server:
        server.start()

        def kill_half_way() -> None:
            deadline = time.monotonic() + 30
            while sum(part.stat().st_size for part in ground.parts("slow-store")) < blob.size // 2:
                if time.monotonic() > deadline:
                    raise BenchError("ours does not download")
                time.sleep(0.005)
            server.kill()

        load.pull(server, blob.route, blob.size, connections=1, processes=1, interrupted=kill_half_way)
        server.start()
        load.pull(server, blob.route, blob.size, connections=1, processes=1)
    row.samples["ours"] = [{"taken x": ground.taken(blob)}]
    row.verdicts = [Verdict("taken from upstream", row.median("ours", "taken x"), 1.1)]
    return row


# -- pushed ----------------------------------------------------------------------------------------------------


def pushed(ground: Ground, effort: Effort) -> Row:
    """A large blob that a client pushes, until it is acknowledged; ours has it on disk by then."""
    row = Row("push of a 256 MiB blob, 1 client")

    def measure(server: Server) -> Sample:
        blob = ground.content.blob(256 * MIB)
        try:
            ground.settle()
            before = server.cpu()
            seconds = load.push(server, "/v2/pushed/app", blob)
            return {"GB/s": blob.size / seconds / GB, "CPU s/GB": (server.cpu() - before) / (blob.size / GB)}
        finally:
            blob.path.unlink()

    _in_turn(row, [ground.distribution, ground.ours], effort.rounds, measure)
    row.verdicts = [
        Verdict("GB/s, of distribution's", row.ratio("GB/s", "ours", "distribution"), 1.0, least=True),
        Verdict("CPU a GB, of distribution's", row.ratio("CPU s/GB", "ours", "distribution"), 1.0),
    ]
    return row


# -- starting --------------------------------------------------------------------------------------------------


def starting(ground: Ground, effort: Effort) -> Row:
    """How long a user waits for the service and for the command."""
    row = Row("starting")
    ground.ours.stop()
    command, environment = [*mirror_command(), "--help"], {**os.environ, **ground.ours.environment}
    for _ in range(effort.rounds):
        ready = ground.ours.start()
        ground.ours.stop()
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True, timeout=30, cwd=ROOT, env=environment)
        row.samples.setdefault("ours", []).append({"start to ready s": ready, "--help s": time.monotonic() - began})
    ground.ours.start()
    row.verdicts = [
        Verdict("start to ready, the fastest", row.least("ours", "start to ready s"), 1.0, " s"),
        Verdict("mirror --help, the fastest", row.least("ours", "--help s"), 0.3, " s"),
    ]
    return row


def million(ground: Ground, effort: Effort) -> Row:
    """How long a start takes when the store holds a million blobs."""
    row = Row("starting with 1 000 000 blobs in the store")
    server = ground.slow()
    full, empty = "ours, a million blobs", "ours, none"

    def start(name: str) -> None:
        for _ in range(effort.rounds):
            row.samples.setdefault(name, []).append({"start to ready s": server.start()})
            server.stop()

    with server:
        start(empty)
        _fill(ground.folder / "slow-store" / "blobs" / "sha256", 1_000_000)
        start(full)
    fastest = row.least(full, "start to ready s")
    row.verdicts = [
        Verdict("start to ready, the fastest", fastest, 1.0, " s"),
        Verdict("start to ready, of that without blobs", fastest / row.least(empty, "start to ready s"), 1.2),
    ]
    return row


def _fill(folder: Path, count: int) -> None:
    """Make sealed, sparse blobs whose names are numbers. Nobody reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        size = number % 5000 + 1
        path = f"{folder}/{number:064x}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o440)
        os.ftruncate(fd, size)
        os.utime(fd, (1_000_000_000 + size,) * 2)
        os.close(fd)


ROWS: dict[str, Callable[[Ground, Effort], Row]] = {
    "warm": warm,
    "tls": warm_tls,
    "digest": by_digest,
    "tag": by_tag,
    "small": small_blob,
    "cold": cold_one,
    "crowd": cold_crowd,
    "memory": memory,
    "resume": resume,
    "push": pushed,
    "start": starting,
    "million": million,
}
