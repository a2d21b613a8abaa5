"""A TCP relay in front of an upstream: counts what comes through it, slows it down, breaks it off."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType

_CHUNK = 64 * 1024


class Relay:
    """Relays connections to `target` (host:port) and counts bytes from there. A context manager.

    `rate` bounds each connection's bytes per second from the target; None leaves it as fast as it is.
    """

    def __init__(self, target: str, rate: float | None = None) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.rate = rate
        self.received = 0  # bytes from the target, in all connections
        self.connections = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._acceptor = threading.Thread(target=self._accept)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Relay:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Break every connection off; new ones are taken."""
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                target = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            target.settimeout(None)
            with self._lock:
                self.connections += 1
                self._open |= {client, target}
            self._threads.append(threading.Thread(target=self._serve, args=(client, target)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket, target: socket.socket) -> None:
        upward = threading.Thread(target=self._pump, args=(client, target, False))
        upward.start()
        self._pump(target, client, True)
        upward.join()
        with self._lock:
            self._open -= {client, target}
        client.close()
        target.close()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                if counted:
                    with self._lock:
                        self.received += len(chunk)
                    if self.rate is not None:
                        time.sleep(len(chunk) / self.rate)
                sink.sendall(chunk)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
