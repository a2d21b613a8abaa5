"""The kept sum of promises is never below what the notes say, whoever is killed, and no promise walks the notes."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.config import Amount, Storage
from mirror.errors import StoreFull
from mirror.oci.digest import Digest
from mirror.store import kept_sum, leftovers
from mirror.store import space as space_module
from mirror.store.index import Index
from mirror.store.kept_sum import Kept, KeptSum
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.probe import prepare
from mirror.store.promises import NOTHING, Promised, promised
from mirror.store.quarantine import Quarantine
from mirror.store.space import Disk, Space

MIB = 1 << 20
DEAR = 0.05  # seconds that a count took, which is more than a client is let wait for one


def digest(number: int) -> Digest:
    return Digest("sha256", f"{number:064x}")


class Killed(BaseException):
    """The process is gone: nothing is put right any more."""


class Store:
    """A store, and the steps by which promises come and go in it."""

    def __init__(self, root: Path, **storage: Any) -> None:
        self.layout = Layout(root)
        prepare(self.layout)
        (self.layout.blobs / "sha256").mkdir(exist_ok=True)
        self.index = Index(self.layout, Quarantine(self.layout))
        self.space = Space(self.layout, self.index, Storage(path=root, keep_free=Amount(bytes=0), **storage))
        self.sum = self.space._kept
        self.counting: list[Iterator[int]] = []

    def part(self, number: int, is_upload: bool) -> str:
        return self.layout.upload(str(number)) if is_upload else self.layout.part(digest(number))

    def note(self, number: int, size: int | None, is_upload: bool = False) -> None:
        Path(f"{self.part(number, is_upload).removesuffix('.part')}.json").write_text(json.dumps({"size": size}))

    def promise(self, number: int, size: int | None, is_upload: bool, killed: str = "") -> None:
        def commit() -> None:
            if killed != "before":
                self.note(number, size, is_upload)
            if killed:
                raise Killed

        try:
            if is_upload:
                self.space.reserve_upload(str(number), "team/app", size, commit)
            else:
                self.space.reserve(digest(number), size, commit)
        except Killed:
            pass

    def write(self, number: int, is_upload: bool) -> None:
        """Write what one reads of 64 KiB at a time, and no more than is promised."""
        path = Path(self.part(number, is_upload))
        note = path.with_suffix(".json")
        size = json.loads(note.read_text())["size"] if note.exists() else 0
        here = path.stat().st_size if path.exists() else 0
        with path.open("ab") as file:
            file.write(os.urandom(min(64 * 1024, MIB if size is None else max(0, size - here))))

    def end(self, number: int, is_upload: bool) -> None:
        """Commit where there is something: the file first, then its note."""
        path = Path(self.part(number, is_upload))
        if path.exists():
            path.rename(self.layout.blob(digest(number)))
        path.with_suffix(".json").unlink(missing_ok=True)

    def rest(self, number: int) -> None:
        self.note(number, 0, is_upload=True)

    def begin_count(self) -> None:
        self.counting.append(self.sum.counting((), time.monotonic() + 5))

    def go_on(self) -> None:
        for count in self.counting:
            next(count, None)


STEPS = st.one_of(
    st.tuples(
        st.just("promise"), st.integers(1, 4), st.sampled_from([None, 0, 1, 100_000, MIB]), st.booleans(),
        st.sampled_from(["", "", "before", "after"]),
    ),
    st.tuples(st.just("write"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("end"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("rest"), st.integers(1, 4)),
    st.tuples(st.sampled_from(["begin_count", "go_on", "lose", "damage", "dear"])),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=25))
def test_the_sum_is_never_below_the_notes_and_equals_them_when_counted(
    steps: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_sum, "_STEP", 1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        try:
            for step, *arguments in steps:
                kept = store.sum.read()
                if step == "lose":
                    store.layout.promised.unlink(missing_ok=True)
                elif step == "damage" and store.layout.promised.exists():
                    store.layout.promised.write_bytes(b"7 8 9")
                elif step == "dear" and kept is not None:
                    store.sum._write(kept._replace(cost=DEAR, notes=1000))
                elif step not in ("lose", "damage", "dear"):
                    getattr(store, step)(*arguments)
                kept = store.sum.read()
                truth = promised(store.layout)
                assert kept is None or (kept.sum.owed >= truth.owed and kept.sum.cached >= truth.cached), step
            store.sum.recount((), time.monotonic() + 5)
            kept = store.sum.read()
            assert kept is not None
            assert kept.sum == promised(store.layout)
        finally:
            store.index.close()


# -- who counts


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    made: list[Store] = []

    def make_store(**options: Any) -> Store:
        made.append(Store(tmp_path / "store", **options))
        return made[-1]

    yield make_store
    for store in made:
        store.index.close()


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each walk of the notes, whether it was made under the lock that all promises wait for."""
    found: list[bool] = []

    def counted(walk: Callable[..., Any]) -> Callable[..., Any]:
        def one(layout: Layout, *arguments: Any) -> Any:
            lock = FileLock(layout.lock("space"))
            found.append(not lock.try_acquire())
            lock.release()
            return walk(layout, *arguments)

        return one

    monkeypatch.setattr(kept_sum, "promises", counted(kept_sum.promises))
    monkeypatch.setattr(space_module, "promised", counted(space_module.promised))
    return found


