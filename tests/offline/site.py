"""A site: a store with its mirror.yaml, and the commands that an administrator runs there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from tests.tools.mirror import Mirror
from tests.tools.processes import free_port
from tests.tools.programs import ROOT

_PATIENCE = 300  # seconds that one command may take
_LOOK = 0.02  # seconds between two looks at a command
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    command: Sequence[str]
    code: int
    out: str
    err: str
    memory: int  # bytes, at its peak

    @property
    def report(self) -> dict[str, Any]:
        """The object that `--json` printed."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    def __str__(self) -> str:
        return f"mirror {' '.join(self.command)}\nended with {self.code}\n{self.out}{self.err}"


def _memory(pid: int) -> int:
    """Return the most bytes that a process has had in memory so far; 0 where it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = _PEAK.search(status)
    return int(found[1]) * 1024 if found else 0


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()


class Site:
    """One side of the gap. `document` is what its mirror.yaml says beside the store and the listener."""

    def __init__(self, folder: Path, document: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.store = folder / "store"
        self.configuration = folder / "mirror.yaml"
        self.begun = folder / "begun.log"
        self.document = {
            "listen": f"127.0.0.1:{free_port()}",
            "metrics": {"listen": "none"},
            "storage": {"path": str(self.store)},
            **document,
        }
        self.configure({})

    @classmethod
    def at(cls, folder: Path) -> Site:
        """Return the site that was made in `folder`."""
        return cls(folder, yaml.safe_load((folder / "mirror.yaml").read_text()))

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Write mirror.yaml anew with top-level keys changed."""
        self.document.update(changes)
        self.configuration.write_text(yaml.safe_dump(self.document, sort_keys=False))

    def mirror(self, *words: str | Path, code: int | None = 0, environment: Mapping[str, str] | None = None) -> Done:
        """Run a command of the mirror; its exit code must be `code` unless that is None."""
        command = [str(word) for word in words]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                self._line(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            )
            memory, deadline = 0, time.monotonic() + _PATIENCE
            while process.poll() is None:
                memory = max(memory, _memory(process.pid))
                if time.monotonic() > deadline:
                    process.kill()
                time.sleep(_LOOK)
            texts = [_text(stream) for stream in (out, err)]
        done = Done(command, process.returncode, *texts, memory)
        assert code is None or done.code == code, str(done)
        assert "Traceback" not in done.err, str(done)
        return done

    def begin(self, *words: str | Path) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own and return it; its output goes to `begun`."""
        with self.begun.open("ab") as output:
            return subprocess.Popen(
                self._line([str(word) for word in words]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    def _line(self, command: list[str]) -> list[str]:
        return [sys.executable, "-m", "mirror", *command, "--config", str(self.configuration)]

    def serving(self, changes: Mapping[str, Any] | None = None) -> Mirror:
        """Return a `mirror serve` over this site's store, not started yet."""
        document = {key: value for key, value in self.document.items() if key not in ("listen", "metrics")}
        return Mirror(self.folder / "serve", {**document, **(changes or {})})


def mounted(path: Path) -> Path:
    """Return the folder of a disk that is mounted: `save` makes none."""
    path.mkdir(exist_ok=True)
    return path
