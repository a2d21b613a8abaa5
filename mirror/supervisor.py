"""The process that owns the listening sockets and the workers: it starts, watches and replaces them, without a loop."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from mirror import listeners as listening
from mirror import logs
from mirror.errors import ConfigurationError, MirrorError
from mirror.metrics import RELOAD_OK, WORKER_RESTARTS, WORKERS, Metrics
from mirror.shares import Share, Shares
from mirror.slots import Slots
from mirror.systemd import Notifier
from mirror.workers import LEFT, READY, RELOAD, SIGNALS, Board, Crew, Worker, WorkerContext, harden

_log = logs.get(__name__)

_TICK = 0.5  # seconds between looks at the clock
_LAST_WORDS = 3.0  # seconds for a stuck worker to say where it is stuck, before it is killed
_SOON = 10.0  # a worker that ends within so many seconds of its start is replaced after a pause …
_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # … of so many seconds, doubled each time
_MOST_WORKERS = 64  # the most that mirror.yaml takes; as many again may be on their way out
_PARTING = 5.0  # seconds for a worker that was replaced to take no connection any more
_GENERATIONS_LEAVING = 2  # of workers that were replaced and still answer; the oldest beyond that are hurried


class Supervisor:
    """Runs the workers of `crew` until SIGTERM or SIGINT, and replaces them by those of another one on SIGHUP.

    `reread` gives that other crew, or raises MirrorError: then everything stays. So it does where the first worker of
    the new crew does not become ready; when it has, the old workers are replaced one by one and get `patience` seconds
    to end what they have begun. `flush` is called in a worker as the last thing it does; `private` are descriptors that
    no worker may keep; `facts` go with what `Board.service` says. Workers get `drain` seconds to end and `start_within`
    to become ready; one that is silent for `heartbeat` is killed and replaced.
    """

    def __init__(
        self,
        crew: Crew,
        *,
        notifier: Notifier,
        reread: Callable[[], Crew] | None = None,
        flush: Callable[[], object] = lambda: None,
        private: tuple[int, ...] = (),
        facts: Callable[[], dict[str, Any]] = dict,
        drain: float = 35.0,
        patience: float = 3600.0,
        heartbeat: float = 30.0,
        start_within: float = 60.0,
    ) -> None:
        self._crew = crew
        self._reread = reread
        self._notifier = notifier
        self._flush = flush
        self._private = private
        self._facts = facts
        self._drain = drain
        self._patience = patience
        self._heartbeat = heartbeat
        self._start_within = start_within
        self._slots = Slots(2 * _MOST_WORKERS + 1)
        self._board = Board(2 * _MOST_WORKERS)
        self._shares = Shares(2 * _MOST_WORKERS)
        self._metrics = Metrics(self._slots, len(self._slots) - 1)
        self._workers = [Worker(index, crew) for index in range(crew.workers)]
        self._leaving: list[Worker] = []  # replaced, with answers to end
        self._rising: Worker | None = None  # is about to take another one's place
        self._next: Crew | None = None  # of which no worker has been ready yet
        self._rise_at = 0.0
        self._rolling = False
        self._wake: tuple[int, int] = (-1, -1)  # read and write end: a signal's number comes out
        self._restarts = 0
        self._up = False  # every worker has been ready once
        self._kill_at: float | None = None  # set while stopping
        self._asked = False  # for a reload that has not begun
        self._reloaded: dict[str, Any] = {}
        self._began = time.time()
        self._pinged = 0.0
        self._told = ""  # the status that the service manager shows
        self._code = 0

    def run(self) -> int:
        """Serve; return the exit code: 0, or that of a worker that could not start. Closes the listeners."""
        harden()
        # What is imported stays: no collection may touch, and so copy, the pages that workers share.
        gc.collect()
        gc.freeze()
        self._metrics.set(RELOAD_OK, to=1)
        self._wake = os.pipe()
        for descriptor in self._wake:
            os.set_blocking(descriptor, False)
        handlers = {number: signal.signal(number, _noted) for number in SIGNALS}
        wakeup = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        try:
            for worker in self._workers:
                self._start(worker)
            while self._kill_at is None or any(worker.pid for worker in self._all()):
                self._wait()
                for number in _received(self._wake[0]):
                    self._handle(number)
                self._reap()
                if self._kill_at is None:
                    self._look_after()
                elif time.monotonic() >= self._kill_at:
                    self._tell(signal.SIGKILL)
                self._say()
                logs.tell_suppressed(ended=True)
        finally:
            self._tell(signal.SIGKILL)
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for descriptor in self._wake:
                os.close(descriptor)
            listening.close(self._sockets())
            logs.tell_suppressed()
        _log.info("stopped", exit=self._code)
        return self._code

    def _all(self) -> Iterator[Worker]:
        yield from self._workers
        yield from self._leaving
        if self._rising is not None:
            yield self._rising

    def _sockets(self) -> list[socket.socket]:
        coming = self._next.sockets if self._next is not None else ()
        return list(dict.fromkeys((*self._crew.sockets, *coming)))

    def _start(self, worker: Worker) -> None:
        pipes = [other.pipe for other in self._all() if other.pipe >= 0]
        crew = worker.crew
        foreign = [sock for sock in self._sockets() if sock not in crew.sockets]

        def work(index: int, pipe: int) -> int | None:
            # An address that is given up is free only when nobody has it open.
            for sock in foreign:
                sock.close()
            return crew.run(WorkerContext(index, crew, self._slots, self._board, Share(self._shares, index), pipe))

        worker.start(work, (*self._wake, *self._private, *pipes), self._flush)
        _log.info("worker_started", worker=worker.index, pid=worker.pid)

    def _wait(self) -> None:
        """Wait for a signal, a word from a worker, or the time to look at the clock."""
        poll = select.poll()
        poll.register(self._wake[0], select.POLLIN)
        for worker in self._all():
            if worker.pipe >= 0:
                poll.register(worker.pipe, select.POLLIN)
        now = time.monotonic()
        starts = [worker.due - now for worker in self._workers if not worker.pid and self._kill_at is None]
        soonest = min(starts, default=_TICK)
        ready = {descriptor for descriptor, _ in poll.poll(max(0.0, min(_TICK, soonest)) * 1000)}
        for worker in list(self._all()):
            if worker.pipe in ready:
                self._hear(worker)

    def _hear(self, worker: Worker) -> None:
        said = worker.hear()
        if RELOAD in said:
            self._asked = True
        if LEFT in said:
            worker.left = True
        if READY in said and not worker.ready:
            worker.ready = True
            _log.info("worker_ready", worker=worker.index, pid=worker.pid)
            if self._kill_at is not None:
                return
            if worker is self._rising:
                self._rise(worker)
            elif not self._up and all(other.ready for other in self._workers):
                self._up = True
                self._tell_ready()

    def _handle(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._kill_at is None:
                self._stop(0)
            else:
                self._kill_at = 0.0  # asked twice: at once
        elif number == signal.SIGHUP and self._kill_at is None:
            self._asked = True

    # -- another configuration -------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Begin to replace the workers by those of what `reread` gives."""
        self._asked = False
        _log.info("reloading")
        self._notifier.reloading()
        if self._reread is None:
            self._tell_ready()
            return
        try:
            crew = self._reread()
        except ConfigurationError as error:
            self._refuse([str(problem) for problem in error.problems])
        except MirrorError as error:
            self._refuse([str(error)])
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the service goes on with what it has
            _log.exception("reload_failed")
            self._refuse([type(error).__name__])
        else:
            self._next = crew
            self._rise_at = 0.0
            self._rolling = True
            self._roll()

    def _roll(self) -> None:
        """Start the next worker of the new crew, or end a reload where all are there."""
        now = time.monotonic()
        if self._rising is not None or now < self._rise_at:
            return
        crew = self._next or self._crew
        if self._next is None and sum(worker.crew is crew for worker in self._workers) >= crew.workers:
            for worker in [worker for worker in self._workers if worker.crew is not crew]:
                self._replace(worker, None)
            if any(not worker.left and now - worker.leaves < _PARTING for worker in self._leaving):
                return  # they may still take a connection, and answer as they were told before
            self._rolling = False
            self._reloaded = {"at": time.time(), "ok": True, "why": ""}
            self._metrics.set(RELOAD_OK, to=1)
            _log.info("reloaded", workers=crew.workers)
            self._tell_ready()
            return
        worker = Worker(self._free(), crew)
        try:
            self._start(worker)
        except OSError as error:
            self._rise_at = now + _LONGEST_PAUSE
            _log.error("worker_not_started", worker=worker.index, why=error.strerror, again_in=_LONGEST_PAUSE)
            if self._next is not None:
                self._turn_back(f"no process could be made ({error.strerror})")
        else:
            self._rising = worker

    def _rise(self, worker: Worker) -> None:
        """Let a worker that is ready take its place; with the first one the new configuration is in force."""
        self._rising = None
        if self._next is not None:
            gone = [sock for sock in self._crew.sockets if sock not in self._next.sockets]
            self._crew, self._next = self._next, None
            self._crew.taken()
            # The old workers have them open for a moment yet: nobody is refused before the others listen.
            listening.give_up(gone)
        self._replace(next((other for other in self._workers if other.crew is not self._crew), None), worker)
        self._roll()

    def _replace(self, old: Worker | None, new: Worker | None) -> None:
        """Put `new` in the place of `old`, which ends what it has begun."""
        place = self._workers.index(old) if old is not None else len(self._workers)
        self._workers[place : place + 1] = [new] if new is not None else []
        if old is None or not old.pid:
            return
        old.leaves = time.monotonic()
        self._leaving.append(old)
        # One that is not ready knows no SIGHUP yet.
        old.kill(signal.SIGHUP if old.ready else signal.SIGTERM)
        most = _GENERATIONS_LEAVING * len(self._workers)
        for worker in self._leaving[: max(0, len(self._leaving) - most)]:
            self._hurry(worker)

    def _hurry(self, worker: Worker) -> None:
        if not worker.hurried:
            worker.hurried = time.monotonic()
            worker.kill(signal.SIGTERM)

    def _turn_back(self, why: str) -> None:
        """Give up a configuration whose first worker did not become ready."""
        crew, self._next, self._rising = self._next, None, None
        if crew is not None:
            listening.close(sock for sock in crew.sockets if sock not in self._crew.sockets)
        self._refuse([why])

    def _refuse(self, reasons: list[str]) -> None:
        self._rolling = False
        self._reloaded = {"at": time.time(), "ok": False, "why": "; ".join(reasons)[:2000]}
        self._metrics.set(RELOAD_OK, to=0)
        for reason in reasons:
            _log.error("reload_refused", why=reason, remedy="mend it and reload again; the old configuration serves on")
        self._tell_ready()

    def _free(self) -> int:
        taken = {worker.index for worker in self._all()}
        return next(index for index in range(len(self._slots) - 1) if index not in taken)

    # -- the end ---------------------------------------------------------------------------------------------

    def _stop(self, code: int) -> None:
        self._code = code
        self._kill_at = time.monotonic() + self._drain
        _log.info("stopping", exit=code)
        self._notifier.stopping("draining")
        self._tell(signal.SIGTERM)
        # Workers close theirs; while ours are open the kernel goes on taking connections that nobody will answer.
        listening.close(listener for listener in self._sockets() if listener.family != socket.AF_UNIX)

    def _tell(self, number: int) -> None:
        for worker in self._all():
            worker.kill(number)

    def _reap(self) -> None:
        # Any child: as the first process of a container we are given orphans too.
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for worker in list(self._all()):
                if worker.pid == pid:
                    self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Worker, code: int) -> None:
        why = "stuck" if worker.aborted else "signal" if code < 0 else "exit"
        said = {"worker": worker.index, "pid": worker.pid, "why": why, "code": code}
        if worker.pipe >= 0:
            self._hear(worker)  # its last words
        worker.ended()
        self._shares.leave(worker.index)
        self._metrics.settle(worker.index)
        if self._kill_at is not None:
            _log.info("worker_ended", **said)
        elif worker in self._leaving:
            self._leaving.remove(worker)
            _log.info("worker_left", **said)
        elif worker is self._rising:
            self._fell(worker, said)
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
            self._metrics.add(WORKER_RESTARTS, why)
            _log.error("worker_ended", **said, replaced=self._restarts, again_in=pause)

    def _fell(self, worker: Worker, said: dict[str, Any]) -> None:
        """Note that a worker ended before it could take its place."""
        if self._next is not None:
            _log.error("worker_ended", **said, then="the configuration is given up")
            self._turn_back(worker.why or f"a worker could not start with it ({said['why']}, code {said['code']})")
        else:
            self._rising = None
            self._rise_at = time.monotonic() + _LONGEST_PAUSE
            _log.error("worker_ended", **said, again_in=_LONGEST_PAUSE)

    def _look_after(self) -> None:
        """Do what is due: start, abort, kill, end a reload, tell the watchdog."""
        now = time.monotonic()
        for worker in list(self._all()):
            silent = now - worker.seen
            if not worker.pid:
                if now >= worker.due:
                    self._restart(worker)
            elif worker.aborted:
                if now - worker.aborted >= _LAST_WORDS:
                    worker.kill(signal.SIGKILL)
            elif worker.hurried and now - worker.hurried >= self._drain:
                worker.kill(signal.SIGKILL)
            elif silent >= (self._heartbeat if worker.ready else self._start_within):
                worker.aborted = now
                _log.error("worker_stuck", worker=worker.index, pid=worker.pid, silent=round(silent, 1))
                worker.kill(signal.SIGABRT)  # faulthandler writes where each thread is
            elif worker.leaves and now - worker.leaves >= self._patience:
                self._hurry(worker)
        if self._asked and self._up and not self._rolling:
            self._reload()
        elif self._rolling:
            self._roll()
        interval = self._notifier.watchdog_interval
        if interval and now - self._pinged >= interval / 3 and self._alive(now):
            self._pinged = now
            self._notifier.alive()

    def _alive(self, now: float) -> bool:
        """Tell whether systemd may leave us alone: workers serve, and none is stuck beyond what SIGKILL ends."""
        stuck = [worker for worker in self._all() if worker.pid and worker.aborted]
        unkillable = any(now - worker.aborted >= 2 * _LAST_WORDS for worker in stuck)
        return not unkillable and any(worker.ready for worker in self._workers)

    def _restart(self, worker: Worker) -> None:
        worker.crew = self._crew
        try:
            self._start(worker)
        except OSError as error:
            worker.due = time.monotonic() + _LONGEST_PAUSE
            _log.error("worker_not_started", worker=worker.index, why=error.strerror, again_in=_LONGEST_PAUSE)

    def _status(self) -> str:
        ready = sum(worker.ready for worker in self._workers)
        status = f"{ready} of {len(self._workers)} workers serve, {self._restarts} replaced"
        if self._leaving:
            status += f", {len(self._leaving)} of an earlier configuration finish their answers"
        if self._reloaded.get("ok") is False:
            status += f"; the last reload was refused: {self._reloaded['why'][:300]}"
        return status

    def _tell_ready(self) -> None:
        self._told = self._status()
        self._publish()  # first: whoever waits for it may ask at once
        self._notifier.ready(self._told)

    def _say(self) -> None:
        """Publish what is known of the service; the manager is told what has changed."""
        if self._up and self._kill_at is None and (status := self._status()) != self._told:
            self._told = status
            self._notifier.status(status)
        self._publish()

    def _publish(self) -> None:
        """Publish what is known of the service, and the numbers."""
        self._metrics.set(WORKERS, to=sum(worker.ready for worker in self._workers))
        self._metrics.fold()
        phase = "stopping" if self._kill_at is not None else "reloading" if self._rolling else "serving"
        self._board.post_service(
            {
                **self._facts(),
                "pid": os.getpid(),
                "began": self._began,
                "phase": phase if self._up or phase == "stopping" else "starting",
                "restarts": self._restarts,
                "reload": self._reloaded,
                "workers": [_told(worker) for worker in self._workers],
                "leaving": [_told(worker) for worker in self._leaving],
            }
        )


def _told(worker: Worker) -> dict[str, Any]:
    age = time.monotonic() - worker.born
    return {"index": worker.index, "pid": worker.pid, "ready": worker.ready, "age": round(age, 1)}


def _received(wake: int) -> bytes:
    try:
        return os.read(wake, 4096)
    except BlockingIOError:
        return b""


def _noted(_number: int, _frame: object) -> None:
    """The wake-up descriptor carries the number; a handler only has to exist."""
