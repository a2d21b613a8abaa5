"""SIGHUP under a real supervisor: workers of the new configuration take the old ones' places, or nothing changes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import ExitStack

import pytest

from tests.tools.processes import wait_until
from tests.unit.process.running import until


@pytest.fixture
def settings(tmp_path):
    """What the program reads as its configuration; a function that changes it."""
    path = tmp_path / "settings"

    def change(**values):
        path.write_text(json.dumps(values))

    change(version=1)
    change.path = str(path)
    return change


def service(program):
    return program.ask("/service")


def test_a_good_configuration_is_in_force_in_every_worker(start, settings):
    program = start(settings=settings.path)
    program.heard("READY=1")
    before = set(program.workers().values())
    settings(version=2)
    program.process.send_signal(signal.SIGHUP)
    assert "MONOTONIC_USEC=" in program.heard("RELOADING=1")
    assert "2 of 2 workers serve, 0 replaced" in program.heard("READY=1")
    after = program.workers()
    assert not before & set(after.values())
    assert {program.ask()["version"] for _ in range(10)} == {2}
    until(lambda: not service(program)["leaving"])
    told = service(program)
    assert told["reload"]["ok"]
    assert {one["pid"] for one in told["workers"]} == set(after.values())
    assert "mirror_config_reload_ok 1.0" in program.ask("/metrics")


@pytest.mark.parametrize("bad", [{"refuse": "no such key"}, {"unusable": "the authority is no certificate"}])
def test_a_bad_configuration_changes_nothing_and_says_so(start, settings, bad):
    program = start(settings=settings.path)
    program.heard("READY=1")
    before = program.workers()
    settings(version=2, **bad)
    program.process.send_signal(signal.SIGHUP)
    program.heard("RELOADING=1")
    (why,) = bad.values()
    status = program.heard("READY=1")
    assert "the last reload was refused" in status
    assert why in status
    # The worker that tried it may still be ending.
    wait_until(lambda: program.workers() == before, "the workers from before, and no other")
    assert program.ask()["version"] == 1
    assert "mirror_config_reload_ok 0.0" in program.ask("/metrics")
    assert "event=reload_refused" in program.said()
    assert why in service(program)["reload"]["why"]
    settings(version=3)
    program.process.send_signal(signal.SIGHUP)
    assert "refused" not in program.heard("READY=1")
    assert program.ask()["version"] == 3
    assert "mirror_config_reload_ok 1.0" in program.ask("/metrics")


def test_an_answer_that_has_begun_ends_in_the_old_worker_however_long_it_takes(start, settings):
    program = start(workers=1, settings=settings.path, drain=0.1, kill_after=0.2)
    program.heard("READY=1")
    with program.connect() as client:
        client.sendall(b"GET /slow?2 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
        settings(version=2)
        program.process.send_signal(signal.SIGHUP)
        program.heard("RELOADING=1")
        assert "1 of an earlier configuration" in program.heard("READY=1")
        assert program.ask()["version"] == 2
        assert "1 of an earlier configuration" not in program.said()
        assert len(service(program)["leaving"]) == 1
        assert program.answer(client)["version"] == 1
    assert program.heard("STATUS=") == "STATUS=1 of 1 workers serve, 0 replaced"
    until(lambda: not service(program)["leaving"])


def test_who_does_not_end_in_time_is_hurried(start, settings):
    program = start(workers=1, settings=settings.path, patience=0.5, drain=0.1, kill_after=1)
    program.heard("READY=1")
    with program.connect() as client:
        client.sendall(b"GET /slow?60 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
        program.process.send_signal(signal.SIGHUP)
        program.heard("RELOADING=1")
        program.heard("READY=1")
        assert client.recv(100) == b""
    until(lambda: not service(program)["leaving"])


def test_a_third_reload_hurries_the_answers_from_before_the_first(start, settings):
    program = start(workers=1, settings=settings.path, drain=0.1, kill_after=1)
    program.heard("READY=1")
    with ExitStack() as clients:
        waiting = []
        for _ in range(3):
            waiting.append(clients.enter_context(program.connect()))
            waiting[-1].sendall(b"GET /slow?60 HTTP/1.1\r\nHost: a\r\n\r\n")
            time.sleep(0.2)
            assert len(service(program)["leaving"]) == len(waiting) - 1
            program.process.send_signal(signal.SIGHUP)
            program.heard("RELOADING=1")
            program.heard("READY=1")
        assert waiting[0].recv(100) == b""
        until(lambda: len(service(program)["leaving"]) == 2)


def test_sigterm_in_the_midst_of_a_reload_ends_all(start, settings):
    program = start(settings=settings.path)
    program.heard("READY=1")
    program.process.send_signal(signal.SIGHUP)
    program.process.send_signal(signal.SIGTERM)
    assert program.process.wait(15) == 0


def test_there_may_be_more_and_fewer_workers_and_other_addresses(start, settings, tmp_path):
    other = str(tmp_path / "other")
    program = start(workers=1, settings=settings.path)
    program.heard("READY=1")
    settings(workers=3, listen=[f"unix:{other}"])
    program.process.send_signal(signal.SIGHUP)
    assert "3 of 3 workers serve" in (program.heard("RELOADING=1") and program.heard("READY=1"))
    assert program.ask(address=other)["workers"] == 3
    settings(workers=1)
    program.process.send_signal(signal.SIGHUP)
    assert "1 of 1 workers serve" in (program.heard("RELOADING=1") and program.heard("READY=1"))
    assert not os.path.exists(other)
    assert program.ask()["workers"] == 1


def test_a_worker_may_ask_for_it_and_one_that_dies_meanwhile_is_replaced(start, settings):
    program = start(settings=settings.path)
    program.heard("READY=1")
    old = program.workers()
    settings(version=2)
    program.ask("/reload")
    os.kill(old[0], signal.SIGKILL)
    program.heard("RELOADING=1")
    program.heard("READY=1")
    until(lambda: {program.ask()["version"] for _ in range(10)} == {2})
    until(lambda: sum(one["ready"] for one in service(program)["workers"]) == 2)


def test_reloads_under_load_lose_no_request(start, settings):
    program = start(settings=settings.path)
    program.heard("READY=1")
    ended = threading.Event()
    answers, failures = [0], []

    def keep_asking():
        client = None
        while not ended.is_set():
            try:
                client = client or program.connect()
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                text = b""
                while b"}" not in text:
                    chunk = client.recv(65536)
                    assert chunk, "cut"
                    text += chunk
                answers[0] += 1
                last = b"close" in text.lower().partition(b"\r\n\r\n")[0]
            except (OSError, AssertionError) as error:
                failures.append(repr(error))
                last = True
            if last:
                client.close()
                client = None
        if client is not None:
            client.close()

    threads = [threading.Thread(target=keep_asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    before = 0.0
    for version in range(2, 6):
        settings(version=version)
        program.process.send_signal(signal.SIGHUP)
        program.heard("RELOADING=1")
        program.heard("READY=1")
        counted = program.requests()
        assert counted >= before
        before = counted
    ended.set()
    for thread in threads:
        thread.join()
    assert answers[0] > 100
    assert failures == []
