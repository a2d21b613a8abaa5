"""The exit code of a command that met several things is the most telling one."""

from __future__ import annotations

import itertools
import re

import pytest

from mirror.cli.outcome import DONE, Outcome
from tests.tools.programs import ROOT

ORDER = (78, 4, 5, 3, 75, 1)


def test_of_several_codes_the_first_of_the_manuals_order_is_given() -> None:
    assert Outcome("sync", as_json=False).exit == DONE
    for first, second in itertools.permutations(ORDER, 2):
        outcome = Outcome("sync", as_json=False)
        outcome.note(first, "one", "one thing")
        outcome.note(second, "other", "another thing")
        assert outcome.exit == min(first, second, key=ORDER.index)


@pytest.mark.parametrize("manual", ["operations", "disconnected"])
def test_both_manuals_say_that_order(manual: str) -> None:
    (said,) = re.findall(r"78, 4, [0-9, ]+[0-9]", (ROOT / "docs" / f"{manual}.md").read_text())
    assert said == ", ".join(map(str, ORDER))
