"""The program under a real supervisor, what systemd would hear from it, and a client of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = Path(__file__).with_name("program.py")


class Running:
    """The program under test, what systemd would hear from it, and a client."""

    def __init__(self, tmp_path, options, environ):
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = str(tmp_path / "notify")
        self.notified.bind(address)
        self.notified.settimeout(15)
        self.log = (tmp_path / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[3]), "NOTIFY_SOCKET": address, **environ},
        )
        first = self.process.stdout.readline()
        self.pid, *names = json.loads(first) if first else (0,)
        self.addresses = [tuple(name) if isinstance(name, list) else name for name in names]

    def heard(self, what):
        """Wait until the notify socket gets a message that contains `what`, and return it."""
        while True:
            message = self.notified.recv(4096).decode()
            if what in message:
                return message

    def ask(self, path="/", address=None):
        with self.connect(address) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            return self.answer(client)

    def connect(self, address=None):
        address = address or self.addresses[0]
        client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        client.settimeout(15)
        client.connect(address)
        return client

    def answer(self, client):
        text = b""
        while chunk := client.recv(65536):
            text += chunk
        head, _, body = text.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), text
        return json.loads(body) if body.startswith(b"{") else body.decode()

    def workers(self):
        """Return the pids of the children, with their indexes, by asking until two are known."""
        pids = {}
        deadline = time.monotonic() + 10
        while len(pids) < 2 and time.monotonic() < deadline:
            said = self.ask()
            pids[said["index"]] = said["pid"]
        return pids

    def requests(self):
        lines = self.ask("/metrics").splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("mirror_requests_total"))

    def said(self):
        self.log.flush()
        return Path(self.log.name).read_text()

    def end(self):
        if self.process.poll() is None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for pid in (self.process.pid, *map(int, children)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.communicate()
        self.log.close()
        self.notified.close()


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)
