"""`make bench`: measures ours beside nginx and distribution and says which figures are reached."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from bench import report, rows
from bench.ground import Ground
from bench.processes import BenchError

_MEMORY = Path("/dev/shm")
_ROOM = 2_000_000_000  # bytes

_FULL_LIMIT, _QUICK_LIMIT, _MILLION_LIMIT = 360, 90, 300  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0, or 1 where a measurement failed (with --strict: or a figure is not reached)."""
    options = _options().parse_args(arguments)
    names = options.row or [name for name in rows.ROWS if name != "million" or options.million]
    effort = rows.QUICK if options.quick else rows.FULL
    limit = (_QUICK_LIMIT if options.quick else _FULL_LIMIT) + ("million" in names) * _MILLION_LIMIT
    signal.signal(signal.SIGALRM, give_up)
    signal.signal(signal.SIGTERM, give_up)
    signal.alarm(limit)
    began, before = time.monotonic(), processor()
    done: list[report.Row] = []
    failed = _measure(names, effort, done, options.folder)
    signal.alarm(0)
    print(report.summary(done))
    others, stolen = disturbance(before)
    print(f"  {time.monotonic() - began:.0f} s on {os.cpu_count()} cores, of which others took {others:.0%}", end="")
    print(f" and the hypervisor {stolen:.0%}")
    if options.json:
        options.json.write_text(report.as_json(done, {**machine(), "others": others, "stolen": stolen}))
    short = any(not verdict.reached for row in done for verdict in row.verdicts)
    return 1 if failed or (options.strict and short) else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything: under 90 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample as JSON")
    parser.add_argument("--million", action="store_true", help="also start over a million blobs (takes minutes)")
    parser.add_argument("--row", action="append", choices=list(rows.ROWS), help="only this row; may be repeated")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a figure is not reached")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where 8 GB may be (default /var/tmp)")
    return parser


def _measure(names: Sequence[str], effort: rows.Effort, done: list[report.Row], folder: Path) -> bool:
    """Append a row a name; return whether one could not be measured."""
    failed = False
    place = Path(tempfile.mkdtemp(prefix="mirror-bench-", dir=folder))
    memory = Path(tempfile.mkdtemp(prefix="mirror-bench-", dir=_MEMORY)) if _roomy(_MEMORY) else place
    try:
        with ExitStack() as running:
            ground = Ground(place, memory, running, lambda text: print(f"… {text}", flush=True))
            for name in names:
                try:
                    done.append(rows.ROWS[name](ground, effort))
                    print(f"\n{done[-1]}", flush=True)
                except (BenchError, OSError, subprocess.SubprocessError) as error:
                    failed = True
                    print(f"\n{name}: not measured: {error}", flush=True)
    except (BenchError, EndedError) as error:
        print(f"\nended: {error}", flush=True)
        return True
    finally:
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)
    return failed


def _roomy(folder: Path) -> bool:
    """Tell whether what the upstream serves can be kept in memory."""
    return folder.is_dir() and shutil.disk_usage(folder).free > _ROOM


class EndedError(Exception):
    """The time is over, or somebody asked to end."""


def give_up(number: int, _frame: FrameType | None) -> None:
    """End what is measured; for signals."""
    raise EndedError("its time is over" if number == signal.SIGALRM else "asked to end")


def processor() -> tuple[float, float, float, float]:
    """Return processor seconds since the boot: all, used, stolen by a hypervisor, used by this program's processes."""
    user, nice, system, idle, waiting, hard, soft, stolen = (
        int(field) / os.sysconf("SC_CLK_TCK") for field in Path("/proc/stat").read_text().split()[1:9]
    )
    used = user + nice + system + hard + soft
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return used + idle + waiting + stolen, used, stolen, own


def disturbance(before: tuple[float, float, float, float]) -> tuple[float, float]:
    """Return the parts of all processors that others, and the hypervisor, have taken since `before`."""
    all_of_it, used, stolen, own = (now - then for now, then in zip(processor(), before, strict=True))
    return max(0.0, used - own) / all_of_it, stolen / all_of_it


def machine() -> dict[str, object]:
    """Return what figures were taken on."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


if __name__ == "__main__":
    sys.exit(main())
