"""`make bench`: measures ours beside nginx and distribution and says which figures are reached."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import frame, report, rows
from bench.ground import Ground
from bench.processes import BenchError

_FULL_LIMIT, _QUICK_LIMIT, _MILLION_LIMIT = 360, 90, 300  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0, or 1 where a measurement failed (with --strict: or a figure is not reached)."""
    options = _options().parse_args(arguments)
    names = options.row or [name for name in rows.ROWS if name != "million" or options.million]
    effort = rows.QUICK if options.quick else rows.FULL
    limit = (_QUICK_LIMIT if options.quick else _FULL_LIMIT) + ("million" in names) * _MILLION_LIMIT
    meanwhile = frame.Meanwhile()
    done: list[report.Row] = []
    with frame.bounded(limit):
        failed = _measure(names, effort, done, options.folder)
    print(report.summary(done))
    print(meanwhile)
    if options.json:
        options.json.write_text(report.as_json(done, meanwhile.machine()))
    short = any(not verdict.reached for row in done for verdict in row.verdicts)
    return 1 if failed or (options.strict and short) else 0


def _options() -> argparse.ArgumentParser:
    parser = frame.options("bench", __doc__, rows.ROWS, quick="less of everything: under 90 s", room="8 GB")
    parser.add_argument("--million", action="store_true", help="also start over a million blobs (takes minutes)")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a figure is not reached")
    return parser


def _measure(names: Sequence[str], effort: rows.Effort, done: list[report.Row], folder: Path) -> bool:
    """Append a row a name; return whether one could not be measured."""
    failed = False
    try:
        with ExitStack() as running:
            place = running.enter_context(frame.folder(folder))
            memory = running.enter_context(frame.folder(frame.memory(place)))
            ground = Ground(place, memory, running, frame.say)
            for name in names:
                try:
                    done.append(rows.ROWS[name](ground, effort))
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
