"""`mirror serve` forked from a process that has everything imported: started and killed by the hundred."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.tools.mirror import Mirror
from tests.tools.processes import NotReadyError, wait_until

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["mirror.cli", "mirror.app", "tests.faults.forked"])


def _serve(words: list[str], log: str) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    sys.argv = words
    from mirror.__main__ import run

    run()


class ForkedMirror(Mirror):
    """A `mirror serve` that costs no imports; its supervisor, its workers and their end are those of any."""

    def __init__(self, folder: Path, document: Mapping[str, Any]) -> None:
        super().__init__(folder, document)
        self._forked: BaseProcess | None = None

    @property
    def running(self) -> bool:
        return self._forked is not None and self._forked.is_alive()

    @property
    def pid(self) -> int:
        assert self._forked is not None
        assert self._forked.pid is not None
        return self._forked.pid

    def start(self, seconds: float = 20) -> None:
        self.killed = False
        words = ["mirror", "serve", "--config", str(self.configuration)]
        self._forked = _FORKSERVER.Process(target=_serve, args=(words, str(self._log)))
        self._forked.start()
        wait_until(lambda: not self.running or self._answers_ready(), "the service", seconds)
        if not self.running:
            raise NotReadyError(self.log)

    def stop(self, seconds: float = 20) -> int:
        assert self._forked is not None
        os.kill(self.pid, signal.SIGTERM)
        self._forked.join(seconds)
        return self._forked.exitcode if self._forked.exitcode is not None else -1

    def kill(self) -> None:
        self.killed = True
        if self._forked is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._forked.join()
