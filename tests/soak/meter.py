"""What the service takes: memory and descriptors of all its processes, and whether they grow."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One look: `memory` in bytes (PSS), open `descriptors`, and when."""

    memory: int
    descriptors: int
    at: float


def processes(session: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and _session(int(entry)) == session:
            found.append(int(entry))
    return found


def look(session: int) -> Sample:
    """Measure the processes of a session; those that end meanwhile count as nothing. Blocks."""
    memory = descriptors = 0
    for pid in processes(session):
        try:
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            memory += _proportional(Path(f"/proc/{pid}/smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return Sample(memory, descriptors, time.monotonic())


def thirds(values: list[int]) -> tuple[int, int]:
    """Return the medians of the middle and of the last third."""
    third = len(values) // 3
    return int(statistics.median(values[third : 2 * third])), int(statistics.median(values[-third:]))


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return -1


def _proportional(text: str) -> int:
    """Return the bytes of the line `Pss`, which counts what processes share once (proc(5))."""
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
