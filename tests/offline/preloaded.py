"""Commands of the mirror in processes of their own, forked from one that has imported everything.

What a document shows is some dozens of commands; without this most of their time would go into imports.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

from tests.tools.programs import ROOT

_ROOMS = ("mirror.admin.check", "mirror.app", "mirror.cli.crossing", "mirror.cli.describing", "mirror.cli.looking")


class Preloaded:
    """Runs `mirror …` with what it prints going to one file, as to a terminal. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._output = folder / "output"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Preloaded:
        line = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(line, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        with self._process:  # closes its standard input, at which it ends
            pass

    def run(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], disks: Mapping[Path, int]
    ) -> tuple[int, str]:
        """Run a command in a folder; return its exit code, and standard output and error as they came.

        `disks` are folders that are to look like file systems with so many bytes.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        wanted = {
            "words": list(words),
            "cwd": str(folder),
            "env": dict(environment),
            "output": str(self._output),
            "disks": {str(path): size for path, size in disks.items()},
        }
        process.stdin.write(json.dumps(wanted) + "\n")
        process.stdin.flush()
        code = process.stdout.readline()
        assert code, "the process that forks commands has ended"
        return int(code), self._output.read_text()


def _serve() -> None:
    for room in _ROOMS:
        __import__(room)
    from mirror.cli import main

    gc.collect()
    gc.freeze()  # or every child goes through all of it when it ends
    while line := sys.stdin.readline():
        wanted = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(wanted)
            try:
                main(args=wanted["words"], prog_name="mirror")
            except SystemExit as ended:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(int(ended.code or 0))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(wanted: Mapping[str, Any]) -> None:
    """Take on the folder, the environment, the output and the disks that a command is to have."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(str(wanted["output"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for target, source in enumerate((nothing, output, output)):
        os.dup2(source, target)
    os.chdir(str(wanted["cwd"]))
    os.environ.update(wanted["env"])
    disks = wanted["disks"]
    real = os.fstatvfs

    def fstatvfs(fd: int) -> Any:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path not in disks:
            return real(fd)
        left = disks[path] - sum(file.stat().st_size for file in Path(path).iterdir())
        return SimpleNamespace(f_bavail=max(0, left), f_frsize=1)

    if disks:
        os.fstatvfs = fstatvfs


if __name__ == "__main__":
    _serve()