def keep(store: Store, *, age: float, cost: float) -> None:
    store.sum.recount((), time.monotonic() + 5)
    kept = store.sum.read()
    assert kept is not None
    notes = 1000 if cost >= DEAR else 1
    store.sum._write(kept._replace(counted=time.time() - age, cost=cost, notes=notes))


STATES: list[tuple[str, Callable[[Store], object], int]] = [
    ("none is kept", lambda store: store.layout.promised.unlink(missing_ok=True), 1),
    ("it is empty", lambda store: store.layout.promised.write_bytes(b""), 1),
    ("it is cut off", lambda store: os.truncate(store.layout.promised, 20), 1),
    ("a digit is another", lambda store: store.layout.promised.write_bytes(
        store.layout.promised.read_bytes().replace(b"1", b"2").replace(b"0", b"1")), 1),
    ("its name is a folder's", lambda store: (store.layout.promised.unlink(), store.layout.promised.mkdir()), 1),
    ("cheap and young", lambda store: keep(store, age=1, cost=0.0001), 0),
    ("dear and young", lambda store: keep(store, age=1, cost=DEAR), 0),
    ("dear and due", lambda store: keep(store, age=6, cost=DEAR), 0),
    ("nobody counted for long", lambda store: keep(store, age=11, cost=DEAR), 1),
    ("nobody counted for long, which takes long", lambda store: keep(store, age=50, cost=5), 1),
    ("counted not so long ago for what it takes", lambda store: keep(store, age=39, cost=5), 0),
    ("counted in the future", lambda store: keep(store, age=-1000, cost=DEAR), 1),
]  # fmt: skip


@pytest.mark.parametrize(("state", "walked"), [pytest.param(*row[1:], id=row[0]) for row in STATES])
@pytest.mark.parametrize("is_upload", [False, True])
def test_what_has_room_is_promised_without_a_walk(
    make: Callable[..., Store], walks: list[bool], state: Callable[[Store], object], walked: int, is_upload: bool
) -> None:
    store = make()
    for number in range(100, 300):
        store.note(number, 0, is_upload=True)
        store.note(number, 1)
    store.sum.recount((), time.monotonic() + 5)
    state(store)
    walks.clear()
    store.promise(1, MIB, is_upload)
    under_lock = store.layout.promised.is_dir()  # where nothing can be kept, each one has to see for himself
    assert walks == ([True] if under_lock else [False] * walked)


FULL = [
    pytest.param(0.0001, 1, 0, True, id="what costs nothing is counted, and there is room after all"),
    pytest.param(0.0001, 1, 2, False, id="what costs nothing is counted once, then it is refused"),
    pytest.param(DEAR, 1, 0, True, id="what is dear is counted only for who would be refused"),
    pytest.param(DEAR, 1, 2, False, id="and once for him"),
    pytest.param(3.0, 0, 0, False, id="unless it was counted just now"),
]


