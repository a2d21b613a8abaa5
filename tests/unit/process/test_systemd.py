from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from mirror.systemd import Notifier, adopt


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = str(tmp_path / "notify") if request.param == "path" else f"@mirror-test-{os.getpid()}"
        sock.bind(name.replace("@", "\0"))
        sock.settimeout(5)
        yield name, sock


def test_says_each_word_as_systemd_reads_it(manager):
    name, sock = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("2 of 2")
    assert sock.recv(200) == b"READY=1\nSTATUS=2 of 2"
    notifier.status("fine")
    assert sock.recv(200) == b"STATUS=fine"
    notifier.reloading()
    first, second = sock.recv(200).split(b"\n")
    assert first == b"RELOADING=1"
    assert second.startswith(b"MONOTONIC_USEC=")
    notifier.alive()
    assert sock.recv(200) == b"WATCHDOG=1"
    notifier.stopping("draining")
    assert sock.recv(200) == b"STOPPING=1\nSTATUS=draining"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "relative"}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_says_nothing_and_fails_never_without_a_manager(environ):
    Notifier(environ).ready("fine")


def test_a_manager_that_does_not_read_stops_nothing(manager):
    notifier = Notifier({"NOTIFY_SOCKET": manager[0]})
    for _ in range(10000):
        notifier.alive()


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "³"}, None),
    ],
)
def test_the_watchdog_interval(environ, interval):
    assert Notifier(environ).watchdog_interval == interval


ADOPT = """
import os
from mirror.systemd import adopt
os.environ["LISTEN_PID"] = str(os.getpid())
for name, sock in adopt(os.environ):
    print(name, sock.getsockname()[1], sock.family.name, sock.get_inheritable())
"""


def test_adopts_what_systemd_opened():
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:

        def place():
            # High first: a descriptor below may be what stands at 3 or 4.
            for number, sock in ((900, first), (901, second)):
                os.dup2(sock.fileno(), number)
            for number in (3, 4):
                os.dup2(number + 897, number)

        said = subprocess.run(
            [sys.executable, "-c", ADOPT],
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:metrics"},
            pass_fds=(3, 4),
            preexec_fn=place,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        ports = [sock.getsockname()[1] for sock in (first, second)]
    assert said.splitlines() == [f"web {ports[0]} AF_INET False", f"metrics {ports[1]} AF_INET False"]


@pytest.mark.parametrize("environ", [{}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_PID": str(os.getpid())}])
def test_adopts_nothing_that_is_meant_for_another(environ):
    assert adopt(environ) == []
