"""A missing tool skips its test on a developer's machine, and fails it where CI asks for the tool."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.programs import Programs

ABSENT = "no-such-program"


def test_missing_tool_skips() -> None:
    with pytest.raises(pytest.skip.Exception, match=ABSENT):
        Programs("skopeo,podman", Path("/nowhere")).find(ABSENT)


@pytest.mark.parametrize("required", ["all", f"skopeo, {ABSENT}"])
def test_missing_tool_that_is_required_fails(required: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="REQUIRE_TOOLS"):
        Programs(required, Path("/nowhere")).find(ABSENT)


def test_tool_of_the_virtual_environment_comes_first(tmp_path: Path) -> None:
    mine = tmp_path / "bin" / "sh"
    mine.parent.mkdir()
    mine.touch(0o755)
    assert Programs("", tmp_path).find("sh") == str(mine)
