"""Where the programs of others are that tests run, and what a missing one means."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Programs:
    """Finds programs on PATH, in `.tools/bin` and in the virtual environment.

    `required` is a comma-separated list of names, or `all`: a program of it that is missing fails the test.
    """

    def __init__(self, required: str, environment: Path) -> None:
        self._required = {name.strip() for name in required.split(",") if name.strip()}
        self._path = os.pathsep.join(
            [str(environment / "bin"), str(ROOT / ".tools" / "bin"), os.environ.get("PATH", ""), "/usr/sbin"]
        )

    def find(self, name: str) -> str:
        """Return the full path of a program; skip or fail the test that asks where there is none."""
        found = shutil.which(name, path=self._path)
        if found is not None:
            return found
        missing = f"{name} is not installed"
        if self._required & {name, "all"}:
            pytest.fail(f"{missing}, and REQUIRE_TOOLS asks for it", pytrace=False)
        pytest.skip(missing)
