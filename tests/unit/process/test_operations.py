"""What an operator may read in the log or in the metrics is explained in docs/operations.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mirror.metrics import FAMILIES

ROOT = Path(__file__).parents[3]
LOUD = {"warning", "error", "exception", "critical"}


def loud_events():
    """Return the literal names of events at warning and above that mirror/ logs."""
    names = set()
    for path in ROOT.joinpath("mirror").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            # `log.warning("name", …)`, or handed to a thread: `run(log.warning, "name", …)`.
            for called, first in [(node.func, node.args[0]), *zip(node.args, node.args[1:], strict=False)]:
                logs = isinstance(called, ast.Attribute) and called.attr in LOUD
                if logs and isinstance(first, ast.Constant) and isinstance(first.value, str):
                    names.add(first.value)
    return names


@pytest.fixture(scope="module")
def documented():
    return ROOT.joinpath("docs/operations.md").read_text()


def test_every_metric_says_what_to_do(documented):
    for family in FAMILIES:
        rows = [line for line in documented.splitlines() if line.startswith(f"| `{family.name}` |")]
        assert len(rows) == 1, family.name
        assert len(rows[0].strip("|").split("|")) == 3


def test_every_event_that_calls_for_somebody_says_what_to_do(documented):
    names = loud_events()
    assert {"worker_stuck", "request_malformed", "duty_failed"} <= names
    missing = sorted(name for name in names if f"`{name}`" not in documented)
    assert not missing, f"say in docs/operations.md what to do about {missing}"