@pytest.mark.parametrize(("cost", "walked", "truly", "fits"), FULL)
def test_nobody_is_refused_by_a_sum_that_is_too_high(
    make: Callable[..., Store],
    walks: list[bool],
    monkeypatch: pytest.MonkeyPatch,
    cost: float,
    walked: int,
    truly: int,
    fits: bool,
) -> None:
    """Room for 2 MiB, of which what is kept says that 2 are promised, and the notes that it is `truly`."""
    store = make()
    monkeypatch.setattr(store.space, "disk", lambda: Disk(100 * MIB, 2 * MIB, 0))
    if truly:
        store.note(7, truly * MIB)
    keep(store, age=1, cost=cost)
    store.sum.add(Promised(2 * MIB, 2 * MIB))
    walks.clear()
    if fits:
        store.promise(1, MIB, False)
    else:
        with pytest.raises(StoreFull):
            store.promise(1, MIB, False)
    assert walks == [False] * walked


def test_a_full_cache_evicts_by_what_is_kept(make: Callable[..., Store], walks: list[bool]) -> None:
    store = make(cache_size=4 * MIB)
    for number in range(1, 5):
        Path(store.layout.blob(digest(number))).write_bytes(bytes(MIB))
        store.index.note(digest(number), MIB)
    store.index.flush()
    store.index.rebuilt(store.index.identity())
    keep(store, age=1, cost=DEAR)
    walks.clear()
    store.promise(9, MIB, False)
    assert walks == []
    assert sorted(os.listdir(store.layout.blobs / "sha256")) == [digest(number).hex for number in (2, 3, 4)]


def test_what_is_promised_beside_a_count_is_in_it(make: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_sum, "_STEP", 1)
    store = make()
    for number in range(5):
        store.note(number, 4096)
    counting = store.sum.counting((), time.monotonic() + 5)
    next(counting)
    store.promise(9, MIB, False)
    assert list(counting)
    kept = store.sum.read()
    assert kept is not None
    assert 5 * 4096 + MIB <= kept.sum.owed <= 5 * 4096 + 2 * MIB


def test_a_sum_that_was_lost_during_a_count_is_not_kept(
    make: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was promised since it was lost is known to nobody who counts."""
    monkeypatch.setattr(kept_sum, "_STEP", 1)
    store = make()
    for number in range(5):
        store.note(number, 4096)
    counting = store.sum.counting((), time.monotonic() + 5)
    next(counting)
    store.layout.promised.unlink()
    other = store.sum.counting((), time.monotonic() + 5)
    next(other)
    list(counting)
    assert store.sum.read() is None
    list(other)
    kept = store.sum.read()
    assert kept is not None
    assert kept.sum.owed == 5 * 4096


def test_what_cannot_be_kept_is_forgotten(make: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    store = make()
    store.promise(1, MIB, False)

    def fail(_self: KeptSum, _kept: Kept) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(KeptSum, "_write", fail)
        store.promise(2, MIB, False)
    assert store.sum.read() is None
    assert store.space.promised() == 2 * MIB


def test_a_promise_that_fails_is_taken_back(make: Callable[..., Store]) -> None:
    store = make()
    store.promise(1, MIB, False)

    def fail() -> None:
        raise StoreFull("no")

    with pytest.raises(StoreFull):
        store.space.reserve(digest(2), MIB, fail)
    kept = store.sum.read()
    assert kept is not None
    assert kept.sum == Promised(MIB, MIB)


def test_a_line_is_read_as_it_was_written() -> None:
    kept = Kept(2**64 - 1, Promised(2**60, 5), NOTHING, 1e9 + 0.125, 0.1, 40_000)
    assert len(kept.dump()) == 256
    assert Kept.parse(kept.dump()) == kept


def test_old_notes_are_sought_outside_of_the_lock(make: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    store = make()
    for number in range(200):
        store.note(number, 4096)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 2 * 86400)
    looks: list[int] = []  # at notes, under the lock, for each time that it is taken
    remove = leftovers.Leftovers.remove_notes

    def counted(self: leftovers.Leftovers, names: list[str]) -> int:
        looks.append(len(names))
        return remove(self, names)

    monkeypatch.setattr(leftovers.Leftovers, "remove_notes", counted)
    store.space.remove_leftovers()
    assert os.listdir(store.layout.ingest) == []
    assert sum(looks) == 200
    assert max(looks) <= 64
