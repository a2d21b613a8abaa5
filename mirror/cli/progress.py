"""Long work as it goes on: a bar with bytes, rate and time left on a terminal, JSON lines elsewhere."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import click

_EVERY = 5.0  # seconds between lines
_BAR_EVERY = 0.25
_WINDOW = 10.0  # seconds over which the rate is measured


class Step(NamedTuple):
    """How far the work is: bytes of all bytes, and what it is at."""

    done: int
    total: int
    what: str = ""


@contextmanager
def shown(command: str, look: Callable[[], Step], *, quiet: bool) -> Iterator[None]:
    """Show what `look` returns, from a thread of its own, while the block runs. `look` must be cheap and never wait."""
    if quiet:
        yield
        return
    over = threading.Event()
    show = _bar if sys.stderr.isatty() else _lines
    thread = threading.Thread(target=show, args=(command, look, over), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _bar(command: str, look: Callable[[], Step], over: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn(f"{command} {{task.description}}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        while not over.wait(_BAR_EVERY):
            step = look()
            progress.update(task, completed=step.done, total=step.total or None, description=step.what)


def _lines(command: str, look: Callable[[], Step], over: threading.Event) -> None:
    seen = [(time.monotonic(), look().done)]
    while not over.wait(_EVERY):
        step, now = look(), time.monotonic()
        seen.append((now, step.done))
        while len(seen) > 2 and now - seen[0][0] > _WINDOW:
            seen.pop(0)
        rate = (step.done - seen[0][1]) / max(now - seen[0][0], 1e-9)
        line = {
            "event": "progress",
            "command": command,
            "bytes": step.done,
            "total": step.total,
            "rate": round(rate),
            "left": round((step.total - step.done) / rate) if rate > 0 and step.total else None,
        }
        click.echo(json.dumps(line), err=True)
