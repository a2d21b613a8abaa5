"""Programs run as processes of their own: started in a process group, awaited until ready, ended for certain."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mirror.store.lock import FileLock

_POLL = 0.05  # seconds between two looks
_PORTS = range(20_000, 32_768)
_DIGITS = 5  # of each of them
_LAST_PORT = Path(tempfile.gettempdir(), f"mirror-tests-port-{os.getuid()}")


class NotReadyError(Exception):
    """A process ended, or was not ready in time; carries its log."""


def free_port() -> int:
    """Return a TCP port of the loopback that nothing listens on, and that nobody else is given for a long time.

    The kernel names the same port twice, and gives it to connections as well. These come one after the other for all
    processes of this user, from below those that connections get.
    """
    with FileLock(_LAST_PORT) as last:
        port = int(os.pread(last.fileno(), _DIGITS, 0) or _PORTS[0])
        for _ in _PORTS:
            port = port + 1 if port + 1 in _PORTS else _PORTS[0]
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                os.pwrite(last.fileno(), f"{port}".encode(), 0)
                return port
    raise NotReadyError(f"somebody listens on every port from {_PORTS[0]} to {_PORTS[-1]}")


def answers(port: int) -> bool:
    """Tell whether something accepts connections on a port of the loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """Look at `condition` until it holds; raise TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(_POLL)


class Daemon:
    """A server process whose output goes to a file."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.command = list(command)
        self._log = log
        self._ready = ready
        self._environment = dict(environment or {})
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the process has written so far, in all its runs."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, seconds: float = 20) -> None:
        """Start and wait until ready; raise NotReadyError with the log where that fails."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                cwd=self._folder,
                start_new_session=True,
            )
        try:
            wait_until(lambda: not self.running or self._ready(), self.command[0], seconds)
        except TimeoutError as error:
            self.kill()
            raise NotReadyError(f"{error}\n{self.log}") from error
        if not self.running:
            raise NotReadyError(f"{self.command[0]} ended with {self._process.returncode}\n{self.log}")

    def stop(self, seconds: float = 20) -> int:
        """Ask to end by SIGTERM, wait, and return the exit code; after `seconds` the group is killed."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.returncode

    def kill(self) -> None:
        """End the whole process group by SIGKILL, as a power cut would."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it has ended, and its children with it
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


Server = TypeVar("Server", bound=Daemon)


@contextlib.contextmanager
def running(daemon: Server) -> Iterator[Server]:
    """Start a daemon and stop it at the end."""
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
