"""Servers as processes of their own: started in a session, awaited, measured from /proc, ended for certain."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from bench.content import ACCEPT

ROOT = Path(__file__).parents[1]  # of the project

_POLL = 0.005  # seconds between looks at a server that starts
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PROCESS_CLOCK = 2  # CPUCLOCK_SCHED: user and system time as the scheduler has it


class BenchError(Exception):
    """A measurement could not be taken; says why."""


def get(port: int, path: str, *, secure: bool = False) -> tuple[int, bytes]:
    """Ask a server of the loopback, `secure` for HTTPS with any certificate; return the status and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    if secure:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
    try:
        connection.request("GET", path, headers={"Accept": ACCEPT})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Server:
    """One server, and every process that it starts.

    `port` takes plain HTTP, or HTTPS where it is `secure`. `root` is the path of the benchmark's repository. It is
    ready when `ready_path` answers 200.
    """

    def __init__(
        self, name: str, folder: Path, command: Sequence[str], port: int, root: str, ready_path: str, *, secure: bool
    ) -> None:
        self.name = name
        self.folder = folder
        self.command = list(command)
        self.port = port
        self.secure = secure
        self.root = root
        self.environment: dict[str, str] = {}
        self._ready_path = ready_path
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Where the server's output goes."""
        return self.folder / "server.log"

    def start(self, seconds: float = 60) -> float:
        """Start, wait until ready, and return how many seconds that took; raise BenchError with the log's end."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                cwd=ROOT,
                start_new_session=True,
            )
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() - began > seconds:
                self.kill()
                raise BenchError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(_POLL)
        return time.monotonic() - began

    def _is_ready(self) -> bool:
        try:
            return get(self.port, self._ready_path, secure=self.secure)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> None:
        """End by SIGTERM, after 10 seconds by SIGKILL."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        self.kill()

    def kill(self) -> None:
        """End every process of the server at once, as a crash would."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- measured from outside ---------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        """Return the processes of this server's session, the first one first."""
        if self._process is None:
            return []
        return sorted(session(self._process.pid))

    def cpu(self) -> float:
        """Return the processor seconds that the server has used, its ended children's included."""
        if self._process is None:
            return 0.0
        leader = self._process.pid
        return sum(_used(pid, fields) for pid, fields in _processes() if int(fields[3]) == leader)

    def clock(self) -> Callable[[], float]:
        """Return what tells the processor seconds that the processes of now have used, within microseconds.

        It raises OSError where one of them has ended.
        """
        clocks = [_clock(pid) for pid in self.pids()]
        return lambda: sum(map(time.clock_gettime, clocks))


def session(leader: int) -> list[int]:
    """Return the processes of the session that `leader` began."""
    return [pid for pid, fields in _processes() if int(fields[3]) == leader]


def _processes() -> list[tuple[int, list[str]]]:
    """Return (pid, the fields of /proc/<pid>/stat from the state on) of every process."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                text = Path("/proc", entry, "stat").read_text()
                found.append((int(entry), text[text.rindex(")") + 2 :].split()))
    return found


def _used(pid: int, fields: Sequence[str]) -> float:
    """Return the processor seconds of a process and of its ended children; `fields` are those of `_processes`."""
    ended = sum(map(int, fields[13:15])) * _TICK
    with contextlib.suppress(OSError):
        return time.clock_gettime(_clock(pid)) + ended
    return sum(map(int, fields[11:13])) * _TICK + ended  # it has ended since


def _clock(pid: int) -> int:
    """Return the clock of clock_getcpuclockid(3): to the nanosecond, where /proc counts in hundredths of a second."""
    return (~pid << 3) | _PROCESS_CLOCK


class MemoryWatch:
    """Samples the memory of a server's processes while the `with` block runs.

    `resident` and `proportional` are the peaks of the largest process in bytes (RSS; PSS shares common pages out).
    """

    def __init__(self, server: Server, period: float = 0.05) -> None:
        self.resident = 0
        self.proportional = 0
        self._pids = server.pids()
        self._period = period
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> MemoryWatch:
        for pid in self._pids:  # from here on VmHWM is the peak of this block
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for pid in self._pids:
            self.resident = max(self.resident, _kilobytes(f"/proc/{pid}/status", "VmHWM:"))

    def _sample(self) -> None:
        while not self._over.wait(self._period):
            for pid in self._pids:
                self.proportional = max(self.proportional, _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:"))


def _kilobytes(path: str, key: str) -> int:
    with contextlib.suppress(OSError), open(path) as file:
        for line in file:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return 0
