"""What is around every benchmark's rows: its options, its time limit, its folders, and what others took meanwhile."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_MEMORY = Path("/dev/shm")
_ROOM = 2_000_000_000  # bytes


def options(program: str, about: str | None, rows: Iterable[str], *, quick: str, room: str) -> argparse.ArgumentParser:
    """Return the options that every benchmark has; `quick` says what --quick does, `room` what --folder must hold."""
    parser = argparse.ArgumentParser(prog=program, description=about)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample as JSON")
    parser.add_argument("--row", action="append", choices=list(rows), help="only this row; may be repeated")
    place = Path("/var/tmp")
    parser.add_argument("--folder", type=Path, default=place, help=f"where {room} may be (default {place})")
    return parser


def say(text: str) -> None:
    """Tell who waits what is being done."""
    print(f"… {text}", flush=True)


@contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """Make a folder in `parent` and take it away at the end."""
    made = Path(tempfile.mkdtemp(prefix="mirror-bench-", dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def memory(otherwise: Path) -> Path:
    """Return where files are kept in memory, or `otherwise` where there is too little of it."""
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM else otherwise


class EndedError(Exception):
    """The time is over, or somebody asked to end."""


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """Raise EndedError in the block after so many seconds, and on SIGTERM."""
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, _give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _give_up(number: int, _frame: FrameType | None) -> None:
    raise EndedError("its time is over" if number == signal.SIGALRM else "asked to end")


class Meanwhile:
    """What goes by from its making on: the time, and the processor time that others took."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = _processor()

    @property
    def seconds(self) -> float:
        """How long it has been."""
        return time.monotonic() - self._began

    def __str__(self) -> str:
        others, stolen = self._disturbance()
        return (
            f"  {self.seconds:.0f} s on {os.cpu_count()} cores, of which others took {others:.0%}"
            f" and the hypervisor {stolen:.0%}"
        )

    def machine(self) -> dict[str, object]:
        """Return what figures were taken on, and the parts of it that others and the hypervisor took."""
        others, stolen = self._disturbance()
        return {
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "others": others,
            "stolen": stolen,
        }

    def _disturbance(self) -> tuple[float, float]:
        all_of_it, used, stolen, own = (now - then for now, then in zip(_processor(), self._before, strict=True))
        return max(0.0, used - own) / all_of_it, stolen / all_of_it


def _processor() -> tuple[float, float, float, float]:
    """Return processor seconds since the boot: all, used, stolen by a hypervisor, used by this program's processes."""
    user, nice, system, idle, waiting, hard, soft, stolen = (
        int(field) / os.sysconf("SC_CLK_TCK") for field in Path("/proc/stat").read_text().split()[1:9]
    )
    used = user + nice + system + hard + soft
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return used + idle + waiting + stolen, used, stolen, own
