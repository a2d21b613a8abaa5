"""What brings a release from a registry far away: ours into its store, the others into a registry of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.afar import Afar, Image
from bench.peers import bytecode, find, mirror_command
from bench.processes import ROOT, BenchError, session
from bench.shelf import Shelf

PARALLEL = 8  # images at once, of the tools that copy an image after the other unless they are told
REQUESTS = 16  # to a registry at once: what ours allows itself, and where regsync is fastest
REGSYNC_REQUESTS = 3  # as it comes
_LIMIT = 300.0  # seconds that one run may take
_POLL = 0.02  # seconds between looks at the memory of known processes
_LOOK_AROUND = 0.3  # seconds between looks for new ones


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run of a command took: seconds, peak memory of its largest process in bytes, processor seconds."""

    seconds: float
    memory: int
    cpu: float


def take(command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> Taken:
    """Run a command to its end; raise BenchError with the end of its output where it fails."""
    peaks: dict[int, int] = {}
    began, cpu_before = time.monotonic(), _children()
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        looked = 0.0
        while process.poll() is None:
            now = time.monotonic()
            if now - began > _LIMIT:
                raise BenchError(f"{command[0]} did not end within {_LIMIT:.0f} s")
            if now - looked > _LOOK_AROUND:
                looked = now
                peaks = {pid: peaks.get(pid, 0) for pid in (*peaks, *session(process.pid))}
            for pid, known in peaks.items():
                peaks[pid] = max(known, _peak(pid))
            time.sleep(_POLL)
        seconds = time.monotonic() - began
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        raise BenchError(f"{command[0]} ended with {process.returncode}:\n{log.read_text(errors='replace')[-2000:]}")
    return Taken(seconds, max(peaks.values(), default=0), _children() - cpu_before)


def _children() -> float:
    used = os.times()
    return used.children_user + used.children_system


def _peak(pid: int) -> int:
    with suppress(OSError), open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


class Copier:
    """A tool that brings the release. `folder` takes what it writes."""

    name = ""

    def __init__(self, folder: Path, afar: Afar) -> None:
        folder.mkdir()
        self.folder = folder
        self.afar = afar
        self.log = folder / "output.log"

    def empty(self) -> None:
        """Have nothing of the release here any more."""
        raise NotImplementedError

    def bring(self) -> Taken:
        """Bring the release, or what of it is not here."""
        raise NotImplementedError

    def close(self) -> None:
        """End what serves it."""


class Ours(Copier):
    """`mirror sync` of the image set: update graph, signatures, release, components, what is attached to them."""

    name = "ours"

    def __init__(self, folder: Path, afar: Afar) -> None:
        super().__init__(folder, afar)
        self.configuration = folder / "mirror.yaml"
        self._set = afar.image_set(folder / "release.yaml")
        self.environment = bytecode(folder.parent / "bytecode")
        self._stores = 0

    def empty(self) -> None:
        # The last one is left: a file system that has just deleted much makes new files slowly.
        self._stores += 1
        store = {"path": str(self.folder / f"store-{self._stores}")}
        self.configuration.write_text(json.dumps({"storage": store, **self.afar.configuration()}))

    def warm_up(self) -> None:
        """Have the program compiled, as an installation has it."""
        take([sys.executable, "-m", "compileall", "-q", "mirror"], self.log, self.environment)
        self.empty()
        self.run("plan", str(self._set))

    def bring(self) -> Taken:
        return self.run("sync", str(self._set))

    def run(self, *words: str) -> Taken:
        """Run a command at this store."""
        return take([*mirror_command(), *words, "--config", str(self.configuration)], self.log, self.environment)


class _Into(Copier):
    """A tool that copies into a registry, Debian's, on this machine."""

    def __init__(self, folder: Path, afar: Afar) -> None:
        super().__init__(folder, afar)
        self._shelf: Shelf | None = None
        self._shelves = 0

    def empty(self) -> None:
        self.close()
        self._shelves += 1
        self._shelf = Shelf("its registry", self.folder / f"registry-{self._shelves}")
        self._shelf.start()
        self.point(self._shelf.port)

    def close(self) -> None:
        if self._shelf is not None:
            self._shelf.stop()
            self._shelf = None

    def point(self, port: int) -> None:
        """Copy into the registry at `port` from now on."""
        raise NotImplementedError


class Regsync(_Into):
    """regsync with an entry an image, several at once, and so many requests to a registry at once."""

    def __init__(self, folder: Path, afar: Afar, requests: int = REQUESTS) -> None:
        super().__init__(folder, afar)
        self.name = f"regsync, {requests} requests"
        self._configuration = folder / "regsync.yaml"
        self._requests = requests

    def point(self, port: int) -> None:
        registries: list[dict[str, object]] = [
            {"registry": f"127.0.0.1:{one}", "tls": "disabled", "reqConcurrent": self._requests}
            for one in (self.afar.port, port)
        ]
        document = {
            "version": 1,
            "creds": registries,
            "defaults": {"parallel": PARALLEL},
            "sync": [
                {
                    "source": f"127.0.0.1:{self.afar.port}/{image.repository}@{image.digest}",
                    "target": f"127.0.0.1:{port}/{image.repository}:{_tag(image)}",
                    "type": "image",
                }
                for image in self.afar.images
            ],
        }
        self._configuration.write_text(json.dumps(document))

    def bring(self) -> Taken:
        return take([find("regsync"), "once", "-c", str(self._configuration)], self.log)


class Skopeo(_Into):
    """`skopeo copy --all` an image, several at once."""

    name = f"skopeo, {PARALLEL} at once"

    def __init__(self, folder: Path, afar: Afar) -> None:
        super().__init__(folder, afar)
        self._list = folder / "images"
        self._policy = folder / "policy.json"
        self._policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))

    def point(self, port: int) -> None:
        lines = (
            f"docker://127.0.0.1:{self.afar.port}/{image.repository}@{image.digest} "
            f"docker://127.0.0.1:{port}/{image.repository}:{_tag(image)}\n"
            for image in self.afar.images
        )
        self._list.write_text("".join(lines))

    def bring(self) -> Taken:
        copy = [find("skopeo"), "--policy", str(self._policy), "copy", "--all", "--quiet", "--preserve-digests"]
        copy += ["--src-tls-verify=false", "--dest-tls-verify=false"]
        return take(["xargs", "-a", str(self._list), "-n", "2", "-P", str(PARALLEL), *copy], self.log)


def _tag(image: Image) -> str:
    return image.digest.replace(":", "-")
