"""Queues of events: what was appended waits, in order, whatever is killed."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mirror.errors import StoreError, StoreUnreadable
from mirror.store import events as module
from mirror.store import files
from mirror.store.events import LARGEST, Events
from mirror.store.layout import Layout
from mirror.store.lock import FileLock

QUEUE = "0123456789abcdef"
OTHER = "fedcba9876543210"

WRITER = """
import sys
from pathlib import Path
from mirror.store.events import Events
from mirror.store.layout import Layout
events, name, number = Events(Layout(Path(sys.argv[1]))), sys.argv[2], 0
while True:
    batch = [f"{name} {number + one}".encode() for one in range(1 + number % 3)]
    events.append("0123456789abcdef", name, batch)
    number += len(batch)
    print(number, flush=True)
"""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    made.locks.mkdir(parents=True)
    return made


@pytest.fixture
def events(layout: Layout) -> Events:
    return Events(layout)


def waiting(events: Events, queue: str = QUEUE) -> list[bytes | None]:
    """Return all that waits, in order."""
    _, entries = events.scan(queue, ())
    return events.read(queue, [entry.name for entry in entries])


def folder(layout: Layout, queue: str = QUEUE) -> Path:
    return layout.root / "events" / queue


def names(layout: Layout, queue: str = QUEUE) -> list[str]:
    return sorted(path.name for path in folder(layout, queue).glob("*.json"))


def test_what_is_appended_waits_in_order(events: Events, layout: Layout) -> None:
    assert waiting(events) == []
    assert events.append(QUEUE, "apps/web", [b"1"]) == 0
    assert events.append(QUEUE, "apps/db", [b"2", b"3"]) == 0
    assert events.append(OTHER, "apps/web", [b"9"]) == 0
    assert events.append(QUEUE, "apps/web", [b"4"]) == 0
    assert waiting(events) == [b"1", b"2", b"3", b"4"]
    assert waiting(events, OTHER) == [b"9"]
    _, entries = events.scan(QUEUE, ())
    lines = [entry.line for entry in entries]
    assert lines[0] == lines[3] != lines[1] == lines[2]
    assert [entry.size for entry in entries] == [1, 1, 1, 1]
    assert [name[:13] for name in names(layout)] == [f"{number:012d}-" for number in (1, 2, 3, 4)]
    modes = {oct(path.stat().st_mode & 0o777) for path in folder(layout).iterdir()}
    assert modes == {"0o600"}
    assert oct(folder(layout).stat().st_mode & 0o777) == "0o700"


def test_scan_tells_what_is_new_and_what_is_left(events: Events, layout: Layout) -> None:
    events.append(QUEUE, "a", [b"1", b"2"])
    first, second = names(layout)
    left, fresh = events.scan(QUEUE, {first})
    assert left == {first, second}
    assert [entry.name for entry in fresh] == [second]
    events.remove(QUEUE, [first, "000000000099-0000000000000000.json"])
    assert events.scan(QUEUE, {first, second}) == ({second}, [])


def test_what_is_no_event_is_passed_over(events: Events, layout: Layout) -> None:
    events.append(QUEUE, "a", [b"1"])
    for name in ("notes.txt", "1-0123456789abcdef.json", "000000000007-0123456789ABCDEF.json", "12-ab~"):
        (folder(layout) / name).write_text("x")
    assert waiting(events) == [b"1"]


def test_reading(events: Events, layout: Layout) -> None:
    events.append(QUEUE, "a", [b"x" * LARGEST, b"x" * (LARGEST + 1), b"3"])
    listed = names(layout)
    (folder(layout) / listed[2]).unlink()
    assert events.read(QUEUE, listed) == [b"x" * LARGEST, b"", None]
    (folder(layout) / listed[2]).symlink_to("/etc/passwd")
    with pytest.raises(StoreUnreadable, match="symbolic"):
        events.read(QUEUE, listed[2:])


# -- sequences


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"000000000001\n", b"999999999999\n", b"-5"])
def test_a_counter_that_is_behind_or_broken(events: Events, layout: Layout, content: bytes | None) -> None:
    """As a crash of the host leaves it: it is not synced, the names are."""
    events.append(QUEUE, "a", [b"1", b"2", b"3"])
    events.remove(QUEUE, names(layout)[:1])
    counter = folder(layout) / "last"
    counter.unlink()
    if content is not None:
        counter.write_bytes(content)
    again = Events(layout)
    again.append(QUEUE, "a", [b"4"])
    again.append(QUEUE, "a", [b"5"])
    assert waiting(again) == [b"2", b"3", b"4", b"5"]


def test_a_queue_that_somebody_deletes_while_it_is_used(events: Events, layout: Layout) -> None:
    events.append(QUEUE, "a", [b"1"])
    for path in folder(layout).iterdir():
        path.unlink()
    folder(layout).rmdir()
    events.append(QUEUE, "a", [b"2"])
    assert waiting(events) == [b"2"]


def test_no_sequence_is_given_twice_while_the_queue_is_emptied(events: Events, layout: Layout) -> None:
    given: list[str] = []
    for number in range(20):
        events.append(QUEUE, "a", [b"%d" % number])
        given += names(layout)
        events.remove(QUEUE, names(layout))
    assert given == sorted(set(given))
    assert len(given) == 20


def test_many_threads(layout: Layout) -> None:
    shared = Events(layout)

    def write(name: str) -> None:
        mine = Events(layout) if name > "w3" else shared
        for number in range(25):
            mine.append(QUEUE, name, [f"{name} {number}".encode()])

    threads = [threading.Thread(target=write, args=(f"w{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(raw or b"").decode().split() for raw in waiting(shared)]
    assert len(found) == 150
    for number in range(6):
        assert [int(count) for name, count in found if name == f"w{number}"] == list(range(25))


# -- faults


@pytest.mark.parametrize("call", ["fsync", "rename", "pwrite"])
def test_a_disk_that_refuses_leaves_nothing(
    events: Events, layout: Layout, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    events.append(QUEUE, "a", [b"1"])
    calls = [0]
    real = getattr(os, call)

    def fails(*arguments: object) -> object:
        calls[0] += 1
        if calls[0] == (1 if call == "pwrite" else 2):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(OSError, match="No space"):
            events.append(QUEUE, "a", [b"2", b"3"])
    assert waiting(events) == [b"1"]
    assert list(folder(layout).glob("*~")) == []
    events.append(QUEUE, "a", [b"4"])
    assert waiting(events) == [b"1", b"4"]


def test_a_folder_that_cannot_be_synced_leaves_nothing(
    events: Events, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not durable is not said to wait."""
    events.append(QUEUE, "a", [b"1"])

    def fails(_path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_folder", fails)
        with pytest.raises(OSError, match="Input/output"):
            events.append(QUEUE, "a", [b"2"])
    assert waiting(events) == [b"1"]


def test_somebody_who_holds_the_queue_for_too_long(
    events: Events, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    with FileLock(layout.lock(f"events {QUEUE}")), pytest.raises(StoreError, match="holds the queue"):
        events.append(QUEUE, "a", [b"1"])
    assert waiting(events) == []
    assert list(folder(layout).iterdir()) == []
    events.append(QUEUE, "a", [b"2"])
    assert waiting(events) == [b"2"]


# -- bounds


def test_a_queue_that_nobody_empties_is_held_to_a_bound(
    events: Events, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    monkeypatch.setattr(module, "_LOOK_EVERY", 4)
    dropped = sum(events.append(QUEUE, "a", [b"%d" % number]) for number in range(50))
    left = waiting(events)
    assert 10 <= len(left) <= 24
    assert dropped == 50 - len(left)
    assert left == [b"%d" % number for number in range(50 - len(left), 50)]


def test_tidying(events: Events, layout: Layout) -> None:
    events.append(QUEUE, "a", [b"1"])
    events.append(OTHER, "a", [b"1", b"2"])
    events.append("0" * 16, "a", [b"1"])
    old, young = folder(layout) / "1-aa~", folder(layout) / "2-bb~"
    for path in (old, young):
        path.write_text("x")
    long_ago = time.time() - module.STALE - 60
    os.utime(old, (long_ago, long_ago))
    foreign = layout.root / "events" / "lost+found"
    foreign.mkdir()
    for path in (folder(layout), folder(layout, OTHER), foreign):
        os.utime(path, (long_ago, long_ago))
    assert events.tidy({QUEUE}) == {OTHER: 2}
    assert not folder(layout, OTHER).exists()
    assert waiting(events) == [b"1"]
    assert waiting(events, "0" * 16) == [b"1"]  # another process may have a webhook for it
    assert (old.exists(), young.exists(), foreign.exists()) == (False, True, True)
    assert Events(Layout(layout.root / "none")).tidy(()) == {}


# -- kill -9


def test_what_was_acknowledged_survives_kill(layout: Layout) -> None:
    """Two writers at a time, killed at random points: all that they said is there, whole, and in their order."""
    events = Events(layout)
    luck = random.Random(5)
    for number in range(6):
        writers = {name: _start(layout, name) for name in (f"r{number}/a", f"r{number}/b")}
        said = {name: [int(writer.stdout.readline())] for name, writer in writers.items() if writer.stdout}
        time.sleep(luck.random() * 0.03)
        for writer in writers.values():
            writer.send_signal(signal.SIGKILL)
        for name, writer in writers.items():
            assert writer.stdout is not None
            said[name] += [int(line) for line in writer.stdout if line.endswith("\n")]
            writer.stdout.close()
            writer.wait()
        found = [(raw or b"").decode().split() for raw in waiting(events)]
        assert {name for name, _ in found} == set(writers)
        for name, acknowledged in said.items():
            here = [int(count) for other, count in found if other == name]
            # One call at most was under way: all of it, some of it or nothing.
            assert here == list(range(len(here)))
            assert acknowledged[-1] <= len(here) <= acknowledged[-1] + 3
        events.remove(QUEUE, names(layout))
        assert len(list(folder(layout).glob("*~"))) <= 3 * 2 * (number + 1)


def _start(layout: Layout, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(layout.root), name],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(module.__file__).parents[2],
    )
