"""How far a long command is: a bar on a terminal, lines of JSON elsewhere, and both on standard error."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from mirror.cli import progress
from mirror.cli.progress import Step
from tests.tools.processes import wait_until
from tests.tools.programs import ROOT

ON_A_TERMINAL = """
import sys, time
from mirror.cli import progress
looked = []
def look():
    looked.append(1)
    return progress.Step(len(looked), 1000, "some")
with progress.shown("sync", look, quiet=False):
    while len(looked) < 3:
        time.sleep(0.01)
loaded = {name.partition(".")[0] for name in sys.modules}
print(*sorted(loaded & {"rich", "pygments", "markdown_it", "mdurl"}))
"""


def test_elsewhere_it_is_a_line_of_json(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/disconnected.md, Across the gap. Nothing that draws is loaded (docs/dependencies.md)."""
    monkeypatch.setattr(progress, "_EVERY", 0.05)
    looked: list[int] = []

    def look() -> Step:
        looked.append(1)
        return Step(len(looked), 1000, "some")

    with progress.shown("sync", look, quiet=False):
        wait_until(lambda: len(looked) > 3, "a few looks")
    out, err = capfd.readouterr()
    assert out == ""
    lines = [json.loads(line) for line in err.splitlines()]
    assert lines
    assert {(line["event"], line["command"]) for line in lines} == {("progress", "sync")}


def test_on_a_terminal_it_is_a_bar() -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", ON_A_TERMINAL],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            check=True,
        )
        os.set_blocking(ours, False)
        drawn = os.read(ours, 100_000).decode(errors="replace")
    finally:
        os.close(ours)
        os.close(theirs)
    assert "sync" in drawn
    assert "progress" not in drawn
    assert done.stdout.split() == ["rich"]
