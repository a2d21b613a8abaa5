"""The load: large bodies by a few small processes that throw them away, small ones by wrk.

As a program (`python -m bench.load JSON`) it is one of these processes: it connects, says `ready`, waits for a line,
asks, and prints what it saw.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.content import ACCEPT, MANIFEST_TYPE, Blob
from bench.processes import ROOT, BenchError, Server, get

_BUFFER = 1024 * 1024
_LIMIT = 180.0  # seconds that any load may take
# Go's clients, which pull images, prefer this suite; OpenSSL's prefer one with a longer key.
_OPENSSL = """openssl_conf = load
[load]
ssl_conf = ssl
[ssl]
system_default = client
[client]
Ciphersuites = TLS_AES_128_GCM_SHA256
"""


# -- large bodies ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bulk:
    """What a number of connections saw together. Seconds are from the sending of each request."""

    seconds: float = 0.0  # from the first request to the last byte
    bytes: int = 0
    first: list[float] = field(default_factory=list)  # until the first byte of each body
    whole: list[float] = field(default_factory=list)  # until its last


def pull(
    server: Server,
    path: str,
    size: int,
    *,
    connections: int,
    requests: int = 1,
    processes: int = 2,
    interrupted: Callable[[], None] | None = None,
) -> Bulk:
    """GET <server.root>/<path> `requests` times on each of `connections`, spread over `processes`.

    Raises BenchError where an answer is not 200 with `size` bytes. With `interrupted`, that is called while the
    answers are under way, and what happens to them does not matter.
    """
    shares = [connections // processes + (number < connections % processes) for number in range(processes)]
    with tempfile.NamedTemporaryFile("w", suffix=".cnf") as openssl, contextlib.ExitStack() as running:
        openssl.write(_OPENSSL)
        openssl.flush()
        workers = []
        for share in filter(None, shares):
            ordered = {**order(server, path, size), "connections": share, "requests": requests}
            workers.append(running.enter_context(_worker(ordered, openssl.name)))
        for worker in workers:
            _read_line(worker)
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        if interrupted is not None:
            interrupted()
            return Bulk()
        return _together([json.loads(_read_line(worker)) for worker in workers], f"{server.name} {path}")


def order(server: Server, path: str, size: int) -> dict[str, Any]:
    """Return what a connection is told: to GET <server.root>/<path>, which has `size` bytes, once."""
    return {
        "port": server.port,
        "secure": server.secure,
        "path": f"{server.root}/{path}",
        "connections": 1,
        "requests": 1,
        "size": size,
    }


@contextlib.contextmanager
def _worker(order: dict[str, Any], openssl: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.load", json.dumps(order)]
    worker = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OPENSSL_CONF": openssl},
    )
    timer = threading.Timer(_LIMIT, worker.kill)
    timer.start()
    try:
        yield worker
    finally:
        timer.cancel()
        worker.kill()
        worker.communicate()


def _read_line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise BenchError("a load process ended without a word")
    return line


def _together(reports: list[dict[str, Any]], what: str) -> Bulk:
    problems = [problem for report in reports for problem in report["problems"]]
    if problems:
        raise BenchError(f"{what}: {problems[0]} ({len(problems)} connections)")
    bulk = Bulk(max(report["ended"] for report in reports) - min(report["began"] for report in reports))
    for report in reports:
        bulk.bytes += report["bytes"]
        bulk.first += report["first"]
        bulk.whole += report["whole"]
    return bulk


class Connection:
    """A connection that pulls large bodies; `run`, of a load process, belongs to a thread of its own.

    The kernel finds out how many bytes to take ahead of us, unless `window` says it; then it also throws bodies away
    by itself, and does not copy them for us.
    """

    def __init__(self, order: dict[str, Any], window: int = 0) -> None:
        self._order = order
        self._sock = socket.socket()
        self._flags = 0
        if window:
            self._flags = socket.MSG_TRUNC
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self._sock.settimeout(60)
        self._sock.connect(("127.0.0.1", order["port"]))
        if order["secure"]:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._sock = context.wrap_socket(self._sock)
        self._buffer = memoryview(bytearray(_BUFFER))
        self.began = self.ended = 0.0
        self.bytes = 0
        self.first: list[float] = []
        self.whole: list[float] = []
        self.problem = ""

    def run(self) -> None:
        try:
            self.began = time.monotonic()
            for _ in range(self._order["requests"]):
                self.ask()
        except (OSError, ValueError) as error:
            self.problem = f"{type(error).__name__}: {error}"
        finally:
            self.ended = time.monotonic()
            self.close()

    def close(self) -> None:
        """End the connection."""
        self._sock.close()

    def ask(self) -> None:
        """Send one request and throw the answer away; raise OSError or ValueError where it is not what was ordered."""
        sent = time.monotonic()
        self._sock.sendall(f"GET {self._order['path']} HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n\r\n".encode())
        head, got = b"", 0
        while b"\r\n\r\n" not in head:
            count = self._sock.recv_into(self._buffer)
            if not count:
                raise ValueError("the connection ended before the answer")
            head += self._buffer[:count]
        head, _, body = head.partition(b"\r\n\r\n")
        status, length = int(head[9:12]), re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if status != 200 or length is None or int(length[1]) != self._order["size"]:
            raise ValueError(f"not 200 with {self._order['size']} bytes but {head[:400]!r} {bytes(body[:300])!r}")
        got, left = len(body), self._order["size"] - len(body)
        if got:
            self.first.append(time.monotonic() - sent)
        while left:
            count = self._sock.recv_into(self._buffer, min(left, _BUFFER), self._flags)
            if not count:
                raise ValueError(f"cut off {left} bytes before the end")
            if not got:
                got = count
                self.first.append(time.monotonic() - sent)
            left -= count
        self.whole.append(time.monotonic() - sent)
        self.bytes += self._order["size"]


def _work(order: dict[str, Any]) -> None:
    connections = [Connection(order) for _ in range(order["connections"])]
    threads = [threading.Thread(target=connection.run) for connection in connections]
    print("ready", flush=True)
    sys.stdin.readline()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = {
        "began": min(connection.began for connection in connections),
        "ended": max(connection.ended for connection in connections),
        "bytes": sum(connection.bytes for connection in connections),
        "first": [first for connection in connections for first in connection.first],
        "whole": [whole for connection in connections for whole in connection.whole],
        "problems": [connection.problem for connection in connections if connection.problem],
    }
    print(json.dumps(report), flush=True)


def announce(server: Server, blob: Blob) -> None:
    """Pull the manifest, as whoever pulls an image does first; raise BenchError."""
    status, _ = get(server.port, f"{server.root}/manifests/{blob.manifest}")
    if status != 200:
        raise BenchError(f"{server.name} answers a cold manifest with {status}")


def push(server: Server, root: str, blob: Blob) -> float:
    """POST and PUT a blob to the repository at the path `root` and return the seconds; raise BenchError."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=_LIMIT)) as connection:
        began = time.monotonic()
        connection.request("POST", f"{root}/blobs/uploads/", headers={"Content-Length": "0"})
        answer = connection.getresponse()
        answer.read()
        location = urlsplit(answer.headers.get("Location", ""))
        if answer.status != 202 or not location.path:
            raise BenchError(f"{server.name} begins no upload: {answer.status}")
        query = f"{location.query}&" if location.query else ""
        connection.putrequest("PUT", f"{location.path}?{query}digest={blob.digest}")
        connection.putheader("Content-Type", "application/octet-stream")
        connection.putheader("Content-Length", str(blob.size))
        connection.endheaders()
        with blob.path.open("rb") as file:
            connection.sock.sendfile(file)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 201:
            raise BenchError(f"{server.name} takes no blob: {answer.status} {body[:200]!r}")
        return time.monotonic() - began


