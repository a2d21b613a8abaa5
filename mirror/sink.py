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
        self._lines: deque[str | threading.Event] = deque()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._on_drop: Callable[[int], None] | None = None
        self._told = 0
        self._chunk = _FILE_CHUNK if stat.S_ISREG(os.fstat(fd).st_mode) else _PIPE_CHUNK
        self.dropped = 0

    def start(self, on_drop: Callable[[int], None] | None = None) -> None:
        """Write from a thread from now on, which calls `on_drop` with the number of lines that were newly dropped."""
        self._on_drop = on_drop
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.flush)

    def write(self, line: str) -> None:
        """Take a line, which ends in a newline. After `start` it never blocks; it never raises."""
        if self._thread is None:
            if not (self._ready() and self._put(_encode(line))):
                self.dropped += 1
        elif len(self._lines) < self._capacity:
            self._lines.append(line)
        else:
            self.dropped += 1

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until everything taken so far is written, at most `timeout` seconds; return whether it is."""
        if self._thread is None:
            return True
        written = threading.Event()
        self._lines.append(written)
        self._wake.set()
        return written.wait(timeout)

    def _run(self) -> None:
        while True:
            self._wake.wait(_PERIOD)
            self._wake.clear()
            dropped = self.dropped - self._told
            if dropped and self._on_drop is not None:
                self._told += dropped
                self._on_drop(dropped)
            self._empty()

    def _empty(self) -> None:
        chunk: list[bytes] = []
        size = 0
        for _ in range(len(self._lines)):
            line = self._lines.popleft()
            if isinstance(line, threading.Event):
                self._put_lines(chunk)
                chunk, size = [], 0
                line.set()
                continue
            data = _encode(line)
            if size + len(data) > self._chunk:
                self._put_lines(chunk)
                chunk, size = [], 0
            chunk.append(data)
            size += len(data)
        self._put_lines(chunk)

    def _put_lines(self, lines: list[bytes]) -> None:
        if not self._put(b"".join(lines)):
            self.dropped += len(lines)

    def _put(self, data: bytes) -> bool:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                # Whoever gave us the descriptor made it non-blocking; its reader is behind.
                if not self._ready():
                    return False
            except OSError:
                return False
        return True

    def _ready(self) -> bool:
        patience = self._patience if self._thread is None else None
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(None if patience is None else patience * 1000))


def _encode(line: str) -> bytes:
    return line.encode("utf-8", "backslashreplace")
