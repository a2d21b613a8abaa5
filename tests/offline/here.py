"""Commands at a site, run in the process of the tests, which takes a tenth of the time that a new one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from mirror.cli import main
from tests.offline.site import Site


class Here:
    """A site and its commands."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def run(self, *words: str | Path, code: int = 0) -> Result:
        line = [str(word) for word in (*words, "--config", self.site.configuration)]
        result = CliRunner().invoke(main, line, catch_exceptions=False)
        assert result.exit_code == code, f"mirror {' '.join(line)}\n{result.output}"
        return result

    def report(self, *words: str | Path, code: int = 0) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.run(*words, "--json", "-q", code=code).stdout)
        assert (report["schema"], report["command"], report["exit"]) == (1, words[0], code)
        assert report["ok"] == (code == 0)
        for problem in report["problems"]:
            assert set(problem) == {"code", "what", "where", "remedy"}
        return report


def codes(report: dict[str, Any]) -> list[str]:
    """Return the codes of the problems in a report."""
    return [problem["code"] for problem in report["problems"]]
