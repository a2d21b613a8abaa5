"""A worker process: how it is forked, what it is given, and what it says to its supervisor."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mirror import logs
from mirror.errors import MirrorError
from mirror.shares import Share
from mirror.slots import Slots

_log = logs.get(__name__)

# What a worker says, a byte each. WHY is followed by a text up to the end of its line.
READY, ALIVE, LEFT, RELOAD, WHY = b"R", b".", b"L", b"H", b"!"
_LONGEST_WHY = 1000  # bytes

# What the supervisor handles. Blocked around a fork: a handler of the parent must not run in the child.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4  # prctl(2)
_NOTE = 256 * 1024  # bytes that a process may say of itself


@dataclass(frozen=True, slots=True)
class Crew:
    """What workers are started with: how they run, where they listen, and how many of them there are.

    `run` returns (None or 0) when it has drained; SystemExit gives its exit code. `taken` is called in the supervisor
    when the first of them is ready, after which there is no way back.
    """

    run: Callable[[WorkerContext], int | None]
    listeners: tuple[socket.socket, ...]
    workers: int
    metrics_listener: socket.socket | None = None
    admin_listener: socket.socket | None = None
    taken: Callable[[], object] = lambda: None

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """All that it listens on."""
        others = (self.metrics_listener, self.admin_listener)
        return (*self.listeners, *(sock for sock in others if sock is not None))


class Board:
    """What the processes of one `serve` say about themselves, for each of them to read: JSON objects of some KiB."""

    def __init__(self, workers: int) -> None:
        self._slots = Slots(workers + 1, _NOTE)
        self._last = workers

    def post(self, index: int, facts: Mapping[str, Any]) -> None:
        """Say something of worker `index`; what was said before is gone. What is too long is not taken."""
        self._slots.write(index, json.dumps(facts, separators=(",", ":")).encode())

    def post_service(self, facts: Mapping[str, Any]) -> None:
        """Say something of the whole service: its supervisor's part."""
        self.post(self._last, facts)

    def read(self, index: int) -> dict[str, Any]:
        """Return what worker `index` said last, or nothing."""
        found: dict[str, Any] = json.loads(self._slots.read(index) or b"{}")
        return found

    def service(self) -> dict[str, Any]:
        """Return what the supervisor said last."""
        return self.read(self._last)


class WorkerContext:
    """What a worker is given. SIGTERM asks it to drain and end; SIGHUP too, but with all the time that answers take.

    After SIGHUP others serve what it leaves, so it is to let go of what only one may do. `slots` are for Metrics, with
    `index` as its own, `share` for whoever accepts. The listeners stay open in the supervisor, whatever becomes of the
    worker. `ready`, `heartbeat`, `left` and `reload` never block.
    """

    def __init__(self, index: int, crew: Crew, slots: Slots, board: Board, share: Share, pipe: int) -> None:
        self.index = index
        self.listeners = crew.listeners
        self.metrics_listener = crew.metrics_listener
        self.admin_listener = crew.admin_listener
        self.slots = slots
        self.board = board
        self.share = share
        self._pipe = pipe

    def ready(self) -> None:
        """Say that this worker answers."""
        self._say(READY)

    def heartbeat(self) -> None:
        """Say that this worker still works; to be called after a look at what its answers depend on."""
        self._say(ALIVE)

    def left(self) -> None:
        """Say that this worker takes no connection any more, after SIGHUP."""
        self._say(LEFT)

    def reload(self) -> None:
        """Ask for what SIGHUP to the supervisor does."""
        self._say(RELOAD)

    def _say(self, what: bytes) -> None:
        try:
            os.write(self._pipe, what)
        except (BlockingIOError, BrokenPipeError):
            # A supervisor that is behind has enough to read, one that is gone has sent SIGTERM.
            return


class Worker:
    """The supervisor's side of one worker, running (`pid` is set) or to be started again when it is `due`."""

    def __init__(self, index: int, crew: Crew) -> None:
        self.index = index
        self.crew = crew
        self.pid = 0
        self.pipe = -1
        self.ready = False
        self.born = 0.0
        self.seen = 0.0  # when it last said something
        self.aborted = 0.0  # when it was told that it is stuck, or 0
        self.failures = 0  # ends soon after a start, in a row
        self.due = 0.0
        self.leaves = 0.0  # when it was told that others take its place, or 0
        self.left = False  # it takes no connection any more
        self.hurried = 0.0  # when it was told to end within the time of a drain, or 0
        self.why = ""  # what it said of its end

    def start(self, work: Callable[[int, int], int | None], close: Iterable[int], flush: Callable[[], object]) -> None:
        """Fork; the child closes the descriptors `close`, calls `work(index, pipe)` and ends. Raises OSError."""
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        os.set_blocking(theirs, False)
        supervisor = os.getpid()
        sys.stdout.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                _become(lambda: work(self.index, theirs), theirs, supervisor, (ours, *close), flush)
        except OSError:
            os.close(ours)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.close(theirs)
        self.pid, self.pipe, self.ready, self.aborted, self.why = pid, ours, False, 0.0, ""
        self.born = self.seen = time.monotonic()

    def hear(self) -> bytes:
        """Return what the worker said since the last time."""
        try:
            said = os.read(self.pipe, 4096)
        except BlockingIOError:
            return b""
        if not said:
            self._hang_up()  # it has ended, or is about to
        else:
            self.seen = time.monotonic()
        said, _, why = said.partition(WHY)
        if why:
            self.why = why.partition(b"\n")[0].decode(errors="replace")
        return said

    def kill(self, number: int) -> None:
        """Send a signal, if the worker runs."""
        if self.pid:
            os.kill(self.pid, number)

    def ended(self) -> None:
        """Note that the process was reaped."""
        self._hang_up()
        self.pid, self.ready = 0, False

    def _hang_up(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1


def harden() -> None:
    """Keep memory, which holds credentials, out of core dumps and debuggers; take all descriptors that we may have."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _become(
    work: Callable[[], int | None],
    pipe: int,
    supervisor: int,
    close: Iterable[int],
    flush: Callable[[], object],
) -> None:
    """Be the worker, in the child, and never return."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        # A terminal sends SIGINT to the whole group; the supervisor decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for descriptor in close:
            os.close(descriptor)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:
            os._exit(0)  # it ended before we asked to be told
        faulthandler.enable()
        code = work() or 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except MirrorError as error:
        _log.error("worker_failed", why=str(error))
        with suppress(OSError):
            os.write(pipe, WHY + str(error).encode()[:_LONGEST_WHY].replace(b"\n", b" ") + b"\n")
    except BaseException:  # noqa: BLE001 - nothing may unwind into what the parent was doing
        _log.exception("worker_failed")
    finally:
        try:
            flush()
            sys.stdout.flush()
        finally:
            os._exit(code)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
