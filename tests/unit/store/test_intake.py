"""Content from files: nothing wrong is published, spans come in any order, and a kill at any moment loses little."""

from __future__ import annotations

import errno
import json
import os
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.config import Amount, Storage
from mirror.errors import Corrupt, NotYet, StoreError, StoreFull
from mirror.oci.digest import Digest
from mirror.store import files, intake, promises
from mirror.store.index import Index
from mirror.store.intake import Intake, Waiting
from mirror.store.layout import Layout
from mirror.store.probe import prepare
from mirror.store.quarantine import Quarantine
from mirror.store.space import Space
from tests.faults.invariants import sealed_files_hash_to_their_names

CONTENT = random.Random(7).randbytes(300_000)
DIGEST = Digest.of(CONTENT)
SIZE = len(CONTENT)
DAY = 86400

# What a process that works in the store does to its disk: it is killed before each of these, one after the other.
STEPS = ("pwrite", "write", "fsync", "fdatasync", "ftruncate", "rename", "unlink", "fchmod", "utime", "open")


class Source:
    """Bytes that are read in order, and how many were."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0

    def __call__(self, count: int) -> bytes:
        content = self.content[self.position : self.position + min(count, 65536)]
        self.position += len(content)
        return content


class Store:
    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        prepare(self.layout)
        self.index = Index(self.layout, Quarantine(self.layout))
        self.space = Space(self.layout, self.index, Storage(path=root, keep_free=Amount(bytes=0)))
        self.committed: list[tuple[Digest, int]] = []
        self.intake = Intake(self.layout, self.space, lambda digest, size: self.committed.append((digest, size)))

    def whole(self, content: bytes = CONTENT, digest: Digest | None = None) -> None:
        self.intake.receive(digest or Digest.of(content), len(content), Source(content))

    def span(self, start: int, stop: int, content: bytes = CONTENT) -> bool:
        return self.intake.receive_range(DIGEST, SIZE, start, stop - start, Source(content[start:stop]))

    def here(self, digest: Digest = DIGEST) -> bytes | None:
        path = Path(self.layout.blob(digest))
        if not path.exists():
            return None
        assert files.is_sealed(os.lstat(path)), "what is published is sealed"
        return path.read_bytes()

    def growing(self) -> list[str]:
        return sorted(os.listdir(self.layout.ingest))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.index.close()


def test_a_whole_content(store: Store) -> None:
    assert not store.intake.has(DIGEST, SIZE)
    store.whole()
    assert store.here() == CONTENT
    assert store.committed == [(DIGEST, SIZE)]
    assert store.growing() == []
    assert store.intake.has(DIGEST, SIZE)
    source = Source(CONTENT)
    store.intake.receive(DIGEST, SIZE, source)
    assert source.position == 0, "what is here is not read again"
    store.whole(b"")
    assert store.here(Digest.of(b"")) == b""
    sha512 = Digest.of(CONTENT, "sha512")
    store.whole(CONTENT, sha512)
    assert store.here(sha512) == CONTENT


@pytest.mark.parametrize(
    "wrong",
    [CONTENT[:-1], CONTENT[:-1] + b"!", b"!" + CONTENT[1:], b"", CONTENT[:65536]],
    ids=lambda one: str(len(one)),
)
def test_other_bytes_are_never_published(store: Store, wrong: bytes) -> None:
    with pytest.raises(Corrupt):
        store.intake.receive(DIGEST, SIZE, Source(wrong))
    assert store.here() is None
    assert store.growing() == []
    assert store.committed == []


def test_another_size_than_the_content_has_is_never_here(store: Store) -> None:
    with pytest.raises(Corrupt):
        store.intake.receive(DIGEST, SIZE - 1, Source(CONTENT))
    store.whole()
    assert not store.intake.has(DIGEST, SIZE - 1)
    with pytest.raises(Corrupt):
        store.intake.receive(DIGEST, SIZE + 1, Source(CONTENT + b"!"))
    assert store.here() == CONTENT


def test_what_the_source_raises_passes_by_and_leaves_nothing(store: Store) -> None:
    def broken(count: int) -> bytes:
        raise OSError(errno.EIO, "the disk that was carried here is broken")

    with pytest.raises(OSError, match="carried here"):
        store.intake.receive(DIGEST, SIZE, broken)
    with pytest.raises(OSError, match="carried here"):
        store.intake.receive_range(DIGEST, SIZE, 10, 20, broken)
    assert store.growing() == []


def test_unsealed_files_are_hashed_before_they_count(store: Store) -> None:
    path = Path(store.layout.blob(DIGEST))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    assert store.intake.has(DIGEST, SIZE)
    assert files.is_sealed(os.lstat(path))
    path.unlink()
    path.write_bytes(CONTENT[:-1] + b"!")
    assert not store.intake.has(DIGEST, SIZE)
    assert not path.exists()
    assert store.intake._quarantine.held()[0] == 1


# -- spans -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, SIZE - 1), unique=True, max_size=6).map(sorted),
    order=st.randoms(use_true_random=False),
    runs=st.booleans(),
)
def test_spans_in_any_order_over_any_runs(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], order: random.Random, runs: bool
) -> None:
    store = Store(tmp_path_factory.mktemp("spans") / "store")
    spans = list(zip([0, *cuts], [*cuts, SIZE], strict=True))
    order.shuffle(spans)
    try:
        for number, (start, stop) in enumerate(spans):
            if runs:
                store.intake = Intake(store.layout, store.space, lambda digest, size: None)
            assert store.span(start, stop) == (number == len(spans) - 1)
            waiting = store.intake.waiting()
            if number < len(spans) - 1:
                assert store.here() is None
                assert sum(last - first for first, last in waiting[DIGEST].spans) == sum(
                    last - first for first, last in spans[: number + 1]
                )
                assert all(waiting[DIGEST].covers(*span) for span in spans[: number + 1])
        assert store.here() == CONTENT
        assert store.growing() == []
    finally:
        store.index.close()


def test_a_span_that_is_here_is_not_read_again_and_overlapping_ones_are_fine(store: Store) -> None:
    assert not store.span(100_000, 200_000)
    source = Source(b"other bytes" * 10_000)
    assert not store.intake.receive_range(DIGEST, SIZE, 110_000, 50_000, source)
    assert source.position == 0
    assert not store.span(0, 150_000)
    assert store.intake.waiting() == {DIGEST: Waiting(SIZE, ((0, 200_000),))}
    assert store.span(190_000, SIZE)
    assert store.here() == CONTENT
    assert store.span(5, 10), "it is here"


@pytest.mark.parametrize(("start", "length"), [(-1, 5), (0, 0), (5, -1), (SIZE, 1), (SIZE - 1, 2), (0, 1 << 60)])
def test_spans_outside_of_the_content(store: Store, start: int, length: int) -> None:
    with pytest.raises(Corrupt):
        store.intake.receive_range(DIGEST, SIZE, start, length, Source(CONTENT))
    assert store.growing() == []


def test_a_span_that_stops_short_costs_no_other(store: Store) -> None:
    assert not store.span(0, 100_000)
    with pytest.raises(Corrupt):
        store.intake.receive_range(DIGEST, SIZE, 100_000, 100_000, Source(CONTENT[100_000:150_000]))
    assert store.intake.waiting()[DIGEST].spans == ((0, 100_000),)
    assert (store.layout.ingest / f"sha256-{DIGEST.hex}.spans").stat().st_size == 100_000
    assert store.span(100_000, SIZE)


def test_wrong_spans_are_dropped_when_the_whole_is_hashed(store: Store) -> None:
    assert not store.span(0, 100_000, b"x" + CONTENT[1:])
    with pytest.raises(Corrupt):
        store.span(100_000, SIZE)
    assert store.here() is None
    assert store.growing() == []
    assert not store.span(0, 100_000)
    assert store.span(100_000, SIZE)
    assert store.here() == CONTENT


def test_spans_of_another_size_begin_anew(store: Store) -> None:
    assert not store.intake.receive_range(DIGEST, SIZE + 5, SIZE, 5, Source(b"extra"))
    assert not store.span(0, 100_000)
    assert store.intake.waiting() == {DIGEST: Waiting(SIZE, ((0, 100_000),))}
    assert store.span(100_000, SIZE)
    assert store.here() == CONTENT


def test_what_came_whole_needs_no_spans_any_more(store: Store) -> None:
    store.span(0, 100_000)
    store.whole()
    assert store.growing() == []
    store.span(5, 10)
    assert store.growing() == []
    assert not store.intake.forget(DIGEST)


def test_spans_can_be_forgotten(store: Store) -> None:
    store.span(0, 100_000)
    assert store.intake.forget(DIGEST)
    assert store.growing() == []
    assert store.intake.waiting() == {}


def test_a_note_without_its_file_counts_for_nothing(store: Store) -> None:
    """Somebody died between the rename and the note's removal, and the content was given up since."""
    note = store.layout.ingest / f"sha256-{DIGEST.hex}.spans.json"
    note.write_text(json.dumps({"size": SIZE, "spans": [[0, SIZE]]}))
    assert store.intake.waiting() == {}
    assert not store.intake.complete(DIGEST)
    assert not store.span(0, 100)
    assert store.intake.waiting()[DIGEST].spans == ((0, 100),)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"{",
        b"[]",
        b'{"size": 5}',
        b'{"size": "x", "spans": []}',
        b'{"size": 300000, "spans": [[5, 1]]}',
        b'{"size": 300000, "spans": [[0, 400000]]}',
        b'{"size": 300000, "spans": [[0, 5], [5, 6]]}',
        b'{"size": 300000, "spans": [[-5, 5]]}',
        b"[" * 5000,
    ],
)
def test_a_damaged_note_is_none(store: Store, note: bytes) -> None:
    store.span(0, 200_000)
    (store.layout.ingest / f"sha256-{DIGEST.hex}.spans.json").write_bytes(note)
    assert store.intake.waiting() == {}
    assert not store.span(200_000, SIZE)
    assert store.span(0, 200_000)
    assert store.here() == CONTENT


