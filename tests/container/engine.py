"""buildah and podman with storage of their own: nothing on the machine is read or touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.tools.clients import ClientError, run
from tests.tools.processes import Daemon
from tests.tools.programs import Programs

# What each runtime needs inside another container: see tests/tools/clients.py.
_WAYS = (("runc",), ("crun", "--cgroups=disabled"))
_LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")


def storage_options(programs: Programs, home: Path) -> list[str]:
    """Return what tells buildah and podman to keep images below `home`, by overlay where this kernel allows it here."""
    places = ["--root", str(home / "root"), "--runroot", str(home / "run")]
    for driver in ("overlay", "vfs"):
        options = [*places, "--storage-driver", driver]
        done = subprocess.run([programs.find("buildah"), *options, "info"], capture_output=True, check=False)
        if done.returncode == 0:
            return options
        shutil.rmtree(home / "root", ignore_errors=True)
    raise AssertionError(f"buildah keeps no images here: {done.stderr.decode()}")


class Engine:
    """podman over the folder `home`, whose name must be short: a socket's path has 107 characters."""

    def __init__(self, programs: Programs, home: Path) -> None:
        self._programs = programs
        storage = storage_options(programs, home)
        own = ["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--tmpdir", str(home / "tmp")]
        self._podman = [programs.find("podman"), *storage, *own]
        self._policy = home / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
        self._way: Sequence[str] = ()

    def __call__(self, *words: str) -> str:
        """Run a podman command and return its output; raise ClientError where it fails."""
        return run([*self._podman, *words], self._environment, timeout=120)

    def load(self, archive: Path, name: str) -> None:
        """Take an image out of an oci-archive, as the bundle's installer does."""
        found = self("pull", "--quiet", "--signature-policy", str(self._policy), f"oci-archive:{archive}").strip()
        self("tag", found, name)

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what podman knows of an image."""
        return dict(json.loads(self("image", "inspect", name))[0])

    def cannot_run(self, name: str) -> str:
        """Return why this machine runs no container of an image, or nothing where it does."""
        reasons = []
        for way in _WAYS:
            self._way = way
            try:
                self.once(name, "--network=none", command=("--version",))
            except ClientError as error:
                reasons.append(f"{way[0]}: {str(error).splitlines()[-1]}")
            else:
                return ""
        return "; ".join(reasons)

    def once(self, name: str, *options: str, command: Sequence[str]) -> str:
        """Run a container to its end, and return what it printed."""
        return run(self._run("--rm", *options, name, *command), self._environment)

    def attempt(self, name: str, *options: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a container to its end, whatever that is."""
        words = self._run("--rm", *options, name, *command)
        environment = {**os.environ, **self._environment}
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=environment)

    def _run(self, *words: str) -> list[str]:
        runtime, *more = self._way
        found = self._programs.find(runtime)
        return [*self._podman, "--runtime", found, "run", "--pull=never", *more, *_LIMITS, *words]

    def container(self, called: str, name: str, log: Path, *options: str, command: Sequence[str] = ()) -> Container:
        """Return a container of an image that serves, not started yet."""
        words = self._run("--rm", "--name", called, *options, name, *command)
        return Container(self, called, words, log, self._environment)


class Container(Daemon):
    """A container under the name `called`; ready when the service in it says that it is."""

    def __init__(self, engine: Engine, called: str, command: list[str], log: Path, environment: dict[str, str]) -> None:
        super().__init__(command, log, ready=self._serves, environment=environment)
        self._engine = engine
        self._called = called
        self._lines = 0

    def start(self, seconds: float = 40) -> None:
        self._lines = self.log.count("\n")
        super().start(seconds)

    def do(self, *command: str) -> str:
        """Run a command in it, and return its output."""
        return self._engine("exec", self._called, *command)

    def stop(self, seconds: float = 60) -> int:
        """Stop it as a cluster's node does, by SIGTERM, and return the service's exit code."""
        return super().stop(seconds)

    def kill(self) -> None:
        super().kill()
        try:
            self._engine("rm", "--force", "--time=0", self._called)
        except ClientError:
            return

    def _serves(self) -> bool:
        return any("event=worker_ready" in line for line in self.log.splitlines()[self._lines :])
