"""What is compared: a commit as it was, and the checkout as it is; and what is said where there is no such thing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import side
from bench.processes import BenchError


def git(checkout: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    command = ["git", "-C", str(checkout), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write(checkout: Path, text: str) -> None:
    (checkout / "mirror").mkdir(exist_ok=True)
    (checkout / "mirror" / "__init__.py").write_text(text)
    (checkout / "requirements").mkdir(exist_ok=True)
    (checkout / "requirements" / "runtime.txt").write_text("# nothing\n")


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout of two commits and a change: VERSION is 1, 2 and 3."""
    made = tmp_path / "checkout"
    made.mkdir()
    git(made, "init", "-q")
    (made / "README.md").write_text("before there was a product\n")
    git(made, "add", "-A")
    git(made, "commit", "-q", "-m", "Begin")
    git(made, "tag", "empty")
    for version in (1, 2):
        write(made, f"VERSION = {version}\n")
        git(made, "add", "-A")
        git(made, "commit", "-q", "-m", f"Make it {version}")
    write(made, "VERSION = 3\n")
    monkeypatch.setattr(side, "ROOT", made)
    return made


def version(one: side.Side, folder: Path) -> str:
    return (folder / "tree" / "mirror" / "__init__.py").read_text().strip()


def test_the_base_is_what_was_committed(checkout, tmp_path):
    made = side.base("HEAD~1", tmp_path / "base")
    assert version(made, tmp_path / "base") == "VERSION = 1"
    assert made.what == f"{git(checkout, 'rev-parse', '--short', 'HEAD~1')} Make it 1"
    assert made.python == Path(sys.executable)


def test_the_current_side_is_what_is_in_the_checkout_and_stays_it(checkout, tmp_path):
    made = side.current(tmp_path / "current")
    write(checkout, "VERSION = 4\n")
    assert version(made, tmp_path / "current") == "VERSION = 3"
    assert made.what.endswith("Make it 2 and what is not committed")


def test_a_clean_checkout_says_nothing_of_changes(checkout, tmp_path):
    git(checkout, "checkout", "-q", "--", ".")
    assert side.current(tmp_path / "current").what.endswith("Make it 2")


def test_each_side_runs_its_own_source_and_no_other(checkout, tmp_path):
    made = side.base("HEAD", tmp_path / "base")
    made.check()
    made.environment["PYTHONPATH"] = str(tmp_path)
    with pytest.raises(BenchError, match="base would run"):
        made.check()


@pytest.mark.parametrize(
    ("commit", "said"),
    [
        ("", "BASE=<commit>"),
        ("nosuch", "nosuch is no commit here: `git log --oneline`"),
        ("--all", "--all is no commit here"),
        ("HEAD:README.md", "is no commit here"),
        ("empty", "empty has no mirror/"),
    ],
)
def test_what_is_no_commit_of_the_product_says_what_to_do(checkout, tmp_path, commit, said):
    with pytest.raises(side.UsageError, match=said):
        side.base(commit, tmp_path / "base")


def test_without_git_it_says_so(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(side.UsageError, match="git is not installed"):
        side.base("HEAD", tmp_path / "base")


def test_another_lock_has_another_environment(checkout, tmp_path, monkeypatch):
    commands: list[list[str]] = []
    run = subprocess.run

    def noted(command, **options):
        if command[0] == "git":
            return run(command, **options)
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", noted)
    (checkout / "requirements" / "runtime.txt").write_text("# something\n")
    assert side.current(tmp_path / "current").python == Path(sys.executable)
    assert commands == []
    made = side.base("HEAD", tmp_path / "base")
    assert made.python == tmp_path / "base" / "environment" / "bin" / "python"
    lock = str(tmp_path / "base" / "tree" / "requirements" / "runtime.txt")
    assert commands[-1][-3:] == ["--require-hashes", "-r", lock]