def test_all_spans_here_and_not_committed(store: Store) -> None:
    store.span(0, SIZE - 1)
    with open(store.layout.ingest / f"sha256-{DIGEST.hex}.spans", "r+b") as file:
        file.seek(SIZE - 1)
        file.write(CONTENT[-1:])
    (store.layout.ingest / f"sha256-{DIGEST.hex}.spans.json").write_text(
        json.dumps({"size": SIZE, "spans": [[0, SIZE]]})
    )
    assert store.intake.waiting()[DIGEST].whole
    assert store.intake.complete(DIGEST)
    assert store.here() == CONTENT


# -- room ------------------------------------------------------------------------------------------------------


def test_what_waits_for_the_rest_is_promised_room(store: Store) -> None:
    store.span(100_000, 200_000)
    whole = -(-SIZE // 4096) * 4096
    assert whole - 110_000 <= store.space.promised() <= whole - 90_000
    assert promises.promised(store.layout).cached == whole
    assert promises.promised(store.layout, pinned={str(DIGEST)}).cached == 0
    store.span(0, 100_000)
    store.span(200_000, SIZE)
    assert store.space.promised() == 0


def test_a_full_store_says_so_before_a_byte_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", _statvfs(free=1000))
    source = Source(CONTENT)
    with pytest.raises(StoreFull):
        store.intake.receive(DIGEST, SIZE, source)
    with pytest.raises(StoreFull):
        store.intake.receive_range(DIGEST, SIZE, 0, 1000, source)
    assert source.position == 0
    assert store.growing() == []


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, StoreError)]
)
@pytest.mark.parametrize("call", ["pwrite", "fsync", "rename", "ftruncate", "fchmod", "utime"])
def test_a_disk_that_fails_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[Exception]
) -> None:
    store.whole(b"first")  # makes the folders
    real = getattr(os, call)

    def fail(*arguments: object, **options: object) -> object:
        if call == "rename" and str(arguments[0]).endswith("~"):
            return real(*arguments, **options)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        with pytest.raises(error):
            store.whole()
    assert store.here() is None
    assert store.growing() == []
    store.whole()
    assert store.here() == CONTENT


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_full_disk_in_a_span_costs_no_other(store: Store, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store.span(0, 100_000)

    def fail(*arguments: object) -> object:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        with pytest.raises(StoreFull):
            store.span(100_000, SIZE)
    assert store.intake.waiting()[DIGEST].spans == ((0, 100_000),)
    assert store.span(100_000, SIZE)


def _statvfs(free: int) -> Callable[[object], os.statvfs_result]:
    return lambda path: os.statvfs_result((4096, 4096, 10**6, free // 4096, free // 4096, 10**6, 10**6, 10**6, 0, 255))


# -- several at once, kills ------------------------------------------------------------------------------------


def test_many_at_once_write_once(store: Store) -> None:
    failures: list[BaseException] = []
    together = threading.Barrier(6)

    def bring(spans: list[tuple[int, int]]) -> None:
        own = Intake(store.layout, store.space, lambda digest, size: store.committed.append((digest, size)))
        together.wait()
        try:
            for start, stop in spans:
                own.receive_range(DIGEST, SIZE, start, stop - start, Source(CONTENT[start:stop]))
            own.receive(DIGEST, SIZE, Source(CONTENT))
        except BaseException as error:
            failures.append(error)

    spans = [(start, min(start + 50_000, SIZE)) for start in range(0, SIZE, 50_000)]
    threads = [threading.Thread(target=bring, args=(spans[number:] + spans[:number],)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.here() == CONTENT
    assert store.committed == [(DIGEST, SIZE)]
    assert store.growing() == []


def test_whoever_holds_it_and_does_not_get_on_is_given_up_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_PATIENCE", 0.1)
    entered, leave = threading.Event(), threading.Event()

    def slow(count: int) -> bytes:
        entered.set()
        leave.wait(10)
        return b""

    def hold() -> None:
        with pytest.raises(Corrupt):
            store.intake.receive(DIGEST, SIZE, slow)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(10)
    with pytest.raises(NotYet):
        store.whole()
    leave.set()
    thread.join()
    store.whole()
    assert store.here() == CONTENT


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Run `work` in a child that dies before its step `number`; say whether it did."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    steps = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal steps
            steps += 1
            if steps == number:
                os._exit(9)
            return real(*arguments, **options)

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    try:
        work()
    finally:
        os._exit(0)


@pytest.mark.parametrize("kind", ["whole", "spans"])
def test_a_kill_before_any_step(store: Store, kind: str) -> None:
    def work() -> None:
        if kind == "whole":
            store.whole()
        else:
            for start, stop in ((200_000, SIZE), (0, 100_000), (100_000, 200_000)):
                store.span(start, stop)

    number = 1
    while killed_at(number, work):
        assert sealed_files_hash_to_their_names(store.layout) == []
        noted = store.intake.waiting()
        work()
        assert store.here() == CONTENT, f"after a kill before step {number}"
        # A note of what is committed promises nothing, and goes with the leftovers.
        left = [name for name in store.growing() if not name.endswith(("~", ".json"))]
        assert left == [], f"after a kill before step {number}, noted {noted}"
        assert store.space.promised() == 0
        os.unlink(store.layout.blob(DIGEST))
        number += 1
    assert number > 10


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_kill_between_seal_and_rename_as_another_user_than_root(tmp_path: Path) -> None:
    """Only root may write to what is sealed: another user opens it anew."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:-2]:
        parent.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    child = os.fork()
    if not child:
        try:
            os.setuid(65534)
            store = Store(home / "store")
            for kind in (".whole", ".spans"):
                path = store.layout.ingest / f"sha256-{DIGEST.hex}{kind}"
                path.write_bytes(CONTENT)
                path.with_name(f"{path.name}.json").write_text(json.dumps({"size": SIZE, "spans": [[0, SIZE]]}))
                path.chmod(0o440)
            if not store.intake.complete(DIGEST):
                os._exit(2)
            os.unlink(store.layout.blob(DIGEST))
            store.whole()
            os._exit(0 if store.here() == CONTENT and store.growing() == [] else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- leftovers -------------------------------------------------------------------------------------------------


def _age(store: Store, monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    now = time.time()
    monkeypatch.setattr("mirror.store.files.time.time", lambda: now + days * DAY)


def test_spans_wait_for_a_month_and_what_was_whole_for_a_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.span(0, 100_000)
    whole = store.layout.ingest / f"sha256-{DIGEST.hex}.whole"
    whole.write_bytes(CONTENT)
    whole.with_name(f"{whole.name}.json").write_text(json.dumps({"size": SIZE, "spans": []}))
    _age(store, monkeypatch, 2)
    assert store.space.remove_leftovers() >= SIZE
    assert store.growing() == [f"sha256-{DIGEST.hex}.spans", f"sha256-{DIGEST.hex}.spans.json"]
    assert store.intake.waiting()[DIGEST].spans == ((0, 100_000),)
    _age(store, monkeypatch, 31)
    assert store.space.remove_leftovers() >= 100_000
    assert store.growing() == []


def test_what_somebody_writes_is_no_leftover(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _age(store, monkeypatch, 99)
    source = Source(CONTENT)

    def read(count: int) -> bytes:
        assert store.space.remove_leftovers() == 0
        return source(count)

    store.intake.receive(DIGEST, SIZE, read)
    assert store.here() == CONTENT


def test_memory_is_flat(store: Store) -> None:
    size = 48 * 1024 * 1024
    block = random.Random(1).randbytes(1024 * 1024)
    hasher = DIGEST.hasher()
    for _ in range(size // len(block)):
        hasher.update(block)
    digest = Digest("sha256", hasher.hexdigest())
    tracemalloc.start()
    try:
        store.intake.receive_range(digest, size, size // 2, size // 2, lambda count: block[:count])
        store.intake.receive_range(digest, size, 0, size // 2, lambda count: block[:count])
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert store.intake.has(digest, size)
