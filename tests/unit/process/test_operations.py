"""What an operator may read in the log or in the metrics is explained in docs/operations.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

from mirror.admin.conditions import REASONS
from mirror.cli import main, outcome
from mirror.metrics import FAMILIES
from mirror.registry.errors import TABLE

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


def rows(text, first):
    """Return the rows of a table whose first cell is `first`."""
    return [line for line in text.splitlines() if line.startswith(f"| {first} |")]


def test_every_command_is_described(documented):
    others = (path for path in ROOT.joinpath("docs").glob("*.md") if path.name != "operations.md")
    walk = "".join(path.read_text() for path in others)
    for name in main.commands:
        assert len(rows(documented, f"`mirror {name}`")) == 1, name
        assert f"mirror {name}" in walk


def test_every_option_is_explained():
    everything = "".join(path.read_text() for path in ROOT.joinpath("docs").glob("*.md"))
    for name, command in main.commands.items():
        for option in (one for one in command.params if one.param_type_name == "option"):
            spelled = re.compile(rf"(?<![\w-])(?:{'|'.join(option.opts)})(?![\w-])")
            assert spelled.search(everything), f"mirror {name} {option.opts}"


def test_modules_that_the_manual_names_are_there():
    for manual in ROOT.joinpath("docs").glob("*.md"):
        for name in re.findall(r"`([a-z_]+(?:/[a-z_]+)+\.py)`", manual.read_text()):
            assert ROOT.joinpath("mirror", name.removeprefix("mirror/")).is_file(), f"{manual.name}: {name}"


def test_every_exit_code_says_what_to_do(documented):
    codes = {value for name, value in vars(outcome).items() if name.isupper() and isinstance(value, int)}
    assert codes == {0, 1, 3, 4, 5, 75, 78}
    told = main.help.partition("Exit codes:")[2]
    for code in {*codes, click.UsageError.exit_code}:
        table = documented.partition("## Exit codes\n")[2].partition("\n## ")[0]
        found = rows(table, code)
        assert len(found) == 1, code
        assert len(found[0].strip("|").split("|")) == 3
        assert re.search(rf"\b{code}\b", told)


def test_every_metric_says_what_to_do(documented):
    for family in FAMILIES:
        rows = [line for line in documented.splitlines() if line.startswith(f"| `{family.name}` |")]
        assert len(rows) == 1, family.name
        assert len(rows[0].strip("|").split("|")) == 3


def section(text, heading):
    """Return what stands under a heading, up to the next one of its rank."""
    rank = heading.partition(" ")[0]
    return text.partition(f"\n{heading}\n")[2].partition(f"\n{rank} ")[0]


def test_every_reason_of_a_condition_is_in_the_manual_and_no_other(documented):
    told = section(documented, "## Start, stop, health")
    words, _, table = told.partition("**Degraded**")
    busy = words.partition("**Progressing**")[2]
    first = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    for text, kind in ((busy, "Progressing"), (first, "Degraded")):
        assert set(re.findall(r"`([A-Z][A-Za-z]+)`", text)) == set(REASONS[kind])


def test_events_that_the_manual_names_are_logged(documented):
    sources = "".join(path.read_text() for path in ROOT.joinpath("mirror").rglob("*.py"))
    rows = [line for line in section(documented, "### Events").splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert len(named) > 100
    assert sorted(name for name in named if f'"{name}"' not in sources) == []


def test_symptoms_are_answers_that_we_give(documented):
    rows = [line for line in section(documented, "## Symptoms").splitlines() if line.startswith("| ")]
    seen = {int(code) for row in rows for code in re.findall(r"\b[45]\d\d\b", row.split("|")[1])}
    assert {404, 413, 503} <= seen <= {row.status for row in TABLE.values()}


def test_every_event_that_calls_for_somebody_says_what_to_do(documented):
    names = loud_events()
    assert {"worker_stuck", "request_malformed", "duty_failed"} <= names
    missing = sorted(name for name in names if f"`{name}`" not in documented)
    assert not missing, f"say in docs/operations.md what to do about {missing}"