def push_manifest(server: Server, root: str, manifest: Path) -> None:
    """PUT an image's manifest under its digest, whose name its file has; raise BenchError."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=_LIMIT)) as connection:
        headers = {"Content-Type": MANIFEST_TYPE}
        connection.request("PUT", f"{root}/manifests/{manifest.name}", manifest.read_bytes(), headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 201:
            raise BenchError(f"{server.name} takes no manifest: {answer.status} {body[:200]!r}")


# -- small bodies ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Small:
    """What wrk saw: requests, requests a second, and the 99th percentile of the waiting in seconds."""

    requests: int
    rate: float
    p99: float


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def ask(server: Server, path: str, seconds: int, wrk: str, connections: int = 32) -> Small:
    """Ask for a small body over and over on keep-alive connections; raise BenchError where an answer is not 2xx."""
    url = f"http://127.0.0.1:{server.port}{server.root}/{path}"
    command = [wrk, "-t2", f"-c{connections}", f"-d{seconds}s", "--latency", "-H", f"Accept: {ACCEPT}", url]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_LIMIT).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    count = re.search(r"(\d+) requests in", output)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", output)
    if rate is None or count is None or p99 is None or "Non-2xx" in output or "Socket errors" in output:
        raise BenchError(f"{server.name} {path}: wrk says\n{output}")
    return Small(int(count[1]), float(rate[1]), float(p99[1]) * _UNITS[p99[2]])


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))
