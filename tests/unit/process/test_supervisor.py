from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def test_is_ready_when_all_workers_are_and_ends_with_0(start):
    program = start()
    assert "2 of 2 workers serve" in program.heard("READY=1")
    pids = program.workers()
    assert set(pids) == {0, 1}
    limits = Path(f"/proc/{pids[0]}/limits").read_text()
    assert re.search(r"Max core file size\s+0\s+0\b", limits)
    soft, hard = re.search(r"Max open files\s+(\d+)\s+(\d+)", limits).groups()
    assert soft == hard
    program.process.send_signal(signal.SIGTERM)
    program.heard("STOPPING=1")
    assert program.process.wait(10) == 0


def test_nobody_may_attach_to_what_holds_credentials():
    """docs/threat-model.md, Upstream credentials: PR_GET_DUMPABLE of prctl(2) says what a worker, forked, has too."""
    line = "import ctypes; from mirror.workers import harden; harden(); print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    assert subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout == "0\n"


def test_sigterm_lets_a_running_answer_end(start):
    program = start()
    program.heard("READY=1")
    with program.connect() as client:
        client.sendall(b"GET /slow?1 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.3)
        program.process.send_signal(signal.SIGTERM)
        assert "pid" in program.answer(client)
    assert program.process.wait(10) == 0


def test_what_does_not_drain_is_killed(start):
    program = start(workers=1, kill_after=0.5, drain=60)
    program.heard("READY=1")
    with program.connect() as client:
        client.sendall(b"GET /slow?60 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(10) == 0
        assert client.recv(100) == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(start, number):
    program = start(workers=1, drain=60, kill_after=60)
    program.heard("READY=1")
    with program.connect() as client:
        client.sendall(b"GET /slow?60 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
        program.process.send_signal(number)
        program.heard("STOPPING=1")
        program.process.send_signal(number)
        assert program.process.wait(10) == 0


@pytest.mark.parametrize("code", [78, 5])
def test_a_worker_that_cannot_start_ends_the_service_with_its_code(start, code):
    program = start(fail=code)
    assert program.process.wait(10) == code
    assert "it never was ready" in program.said()


def test_a_worker_that_never_is_ready_ends_the_service(start):
    program = start(workers=1, never_ready=True, start_within=0.5)
    assert program.process.wait(15) == 1
