"""The process that owns the listening sockets and the workers: it starts, watches and replaces them, without a loop."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence

from mirror import listeners as listening
from mirror import logs
from mirror.listeners import bind as bind
from mirror.metrics import WORKER_RESTARTS, WORKERS, Metrics
from mirror.slots import Slots
from mirror.systemd import Notifier
from mirror.workers import READY, RELOADED, SIGNALS, Worker, harden
from mirror.workers import WorkerContext as WorkerContext

_log = logs.get(__name__)

_TICK = 0.5  # seconds between looks at the clock
_LAST_WORDS = 3.0  # seconds for a stuck worker to say where it is stuck, before it is killed
_SOON = 10.0  # a worker that ends within so many seconds of its start is replaced after a pause …
_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # … of so many seconds, doubled each time
_RELOAD = 10.0  # seconds after which a reload counts as over, whatever workers say


class Supervisor:
    """Runs `workers` processes of `run_worker` until SIGTERM or SIGINT.

    `run_worker` returns (None or 0) when it has drained; SystemExit gives its exit code. `flush` is called in a worker
    as the last thing it does. Workers get `drain` seconds to end and `start_within` to become ready; one that is
    silent for `heartbeat` is killed and replaced.
    """

    def __init__(
        self,
        run_worker: Callable[[WorkerContext], int | None],
        listeners: Sequence[socket.socket],
        workers: int,
        *,
        notifier: Notifier,
        metrics_listener: socket.socket | None = None,
        flush: Callable[[], object] = lambda: None,
        drain: float = 35.0,
        heartbeat: float = 30.0,
        start_within: float = 60.0,
    ) -> None:
        self._run_worker = run_worker
        self._listeners = tuple(listeners)
        self._metrics_listener = metrics_listener
        self._notifier = notifier
        self._flush = flush
        self._drain = drain
        self._heartbeat = heartbeat
        self._start_within = start_within
        self._slots = Slots(workers + 1)
        self._workers = [Worker(index) for index in range(workers)]
        self._wake: tuple[int, int] = (-1, -1)  # read and write end: a signal's number comes out
        self._restarts = 0
        self._up = False  # every worker has been ready once
        self._kill_at: float | None = None  # set while stopping
        self._reload_ends: float | None = None
        self._reloading: set[int] = set()  # the workers that have not said that it is over
        self._pinged = 0.0
        self._code = 0

    def run(self) -> int:
        """Serve; return the exit code: 0, or that of a worker that could not start. Closes the listeners."""
        harden()
        # What is imported stays: no collection may touch, and so copy, the pages that workers share.
        gc.collect()
        gc.freeze()
        metrics = Metrics(self._slots, len(self._workers))
        self._wake = os.pipe()
        for descriptor in self._wake:
            os.set_blocking(descriptor, False)
        handlers = {number: signal.signal(number, _noted) for number in SIGNALS}
        wakeup = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        try:
            for worker in self._workers:
                self._start(worker)
            while self._kill_at is None or any(worker.pid for worker in self._workers):
                self._wait()
                for number in _received(self._wake[0]):
                    self._handle(number)
                self._reap(metrics)
                if self._kill_at is None:
                    self._look_after()
                elif time.monotonic() >= self._kill_at:
                    self._tell(signal.SIGKILL)
                metrics.set(WORKERS, to=sum(worker.ready for worker in self._workers))
                metrics.fold()
        finally:
            self._tell(signal.SIGKILL)
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for descriptor in self._wake:
                os.close(descriptor)
            listening.close(self._listeners)
            if self._metrics_listener is not None:
                listening.close([self._metrics_listener])
        _log.info("stopped", exit=self._code)
        return self._code

    def _start(self, worker: Worker) -> None:
        pipes = [other.pipe for other in self._workers if other.pipe >= 0]
        worker.start(self._work, (*self._wake, *pipes), self._flush)
        _log.info("worker_started", worker=worker.index, pid=worker.pid)

    def _work(self, index: int, pipe: int) -> int | None:
        return self._run_worker(WorkerContext(index, self._listeners, self._metrics_listener, self._slots, pipe))

    def _wait(self) -> None:
        """Wait for a signal, a word from a worker, or the time to look at the clock."""
        poll = select.poll()
        poll.register(self._wake[0], select.POLLIN)
        for worker in self._workers:
            if worker.pipe >= 0:
                poll.register(worker.pipe, select.POLLIN)
        now = time.monotonic()
        starts = [worker.due - now for worker in self._workers if not worker.pid and self._kill_at is None]
        soonest = min(starts, default=_TICK)
        ready = {descriptor for descriptor, _ in poll.poll(max(0.0, min(_TICK, soonest)) * 1000)}
        for worker in self._workers:
            if worker.pipe in ready:
                self._hear(worker)

    def _hear(self, worker: Worker) -> None:
        said = worker.hear()
        if RELOADED in said:
            self._reloading.discard(worker.pid)
        if READY in said and not worker.ready:
            worker.ready = True
            _log.info("worker_ready", worker=worker.index, pid=worker.pid)
            if self._kill_at is None and all(other.ready for other in self._workers):
                self._up = True
                self._notifier.ready(self._status())

    def _handle(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._kill_at is None:
                self._stop(0)
            else:
                self._kill_at = 0.0  # asked twice: at once
        elif number == signal.SIGHUP and self._kill_at is None:
            _log.info("reloading")
            self._notifier.reloading()
            self._reload_ends = time.monotonic() + _RELOAD
            self._reloading = {worker.pid for worker in self._workers if worker.ready}
            # One that is not ready reads the configuration anyway, and knows no SIGHUP yet.
            for worker in self._workers:
                if worker.ready:
                    worker.kill(signal.SIGHUP)

    def _stop(self, code: int) -> None:
        self._code = code
        self._kill_at = time.monotonic() + self._drain
        _log.info("stopping", exit=code)
        self._notifier.stopping("draining")
        self._tell(signal.SIGTERM)
        # Workers close theirs; while ours are open the kernel goes on taking connections that nobody will answer.
        listening.close(listener for listener in self._listeners if listener.family != socket.AF_UNIX)
        if self._metrics_listener is not None:
            listening.close([self._metrics_listener])

    def _tell(self, number: int) -> None:
        for worker in self._workers:
            worker.kill(number)

    def _reap(self, metrics: Metrics) -> None:
        # Any child: as the first process of a container we are given orphans too.
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for worker in self._workers:
                if worker.pid == pid:
                    self._ended(worker, os.waitstatus_to_exitcode(status), metrics)

    def _ended(self, worker: Worker, code: int, metrics: Metrics) -> None:
        why = "stuck" if worker.aborted else "signal" if code < 0 else "exit"
        said = {"worker": worker.index, "pid": worker.pid, "why": why, "code": code}
        self._reloading.discard(worker.pid)
        worker.ended()
        if self._kill_at is not None:
            _log.info("worker_ended", **said)
        elif not self._up:
            # What keeps a worker from its first start will keep it from the next.
            _log.error("worker_ended", **said, then="stopping: it never was ready")
            self._stop(code if code > 0 else 1)
        else:
            now = time.monotonic()
            worker.failures = worker.failures + 1 if now - worker.born < _SOON else 0
            pause = min(_LONGEST_PAUSE, _PAUSE * 2**worker.failures) if worker.failures else 0.0
            worker.due = now + pause
            self._restarts += 1
            metrics.add(WORKER_RESTARTS, why)
            _log.error("worker_ended", **said, replaced=self._restarts, again_in=pause)
            self._notifier.status(self._status())

    def _look_after(self) -> None:
        """Do what is due: start, abort, kill, end a reload, tell the watchdog."""
        now = time.monotonic()
        for worker in self._workers:
            silent = now - worker.seen
            if not worker.pid:
                if now >= worker.due:
                    self._restart(worker)
            elif worker.aborted:
                if now - worker.aborted >= _LAST_WORDS:
                    worker.kill(signal.SIGKILL)
            elif silent >= (self._heartbeat if worker.ready else self._start_within):
                worker.aborted = now
                _log.error("worker_stuck", worker=worker.index, pid=worker.pid, silent=round(silent, 1))
                worker.kill(signal.SIGABRT)  # faulthandler writes where each thread is
        if self._reload_ends is not None and (not self._reloading or now >= self._reload_ends):
            self._reload_ends = None
            self._notifier.ready(self._status())
        interval = self._notifier.watchdog_interval
        if interval and now - self._pinged >= interval / 3 and self._alive(now):
            self._pinged = now
            self._notifier.alive()

    def _alive(self, now: float) -> bool:
        """Tell whether systemd may leave us alone: workers serve, and none is stuck beyond what SIGKILL ends."""
        stuck = [worker for worker in self._workers if worker.pid and worker.aborted]
        unkillable = any(now - worker.aborted >= 2 * _LAST_WORDS for worker in stuck)
        return not unkillable and any(worker.ready for worker in self._workers)

    def _restart(self, worker: Worker) -> None:
        try:
            self._start(worker)
        except OSError as error:
            worker.due = time.monotonic() + _LONGEST_PAUSE
            _log.error("worker_not_started", worker=worker.index, why=error.strerror, again_in=_LONGEST_PAUSE)

    def _status(self) -> str:
        ready = sum(worker.ready for worker in self._workers)
        return f"{ready} of {len(self._workers)} workers serve, {self._restarts} replaced"


def _received(wake: int) -> bytes:
    try:
        return os.read(wake, 4096)
    except BlockingIOError:
        return b""


def _noted(_number: int, _frame: object) -> None:
    """The wake-up descriptor carries the number; a handler only has to exist."""
