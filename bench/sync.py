"""`make bench-sync`: a release brought over a slow link by ours, regsync and skopeo; what a rerun costs; memory."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import frame, report
from bench.afar import COMPONENTS, Afar
from bench.copiers import PARALLEL, REGSYNC_REQUESTS, Copier, Ours, Regsync, Skopeo
from bench.crossing import crossing
from bench.processes import BenchError
from bench.report import Row, Sample, Verdict

MB = 1e6
ROUND_TRIP = 0.05  # seconds
RATE = 10e6  # bytes a second, of each connection

_FULL_LIMIT, _QUICK_LIMIT = 1200, 400  # seconds
_MEMORY_LIMIT = 200.0  # MB
_FLAT = 1.2


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done: the scale of the release, and how often each tool brings it."""

    scale: float
    rounds: int
    untuned: bool  # regsync too as it comes, once


FULL = Effort(scale=10, rounds=3, untuned=True)
QUICK = Effort(scale=1, rounds=1, untuned=False)


class Ground:
    """A release far away, made when it is first asked for, and the tools that bring it."""

    def __init__(self, folder: Path, effort: Effort, running: ExitStack) -> None:
        self.folder = folder
        self.effort = effort
        self._running = running
        self._afar: dict[float, Afar] = {}
        self._ours: Ours | None = None

    def afar(self, share: float = 1.0) -> Afar:
        """Return the release, or one that has only this share of its bytes."""
        if share not in self._afar:
            frame.say(f"making {COMPONENTS} components")
            made = Afar(self.folder / f"afar-{share:g}", self.effort.scale * share, ROUND_TRIP, RATE)
            self._afar[share] = self._running.enter_context(made)
            os.sync()
        return self._afar[share]

    def ours(self) -> Ours:
        """Return ours with the release in its store."""
        if self._ours is None:
            made = Ours(self.folder / "set", self.afar())
            made.empty()
            made.bring()
            self._ours = made
        return self._ours


def cold(ground: Ground) -> Row:
    """The whole release, and then the same again, by each tool in turn."""
    afar, effort = ground.afar(), ground.effort
    row = Row(
        f"{len(afar.images)} images of a release, {afar.size / MB:.0f} MB, over {ROUND_TRIP * 1000:.0f} ms"
        f" and {RATE / MB:.0f} MB/s a connection"
    )
    mirror = Ours(ground.folder / "ours", afar)
    mirror.warm_up()
    tools: list[Copier] = [mirror, Regsync(ground.folder / "regsync", afar)]
    once: list[Copier] = [Skopeo(ground.folder / "skopeo", afar)]
    if effort.untuned:
        once.insert(0, Regsync(ground.folder / "regsync-untuned", afar, REGSYNC_REQUESTS))
    for number in range(effort.rounds):
        turn = number % len(tools)
        for tool in (*tools[turn:], *tools[:turn], *(once if not number else ())):
            frame.say(f"{tool.name}, round {number + 1}")
            row.samples.setdefault(tool.name, []).append(_both(tool, afar))
    row.samples = {tool.name: row.samples[tool.name] for tool in (*tools, *once)}
    ours, regsync, skopeo = tools[0].name, tools[1].name, once[-1].name
    row.notes.append(f"regsync and skopeo copy {PARALLEL} images at once into a registry on this machine")
    row.notes.append("taken: bytes that came over the link, headers too, of what the release has, each digest once")
    row.notes.append("ours also brings graph and signatures and verifies them; the others get a list of digests")
    row.verdicts = [
        Verdict("time, of regsync's", row.ratio("s", ours, regsync), 0.7),
        Verdict("time, of skopeo's", row.median(ours, "s") / row.median(skopeo, "s"), 0.7),
        Verdict("taken over the link", row.median(ours, "taken x"), 1.0),
        Verdict("again, with nothing to fetch", row.median(ours, "again s"), 3.0, " s"),
        Verdict("peak memory", max(one["peak MB"] for one in row.samples[ours]), _MEMORY_LIMIT, " MB"),
    ]
    return row


def _both(tool: Copier, afar: Afar) -> Sample:
    """Bring the release into emptiness, and again; return what that took."""
    tool.empty()
    os.sync()
    try:
        before = afar.carried()
        first = tool.bring()
        carried = afar.carried().since(before)
        second = tool.bring()
    finally:
        tool.close()
    return {
        "s": first.seconds,
        "taken x": carried.downward / afar.size,
        "connections": carried.connections,
        "CPU s": first.cpu,
        "peak MB": max(first.memory, second.memory) / MB,
        "again s": second.seconds,
    }


def memory(ground: Ground) -> Row:
    """Ours with the release, and with one of a quarter of its bytes."""
    row = Row("memory of `mirror sync`, largest process")
    for share in (0.25, 1.0):
        afar = ground.afar(share)
        tool = Ours(ground.folder / f"memory-{share:g}", afar)
        tool.empty()
        frame.say(f"bringing {afar.size / MB:.0f} MB")
        row.samples[f"ours, {afar.size / MB:.0f} MB"] = [{"peak MB": tool.bring().memory / MB}]
    small, large = (row.median(name, "peak MB") for name in row.samples)
    row.verdicts = [
        Verdict("peak memory", large, _MEMORY_LIMIT, " MB"),
        Verdict("peak memory with four times the bytes", large / small, _FLAT),
    ]
    return row


def local(ground: Ground) -> Row:
    """Save, load and verify what the store has, on this disk."""
    ours = ground.ours()
    frame.say("saving, loading, verifying")
    return crossing(ours, ground.folder / "crossing", ground.afar().size, _MEMORY_LIMIT)


ROWS: dict[str, Callable[[Ground], Row]] = {"cold": cold, "memory": memory, "local": local}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0, or 1 where a measurement failed (with --strict: or a figure is not reached)."""
    options = _options().parse_args(arguments)
    effort = QUICK if options.quick else FULL
    meanwhile = frame.Meanwhile()
    done: list[Row] = []
    with frame.bounded(_QUICK_LIMIT if options.quick else _FULL_LIMIT):
        failed = _measure(options.row or list(ROWS), effort, done, options.folder)
    print(report.summary(done))
    print(meanwhile)
    if options.json:
        options.json.write_text(report.as_json(done, meanwhile.machine()))
    short = any(not verdict.reached for row in done for verdict in row.verdicts)
    return 1 if failed or (options.strict and short) else 0


def _options() -> argparse.ArgumentParser:
    quick = "a release of a tenth of the bytes, one round"
    parser = frame.options("bench.sync", __doc__, ROWS, quick=quick, room="10 GB")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a figure is not reached")
    return parser


def _measure(names: Sequence[str], effort: Effort, done: list[Row], folder: Path) -> bool:
    """Append a row a name; return whether one could not be measured."""
    failed = False
    try:
        with ExitStack() as running:
            ground = Ground(running.enter_context(frame.folder(folder)), effort, running)
            for name in names:
                try:
                    done.append(ROWS[name](ground))
                    print(f"\n{done[-1]}", flush=True)
                except (BenchError, OSError, subprocess.SubprocessError) as error:
                    failed = True
                    print(f"\n{name}: not measured: {error}", flush=True)
    except (BenchError, frame.EndedError) as error:
        print(f"\nended: {error}", flush=True)
        return True
    return failed


if __name__ == "__main__":
    sys.exit(main())
