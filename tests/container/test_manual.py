"""Man pages and completion as bundle/manual.py makes them from the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bundle import manual
from mirror import __version__
from mirror.cli import main
from tests.tools.clients import run
from tests.tools.programs import Programs


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        manual.main([str(folder)])
    return folder


def commands() -> dict[str, click.Command]:
    found: dict[str, click.Command] = {"mirror": main}
    for name, command in main.commands.items():
        found[f"mirror-{name}"] = command
        if isinstance(command, click.Group):
            found |= {f"mirror-{name}-{inner}": one for inner, one in command.commands.items()}
    return found


def test_every_command_has_a_page(programs: Programs, share: Path) -> None:
    folder = share / "man" / "man1"
    assert {path.stem for path in folder.iterdir()} == commands().keys()
    mandoc = programs.find("mandoc")
    pages = sorted(folder.iterdir())
    run([mandoc, "-T", "lint", "-W", "warning", *map(str, pages)])
    for name, command in commands().items():
        shown = run([mandoc, "-T", "utf8", "-O", "width=200", str(folder / f"{name}.1")])
        plain = "".join(_struck(shown))
        assert f"mirror {__version__}" in plain
        assert "2023-11-14" in plain
        for option in (one for one in command.params if one.param_type_name == "option"):
            for spelled in option.opts:
                assert spelled in plain, f"{name}: {spelled}"
        if isinstance(command, click.Group):
            assert all(f"{name.replace('-', ' ')} {inner}" in plain for inner in command.commands)


def _struck(shown: str) -> str:
    """Return text without its bold, which is a letter struck twice."""
    letters: list[str] = []
    for letter in shown:
        if letter == "\b":
            letters.pop()
        else:
            letters.append(letter)
    return "".join(letters)


def test_references_lead_somewhere(share: Path) -> None:
    for path in (share / "man" / "man1").iterdir():
        text = path.read_text()
        for name in text.partition(".SH SEE ALSO")[2].replace("\\-", "-").split("\\fB")[1:]:
            assert (path.parent / f"{name.partition(chr(92))[0]}.1").exists(), path.name


def test_bash_completes(programs: Programs, share: Path, tmp_path: Path) -> None:
    script = share / "bash-completion" / "completions" / "mirror"
    asked = (
        f"source {script}\n"
        "complete -p mirror >/dev/null\n"
        'ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _mirror_completion mirror; '
        'echo "${COMPREPLY[*]}"; }\n'
        "ask mirror st\nask mirror token ''\nask mirror verify --de\n"
    )
    path = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([programs.find("bash"), "-c", asked], capture_output=True, text=True, env=path, check=False)
    assert done.stdout.splitlines() == ["status", "create list revoke", "--deep"], done.stderr


def test_other_shells_have_theirs(share: Path) -> None:
    assert (share / "zsh/site-functions/_mirror").read_text().startswith("#compdef mirror\n")
    assert "complete" in (share / "fish/vendor_completions.d/mirror.fish").read_text()
