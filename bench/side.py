"""One of the two commits that are compared: its source in a folder of its own, and how its service is started."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from bench.peers import Mirror, bytecode
from bench.processes import ROOT, BenchError

BASE, CURRENT = "base", "current"

_LOCK = Path("requirements/runtime.txt")
_PACKAGE = "mirror"
# Memory that was had once is kept: whether the C library gives it back and fetches it anew differs from start to start.
_KEEP = {"MALLOC_TRIM_THRESHOLD_": "1073741824", "MALLOC_MMAP_THRESHOLD_": "33554432"}
_WITHIN = 300.0  # seconds for git, and for pip to set up an environment


class UsageError(Exception):
    """What was asked for cannot be compared; says what to do."""


class Side:
    """A commit's source in `folder`/tree, run by `python` with nothing of this checkout on its path.

    `what` says for people which source it is.
    """

    def __init__(self, name: str, what: str, folder: Path, python: Path) -> None:
        self.name = name
        self.what = what
        self.python = python
        self.environment = {
            "PYTHONPATH": str(folder / "tree"),
            **_KEEP,
            "PYTHONSAFEPATH": "1",  # the working folder is the checkout, whose package would come first
            **bytecode(folder / "bytecode"),
        }
        self._tree = folder / "tree"

    def check(self) -> None:
        """Ask the interpreter, called as the service is, whose package it runs; raise BenchError if another's."""
        command = [str(self.python), "-c", f"import {_PACKAGE}; print({_PACKAGE}.__file__)"]
        environment = {**os.environ, **self.environment}
        asked = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=_WITHIN)
        if Path(asked.stdout.strip()) != self._tree / _PACKAGE / "__init__.py":
            raise BenchError(f"{self.name} would run {asked.stdout.strip() or asked.stderr} and not {self._tree}")

    def server(self, folder: Path, upstream: str, workers: int) -> Mirror:
        """Return its service, not started, with its files and an empty store in `folder`."""
        folder.mkdir()
        command = [str(self.python), "-m", _PACKAGE]
        made = Mirror(folder / "service", folder / "store", upstream, command=command, workers=workers)
        made.name = self.name
        made.environment = dict(self.environment)
        return made


def base(commit: str, folder: Path) -> Side:
    """Export a commit of this checkout; raise UsageError where there is none. `folder` is new."""
    if not commit:
        raise UsageError("say what to compare with: make bench-check BASE=<commit>")
    known = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if known.returncode:
        raise UsageError(
            f"{commit} is no commit here: `git log --oneline` lists those that are; in a shallow clone or for a branch"
            " of another one, `git fetch` it first"
        )
    name = known.stdout.decode().strip()
    archive = _git("archive", "--format=zip", name, _PACKAGE, str(_LOCK))
    if archive.returncode:
        raise UsageError(f"{commit} has no {_PACKAGE}/ or no {_LOCK}: name a later commit")
    tree = folder / "tree"
    tree.mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(archive.stdout)) as files:
        files.extractall(tree)
    return Side(BASE, _subject(name), folder, _python(folder))


def current(folder: Path) -> Side:
    """Copy what is in this checkout, committed or not: who edits it meanwhile changes nothing. `folder` is new."""
    tree = folder / "tree"
    shutil.copytree(ROOT / _PACKAGE, tree / _PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / _LOCK.parent).mkdir()
    shutil.copyfile(ROOT / _LOCK, tree / _LOCK)
    changed = _git("status", "--porcelain", "--", _PACKAGE, str(_LOCK)).stdout
    what = _subject("HEAD") + (" and what is not committed" if changed else "")
    return Side(CURRENT, what, folder, _python(folder))


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, timeout=_WITHIN)
    except FileNotFoundError:
        raise UsageError("git is not installed: the base is taken from this checkout's history") from None


def _subject(commit: str) -> str:
    return _git("log", "-1", "--format=%h %s", commit).stdout.decode(errors="replace").strip()


def _python(folder: Path) -> Path:
    """Return an interpreter that has what the tree's lock says: this one, or that of a new environment."""
    lock = folder / "tree" / _LOCK
    if lock.read_bytes() == (ROOT / _LOCK).read_bytes():
        return Path(sys.executable)
    environment = folder / "environment"
    python = environment / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, capture_output=True, timeout=_WITHIN)
    install = ["install", "-q", "--require-hashes", "-r", str(lock)]
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *install]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN)
    if installed.returncode:
        raise BenchError(f"pip cannot install what {lock} asks for:\n{installed.stderr[-2000:]}")
    return python
