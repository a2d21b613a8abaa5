"""Service processes by the dozen: everything is imported once, and each is a fork of that.

A process under test must be one of its own to be killed or to have its system calls fail, and starting Python anew
for each would take a second a time.

    with Nursery() as nursery:
        child = await nursery.spawn(tmp_path, {"lab": {"endpoints": [upstream.url]}})
        await child.inject("fsync:error=EIO:when=2")
        await child.get("/v2/lab/team/app/manifests/v1")
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mirror import logs
from mirror.sink import Sink
from mirror.store.layout import Layout
from tests.faults.hurry import hurry
from tests.faults.service import serving
from tests.faults.wire import Got, ask

_ROOT = Path(__file__).parents[2]


class Child:
    """One service process."""

    def __init__(self, nursery: Nursery, pid: int, address: tuple[str, int], log: Path) -> None:
        self._nursery = nursery
        self.pid = pid
        self.address = address
        self._log = log
        self._tracer: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    async def get(self, target: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Got:
        """Ask; an answer of status 0 where the process is gone."""
        try:
            return await ask(self.address, target, method, headers)
        except ConnectionError:
            return Got()

    async def inject(self, *injections: str, paths: tuple[str, ...] = (), trace: Path | None = None) -> None:
        """Let system calls fail as strace(1) writes it, from now on; only those on `paths`, where some are given."""
        arguments = ["-f", "-qq", "-p", str(self.pid), "-o", str(trace or "/dev/null"), "-y"]
        for path in paths:
            arguments += ["-P", path]
        calls = ",".join(one.partition(":")[0] for one in injections)
        arguments += ["-e", f"trace={calls}"]
        for one in injections:
            if ":" in one:
                arguments += ["-e", f"inject={one}"]
        self._tracer = subprocess.Popen(["strace", *arguments], stdout=subprocess.DEVNULL)
        async with asyncio.timeout(10):
            while not self._traced():
                if self._tracer.poll() is not None:
                    raise RuntimeError("strace has ended")
                await asyncio.sleep(0.002)

    def _traced(self) -> bool:
        """Whether every thread has its tracer."""
        tasks = list(Path(f"/proc/{self.pid}/task").iterdir())
        return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)

    async def spare(self) -> None:
        """Let no more system calls fail."""
        await asyncio.to_thread(self.spare_now)

    def spare_now(self) -> None:
        """As `spare`, outside of a loop."""
        tracer, self._tracer = self._tracer, None
        if tracer is not None:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()

    @property
    def ended(self) -> bool:
        return self._nursery.ended(self.pid)

    async def quiet(self, layout: Layout, seconds: float = 3) -> None:
        """Wait until nothing is on its way to the store any more, or the process has ended."""
        deadline = time.monotonic() + seconds
        while list(layout.ingest.glob("*[nt]")) and not self.ended and time.monotonic() < deadline:
            await asyncio.sleep(0.005)

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal (0: none), wait for the end, and return the wait status."""
        if number != signal.SIGKILL:
            await self.spare()
        self._nursery.signal(self.pid, number)
        status = await self._nursery.reap(self.pid)
        await self.spare()
        return status


class Nursery:
    """The process that forks, and what it has forked. A context manager; one serves a whole session."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            text=True,
        )
        self._children: dict[int, Child] = {}
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def clear(self) -> None:
        """End what a test has left."""
        for pid, child in self._children.items():
            self.signal(pid, signal.SIGKILL)
            child.spare_now()
            self._ask({"do": "reap", "pid": pid})
        self._children.clear()

    async def spawn(
        self,
        folder: Path,
        upstreams: Mapping[str, Mapping[str, Any]],
        extra: Mapping[str, Any] | None = None,
        *,
        patience: float = 1.0,
        mount: str = "",
        files: int = 0,
    ) -> Child:
        """Start a service over `folder`/store.

        `mount` is a file system to be mounted at `folder`/store in a mount namespace of its own, e.g. "tmpfs size=1m";
        `files` bounds its descriptors.
        """
        self._count += 1
        log = folder / f"child-{self._count}.log"
        said = await asyncio.to_thread(
            self._ask,
            {
                "do": "spawn",
                "folder": str(folder),
                "upstreams": upstreams,
                "extra": extra or {},
                "log": str(log),
                "patience": patience,
                "mount": mount,
                "files": files,
            },
        )
        if "failed" in said:
            raise RuntimeError(f"{said['failed']}\n{log.read_text()}")
        child = Child(self, said["pid"], ("127.0.0.1", said["port"]), log)
        self._children[child.pid] = child
        return child

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a child that is not reaped."""
        if pid in self._children and number:
            os.kill(pid, number)

    async def reap(self, pid: int) -> int:
        """Wait for a child and return its wait status."""
        said = await asyncio.to_thread(self._ask, {"do": "reap", "pid": pid})
        self._children.pop(pid, None)
        return int(said["status"])

    def ended(self, pid: int) -> bool:
        """Tell whether a child has ended; it is still to be reaped."""
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        return state in "ZX"

    def _ask(self, what: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


# -- in the process that forks


def _main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        answer = _spawn(asked) if asked["do"] == "spawn" else {"status": os.waitpid(asked["pid"], 0)[1]}
        print(json.dumps(answer), flush=True)


def _spawn(asked: dict[str, Any]) -> dict[str, Any]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            _live(asked, writer)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.readline()
    if not text:
        return {"failed": os.waitpid(pid, 0)[1]}
    return {"pid": pid, "port": int(text)}


def _live(asked: dict[str, Any], writer: int) -> None:
    import resource

    import pytest

    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    if asked["mount"]:
        _mount(Path(asked["folder"]) / "store", asked["mount"])
    if asked["files"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (asked["files"], asked["files"]))
    hurry(pytest.MonkeyPatch(), asked["patience"])
    logs.configure("debug", "logfmt", Sink(2))
    asyncio.run(_serve(asked, writer))


def _mount(folder: Path, what: str) -> None:
    kind, _, options = what.partition(" ")
    folder.mkdir(exist_ok=True)
    _unshare_mounts()
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    if kind == "readonly":
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    else:
        subprocess.run(["mount", "-t", kind, "-o", f"{options},mode=0700", "store", str(folder)], check=True)


def _unshare_mounts() -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000):  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")


async def _serve(asked: dict[str, Any], writer: int) -> None:
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    async with serving(Path(asked["folder"]), asked["upstreams"], asked["extra"]) as service:
        os.write(writer, f"{service.address[1]}\n".encode())
        os.close(writer)
        await leaving.wait()


if __name__ == "__main__":
    _main()
