"""Small bodies asked for by this process a given number of times, so that two servers have exactly the same to do."""

from __future__ import annotations

import contextlib
import select
import socket

from bench.content import ACCEPT
from bench.processes import BenchError, Server

_BUFFER = 64 * 1024
_PATIENCE = 60  # seconds for an answer


class Asking:
    """Keep-alive connections that ask for <server.root>/<path>, a body of `size` bytes. A context manager."""

    def __init__(self, server: Server, path: str, size: int, connections: int = 16) -> None:
        self._what = f"{server.name} {path}"
        self._size = size
        self._request = f"GET {server.root}/{path} HTTP/1.1\r\nHost: bench\r\nAccept: {ACCEPT}\r\n\r\n".encode()
        with contextlib.ExitStack() as running:
            self._poll = running.enter_context(select.epoll())
            self._open: dict[int, tuple[socket.socket, bytearray]] = {}
            for _ in range(connections):
                address = "127.0.0.1", server.port
                sock = running.enter_context(socket.create_connection(address, _PATIENCE))
                self._open[sock.fileno()] = sock, bytearray()
                self._poll.register(sock, select.EPOLLIN)
            self._running = running.pop_all()

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def ask(self, requests: int) -> None:
        """Ask so often in all, which is once a connection at least; raise BenchError where an answer is wrong."""
        for sock, _ in self._open.values():
            sock.sendall(self._request)
        sent, answered = len(self._open), 0
        while answered < sent:
            ready = self._poll.poll(_PATIENCE)
            if not ready:
                raise BenchError(f"{self._what}: no answer within {_PATIENCE} s")
            for descriptor, _ in ready:
                sock, got = self._open[descriptor]
                got += sock.recv(_BUFFER)
                if not self._is_whole(got):
                    continue
                got.clear()
                answered += 1
                if sent < requests:
                    sent += 1
                    sock.sendall(self._request)

    def _is_whole(self, answer: bytearray) -> bool:
        head, found, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or len(body) > self._size:
            raise BenchError(f"{self._what}: not 200 with {self._size} bytes but {bytes(answer[:400])!r}")
        return bool(found) and len(body) == self._size
