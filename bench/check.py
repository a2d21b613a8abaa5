"""`make bench-check BASE=<commit>`: is this checkout slower than that commit? Both run side by side, in turns.

Each row is some work (bench/works.py), and its figure the processor time that a service spends on a unit of it,
current to base. Sittings (bench/sitting.py) are held until each row is certain enough or the time is over; what they
say, and when a row fails, is in bench/paired.py.

Exit code: 0, or 1 where a row is slower or was not measured, or 2 where there is nothing to compare.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import frame, paired, side
from bench.processes import BenchError
from bench.sitting import Bed, Course, go_first, one_processor, still_addresses
from bench.works import WORKS, Work

# Until when sittings are held: the second for rows of which too little is known to pass or fail them. Seconds.
_FULL, _FULL_LIMIT = 420, 600
_QUICK, _QUICK_LIMIT = 120, 240
_QUICK_SHARE = 0.4  # of a sitting's work
_ENDING = 60  # seconds that a sitting may take beyond what it was thought to


class Row:
    """One row of the table: what the sittings so far say of a work."""

    def __init__(self, name: str, work: Work) -> None:
        self.name = name
        self.work = work
        self.courses: list[Course] = []

    @property
    def finding(self) -> paired.Finding:
        """What it comes to."""
        return paired.judge([course.ratio for course in self.courses])

    def __str__(self) -> str:
        found = self.finding
        scale = self.work.scale / self.work.units
        base = statistics.median(course.base.cost for course in self.courses) * scale
        clock = statistics.median(course.clock_ratio for course in self.courses)
        bounds = f"{found.low:.3f} to {found.high:.3f}" if found.sittings >= paired.FEWEST else "too few sittings"
        return (
            f"  {self.work.title:24}{base:>9.4g} {self.work.measure:14}{found.median:>8.3f}   {bounds:18}"
            f"{found.sittings:>3}{clock:>9.3f}   {found.word}"
        )

    def as_dict(self) -> dict[str, object]:
        """Return it for a program: costs are in `measure`, later ones and those of each slice as well."""
        found = self.finding
        scale = self.work.scale / self.work.units
        return {
            "title": self.work.title,
            "measure": self.work.measure,
            "median": found.median,
            "interval": [found.low, found.high] if found.sittings >= paired.FEWEST else None,
            "slower": found.slower,
            "verdict": found.word,
            "sittings": [
                {
                    "ratio": course.ratio,
                    "clock_ratio": course.clock_ratio,
                    **{
                        name: {
                            "slices": [cost * scale for cost in spent.slices],
                            "later": spent.later * scale,
                            "clock": [cost * scale for cost in spent.clock],
                        }
                        for name, spent in ((side.BASE, course.base), (side.CURRENT, course.current))
                    },
                }
                for course in self.courses
            ],
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print; return the exit code."""
    options = _options().parse_args(arguments)
    rows = [Row(name, WORKS[name]) for name in options.row or WORKS]
    meanwhile = frame.Meanwhile()
    limit = _QUICK_LIMIT if options.quick else _FULL_LIMIT
    facts: dict[str, object] = {}
    failed = False
    try:
        with frame.bounded(limit + _ENDING), ExitStack() as running:
            place = running.enter_context(frame.folder(options.folder))
            memory = running.enter_context(frame.folder(frame.memory(place)))
            sides = _sides(options.base, place)
            facts = {one.name: one.what for one in sides}
            facts |= {"processor": one_processor(), "first": options.first, "still_addresses": still_addresses()}
            if options.first:
                go_first()
            if not facts["still_addresses"]:
                frame.say("the kernel gives random addresses and takes no wish: expect twice the noise")
            bed = Bed(place, memory, sides, running)
            _sit(bed, rows, meanwhile, quick=options.quick)
    except side.UsageError as error:
        print(f"bench-check: {error}", file=sys.stderr)
        return 2
    except (BenchError, frame.EndedError, OSError, subprocess.SubprocessError) as error:
        print(f"\nended: {error}", flush=True)
        failed = True
    rows = [row for row in rows if row.courses]
    print(_table(rows))
    print(meanwhile)
    if options.json:
        document = {"schema": 1, "machine": meanwhile.machine(), **facts}
        document["rows"] = {row.name: row.as_dict() for row in rows}
        options.json.write_text(json.dumps(document, indent=1))
    return 1 if failed or any(row.finding.slower for row in rows) else 0


def _options() -> argparse.ArgumentParser:
    about = "Compare this checkout's processor time with a commit's."
    parser = frame.options("bench.check", about, WORKS, quick="2 minutes instead of 7: rougher", room="1 GB")
    parser.add_argument("--base", default="", metavar="COMMIT", help="what to compare with")
    parser.add_argument("--first", action="store_true", help="go before all else that runs here (root): less noise")
    return parser


def _sides(commit: str, place: Path) -> list[side.Side]:
    """Return the base and the current side, each in a folder whose name is as long as the other's."""
    sides = [side.base(commit, place / "side-0"), side.current(place / "side-1")]
    for one in sides:
        one.check()
        frame.say(f"{one.name}: {one.what}")
    return sides


def _sit(bed: Bed, rows: Sequence[Row], meanwhile: frame.Meanwhile, *, quick: bool) -> None:
    """Hold sittings until every row is settled or the time is over."""
    until, limit = (_QUICK, _QUICK_LIMIT) if quick else (_FULL, _FULL_LIMIT)
    longest = 0.0
    while open_rows := _unsettled(rows, over=meanwhile.seconds + longest > until):
        if meanwhile.seconds + longest > limit:
            return
        began = meanwhile.seconds
        courses = bed.sit([row.work for row in open_rows], _QUICK_SHARE if quick else 1.0)
        longest = max(longest, meanwhile.seconds - began)
        for row, course in zip(open_rows, courses, strict=True):
            row.courses.append(course)
        told = ", ".join(f"{row.name} {row.finding.median:.3f}" for row in open_rows)
        frame.say(f"{meanwhile.seconds:.0f} s: {told}")


def _unsettled(rows: Sequence[Row], *, over: bool) -> list[Row]:
    """Return which want another sitting: when the time is `over`, only those that would fail for what may be noise."""
    if not over:
        return [row for row in rows if not row.courses or not row.finding.settled]
    few = [row for row in rows if len(row.courses) < paired.FEWEST]
    return few or [row for row in rows if row.finding.slower and row.finding.noisy]


def _table(rows: Sequence[Row]) -> str:
    head = f"  {'processor time':24}{'base':>9} {'':14}{'current':>8}   {'of base: 99 of 100':18}{'n':>3}{'clock':>9}"
    slower = [row.work.title for row in rows if row.finding.slower]
    end = f"slower than the base: {', '.join(slower)}" if slower else "no row is slower than the base"
    return "\n".join(["", head, *map(str, rows), f"  {end}"])


if __name__ == "__main__":
    sys.exit(main())
