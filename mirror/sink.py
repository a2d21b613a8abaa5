"""Where log lines go: a bounded buffer and a thread that empties it, so that a stalled reader stops nothing else."""

from __future__ import annotations

import atexit
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable

_PERIOD = 0.25  # seconds between batches
# A pipe takes up to PIPE_BUF bytes whole (pipe(7)), so the lines of several processes are not torn; a file takes any.
_PIPE_CHUNK = select.PIPE_BUF
_FILE_CHUNK = 1 << 18


class _Mark(threading.Event):
    """Stands between the lines; set when all lines before it are written."""


class Sink:
    """Writes lines to a descriptor.

    Before `start` a line is written at once; the caller waits up to `patience` seconds for a reader that is not ready
    (None: for as long as it takes), then the line is dropped. After `start` lines are gathered and a daemon thread
    writes them every quarter of a second: it may block, nobody else does, and what does not fit into `capacity`
    lines is dropped. A process that forks starts its sink in the children only.
    """

    def __init__(self, fd: int = 2, *, capacity: int = 16384, patience: float | None = None) -> None:
        self._fd = fd
        self._capacity = capacity
        self._patience = patience
        self._lines: deque[str | _Mark] = deque()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._on_drop: Callable[[int], None] | None = None
        self._chunk = _FILE_CHUNK if stat.S_ISREG(os.fstat(fd).st_mode) else _PIPE_CHUNK
        self.dropped = 0

    def start(self, on_drop: Callable[[int], None] | None = None) -> None:
        """Write from a thread from now on; `on_drop` is told how many lines are dropped whenever some are."""
        self._on_drop = on_drop
        if self._thread is None:
            self._stopping = False
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.flush)

    def write(self, line: str) -> None:
        """Take a line, which ends in a newline. After `start` it never blocks; it never raises."""
        if self._thread is None:
            if not (self._ready(self._patience) and self._put(line.encode("utf-8", "backslashreplace"))):
                self._drop(1)
        elif len(self._lines) < self._capacity:
            self._lines.append(line)
        else:
            self._drop(1)

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until everything taken so far is written, at most `timeout` seconds; return whether it is."""
        if self._thread is None:
            return True
        mark = _Mark()
        self._lines.append(mark)
        self._wake.set()
        return mark.wait(timeout)

    def stop(self, timeout: float = 1.0) -> None:
        """Write what was taken, if the reader lets us, and end the thread; lines are written at once again."""
        if self._thread is None:
            return
        self._stopping = True
        self.flush(timeout)
        self._thread.join(timeout)
        self._thread = None
        atexit.unregister(self.flush)

    def _run(self) -> None:
        while self._lines or not self._stopping:
            self._wake.wait(_PERIOD)
            self._wake.clear()
            self._write_out()

    def _write_out(self) -> None:
        chunk: list[bytes] = []
        size = 0
        for _ in range(len(self._lines)):
            line = self._lines.popleft()
            if isinstance(line, str):
                data = line.encode("utf-8", "backslashreplace")
                size += len(data)
                if size <= self._chunk:
                    chunk.append(data)
                    continue
                self._write_chunk(chunk)
                chunk, size = [data], len(data)
            else:
                self._write_chunk(chunk)
                chunk, size = [], 0
                line.set()
        self._write_chunk(chunk)

    def _write_chunk(self, lines: list[bytes]) -> None:
        if not self._put(b"".join(lines)):
            self._drop(len(lines))

    def _put(self, data: bytes) -> bool:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                # Whoever gave us the descriptor made it non-blocking; its reader is behind.
                if not self._ready(self._patience if self._thread is None else None):
                    return False
            except OSError:
                return False
        return True

    def _drop(self, count: int) -> None:
        self.dropped += count
        if self._on_drop is not None:
            self._on_drop(count)

    def _ready(self, patience: float | None) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(None if patience is None else patience * 1000))
