from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from tests.unit.process.running import until


def test_a_killed_worker_is_replaced_and_no_queued_connection_is_lost(start):
    program = start(workers=1)
    program.heard("READY=1")
    first = program.ask()["pid"]
    os.kill(first, signal.SIGSTOP)
    clients = [program.connect() for _ in range(20)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    os.kill(first, signal.SIGKILL)
    pids = {program.answer(client)["pid"] for client in clients}
    for client in clients:
        client.close()
    assert len(pids) == 1
    assert pids != {first}
    assert program.heard("0 of 1") == "STATUS=0 of 1 workers serve, 1 replaced"
    assert program.heard("1 of 1") == "STATUS=1 of 1 workers serve, 1 replaced"
    assert re.search(r"worker_ended .*why=signal code=-9 replaced=1", program.said())


def test_counters_of_both_workers_are_summed_and_never_fall_when_one_dies(start):
    program = start()
    program.heard("READY=1")
    pids = program.workers()
    asked = program.requests()
    for _ in range(10):
        program.ask()
    assert program.requests() == asked + 10
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: program.ask()["pid"] not in pids.values())
    before = program.requests()
    assert before >= asked + 11
    program.ask()
    assert program.requests() == before + 1
    assert 'mirror_worker_restarts_total{why="signal"} 1.0' in program.ask("/metrics")


def test_a_stuck_worker_is_replaced_and_says_where_it_was(start):
    program = start(workers=1, heartbeat=0.5)
    program.heard("READY=1")
    first = program.ask()["pid"]
    with program.connect() as client:
        client.sendall(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)  # or the loop accepts the next connection too before it hangs
        assert program.ask()["pid"] != first
    assert "worker_stuck" in program.said()
    assert re.search(r"program.py.* in answer", program.said())
    assert "why=stuck" in program.said()


def test_a_worker_that_ignores_sigabrt_is_killed(start):
    program = start(workers=1, heartbeat=0.5, last_words=0.3)
    program.heard("READY=1")
    first = program.ask()["pid"]
    os.kill(first, signal.SIGSTOP)  # a stopped process handles nothing but SIGKILL
    assert program.ask()["pid"] != first


def test_the_workers_end_when_the_supervisor_is_gone(start):
    program = start()
    program.heard("READY=1")
    pids = program.workers().values()
    program.process.kill()
    program.process.wait()

    def gone():
        alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        return all(Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z" for pid in alive)

    until(gone)


def test_the_watchdog_hears_from_us_until_no_worker_serves(start, tmp_path):
    program = start({"WATCHDOG_USEC": "300000"}, workers=1, once=str(tmp_path / "started"))
    program.heard("READY=1")
    for _ in range(3):
        program.heard("WATCHDOG=1")
    os.kill(program.ask()["pid"], signal.SIGKILL)
    program.heard("1 replaced")
    messages = []
    while not messages or "4 replaced" not in messages[-1]:
        messages.append(program.notified.recv(4096).decode())
    assert not [message for message in messages if "WATCHDOG" in message]
