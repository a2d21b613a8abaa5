"""The index keeps sizes and the order of use, for several processes, and survives whatever happens to its file."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import diskcache
import pytest

from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.store import index as index_module
from mirror.store.index import FORMAT, Index
from mirror.store.layout import Layout
from mirror.store.quarantine import Quarantine
from tests.tools import mounts
from tests.tools.mounts import SPAWN


def digest(number: int) -> Digest:
    return Digest("sha256", f"{number:064x}")


def open_index(root: Path, **options) -> Index:
    layout = Layout(root)
    return Index(layout, Quarantine(layout), **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    layout = Layout(tmp_path / "store")
    for folder in (layout.locks, layout.quarantine):
        folder.mkdir(parents=True, mode=0o700)
    return layout.root


@pytest.fixture
def index(root: Path) -> Iterator[Index]:
    opened = open_index(root)
    yield opened
    opened.close()


def database(root: Path) -> Path:
    return root / "index" / "cache.db"


def numbers(index: Index, limit: int = 1000) -> list[int]:
    return [int(entry.digest.hex, 16) for entry in index.oldest(limit)]


def use(index: Index, *used: int, size: int = 10) -> None:
    for number in used:
        index.note(digest(number), size)
    index.flush()


def test_order_is_that_of_use_whatever_the_batches(index: Index) -> None:
    use(index, 1, 2, 3, 4)
    use(index, 2)
    for number in (5, 1, 5):
        index.note(digest(number), 10)
    assert index.noted() == [digest(1), digest(5)]
    assert index.flush() == 2
    assert numbers(index) == [3, 4, 2, 1, 5]
    assert index.noted() == []


def test_sums_follow_every_change(index: Index) -> None:
    use(index, *range(10), size=7)
    assert (index.count(), index.total()) == (10, 70)
    use(index, 3, size=1000)
    assert (index.count(), index.total()) == (10, 1063)
    index.forget([digest(3), digest(4), digest(99)])
    assert (index.count(), index.total()) == (8, 56)
    assert index.forget([]) is None


def test_forgetting_drops_what_is_only_noted(index: Index) -> None:
    index.note(digest(1), 5)
    index.forget([digest(1)])
    assert index.flush() == 0
    assert index.count() == 0


def test_pages_go_through_all_rows_once(index: Index) -> None:
    use(index, *range(25))
    seen, last = [], None
    while page := index.oldest(10, last):
        seen += [int(entry.digest.hex, 16) for entry in page]
        last = page[-1]
    assert seen == list(range(25))


def test_order_survives_a_clock_that_jumps(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for number, offset in enumerate((0, 86400 * 365, -86400 * 3650, -now, 5)):
        monkeypatch.setattr(time, "time", lambda offset=offset: now + offset)
        use(index, number)
    monkeypatch.undo()
    use(index, 5, 6)
    assert numbers(index) == [0, 1, 2, 3, 4, 5, 6]
    used = [entry.used for entry in index.oldest(10)]
    assert all(earlier < later for earlier, later in pairwise(used))


def test_adopted_files_keep_their_time_and_disturb_no_row(index: Index) -> None:
    use(index, 1)
    before = index.oldest(1)
    now = time.time()
    found = [(digest(1), 10, 5.0), (digest(2), 20, now + 1e9), (digest(3), 30, now - 50), (digest(4), 40, -1.0)]
    assert index.adopt(found) == 3
    assert index.adopt(found) == 0
    assert before == [entry for entry in index.oldest(9) if entry.digest == digest(1)]
    use(index, 1)
    assert numbers(index) == [4, 3, 2, 1], "a file dated ahead of the clock is not newer than a use"


def test_a_new_index_asks_for_a_rebuild_until_it_is_complete(root: Path) -> None:
    first = open_index(root)
    assert first.needs_rebuild()
    first.close()
    second = open_index(root)
    assert second.needs_rebuild(), "a rebuild that did not end is begun again"
    second.rebuilt(second.identity())
    third = open_index(root)
    assert not third.needs_rebuild()
    assert not second.needs_rebuild()
    second.close()
    third.close()


def test_a_rebuild_that_began_on_another_database_does_not_complete_this_one(index: Index, root: Path) -> None:
    began = index.identity()
    index.adopt([(digest(1), 10, 5.0)])
    (root / "index").rename(root / "gone")
    index.adopt([(digest(2), 10, 5.0)])
    with pytest.raises(StoreError, match="replaced"):
        index.rebuilt(began)
    assert index.needs_rebuild()
    index.rebuilt(index.identity())
    assert not index.needs_rebuild()


def test_folder_is_the_owners_alone_and_holds_the_database_only(index: Index, root: Path) -> None:
    (root / "index").mkdir(mode=0o755)
    use(index, *range(600))
    index.forget([digest(3)])
    assert (root / "index").stat().st_mode & 0o777 == 0o700
    assert {path.name for path in (root / "index").iterdir()} == {"cache.db", "cache.db-wal", "cache.db-shm"}


def test_settings_never_cull_and_keep_no_value(index: Index, root: Path) -> None:
    use(index, *range(3000), size=10**12)
    assert index.count() == 3000
    with sqlite3.connect(database(root)) as raw:
        settings = dict(raw.execute("SELECT key, value FROM Settings"))
        rows = raw.execute("SELECT DISTINCT mode, filename, value, raw, expire_time FROM Cache").fetchall()
        plan = " ".join(
            str(row) for row in raw.execute("EXPLAIN QUERY PLAN SELECT * FROM Cache ORDER BY store_time, rowid LIMIT 1")
        )
    raw.close()
    assert settings["cull_limit"] == 0
    assert rows == [(1, None, None, 1, None)]
    assert "Cache_store_time" in plan
    assert "TEMP B-TREE" not in plan


def test_the_pinned_diskcache_still_has_what_is_overridden() -> None:
    # set() and add() store rows through these two; a release that does not would silently use the clock.
    assert callable(diskcache.Cache._row_insert)
    assert callable(diskcache.Cache._row_update)


class Planted:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


@pytest.mark.parametrize("place", ["key", "value"])
@pytest.mark.parametrize("call", ["oldest", "flush", "forget"])
def test_a_planted_pickle_is_never_executed(root: Path, tmp_path: Path, place: str, call: str) -> None:
    index = open_index(root)
    use(index, 1)
    evil = sqlite3.Binary(pickle.dumps(Planted(tmp_path / "executed")))
    with sqlite3.connect(database(root)) as raw:
        if place == "key":
            raw.execute("UPDATE Cache SET key = ?, raw = 0, store_time = 0.5", (evil,))
        else:
            raw.execute("UPDATE Cache SET value = ?, mode = 4, filename = '../../victim', store_time = 0.5", (evil,))
    raw.close()
    victim = tmp_path / "victim"
    victim.write_text("stays")
    index.note(digest(1), 20)
    calls = {"oldest": lambda: index.oldest(10), "flush": index.flush, "forget": lambda: index.forget([digest(1)])}
    try:
        if place == "key" and call != "oldest":
            calls[call]()  # never meets the row
        else:
            with pytest.raises(StoreError, match="cannot be used"):
                calls[call]()
            assert index.needs_rebuild(), "what was planted is put aside and the index made anew"
            assert index.count() == 0
            assert Quarantine(Layout(root)).held()[0] == 1
    finally:
        index.close()
    assert not (tmp_path / "executed").exists()
    assert victim.read_text() == "stays"
    pickle.loads(evil)
    assert (tmp_path / "executed").exists(), "what was planted would have worked"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE Cache SET size = 'many'",
        "UPDATE Cache SET size = -5",
        "UPDATE Cache SET key = 'sha256:../../etc'",
        "UPDATE Cache SET store_time = 'now'",
        "UPDATE Cache SET filename = 'aa/bb/cc.val'",
    ],
)
def test_a_row_of_another_kind_costs_the_index_only(root: Path, statement: str) -> None:
    index = open_index(root)
    use(index, 1)
    with sqlite3.connect(database(root)) as raw:
        raw.execute(statement)
    raw.close()
    with pytest.raises(StoreError):
        index.oldest(10)
    use(index, 2)
    assert numbers(index) == [2]
    assert index.needs_rebuild()
    index.close()


def damage_header(path: Path) -> None:
    path.write_bytes(b"this is no database, it is a header of garbage" * 100)


def damage_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


def damage_truncate(path: Path) -> None:
    os.truncate(path, 5000)


def damage_newer(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version = {FORMAT + 1}")
    raw.close()


def damage_folder(path: Path) -> None:
    path.unlink()
    (path / "child").mkdir(parents=True)


def damage_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere/at/all")


def damage_schema(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TABLE Cache")
        raw.execute("CREATE TABLE Cache (something TEXT)")
    raw.close()


def damage_setting(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("INSERT INTO Settings VALUES ('disk_surprise', 1)")
    raw.close()


@pytest.mark.parametrize(
    "damage",
    [
        damage_header,
        damage_middle,
        damage_truncate,
        damage_newer,
        damage_folder,
        damage_link,
        damage_schema,
        damage_setting,
    ],
)
def test_a_damaged_database_is_put_aside_and_made_anew(root: Path, damage) -> None:
    first = open_index(root)
    use(first, *range(200))
    first.rebuilt(first.identity())
    first.close()
    damage(database(root))
    index = open_index(root)
    try:
        for _ in range(3):  # some damage shows only when the page is read
            try:
                use(index, 500)
                index.oldest(1000)
                index.count()
            except StoreError:
                continue
        assert index.needs_rebuild()
        assert numbers(index) == [500]
    finally:
        index.close()
    held = [path.name for path in (root / "quarantine").iterdir()]
    assert len(held) == 2, held
    assert (root / "index").is_dir()


def test_another_process_replacing_it_is_noticed(root: Path) -> None:
    index = open_index(root)
    use(index, 1, 2, 3)
    shutil.rmtree(root / "index")
    other = open_index(root)
    use(other, 7)
    use(index, 8)
    assert numbers(index) == [7, 8] == numbers(other)
    index.close()
    other.close()


def test_deleting_it_under_a_running_process_is_harmless(index: Index, root: Path) -> None:
    use(index, 1, 2, 3)
    shutil.rmtree(root / "index")
    use(index, 4)
    assert numbers(index) == [4]
    assert index.needs_rebuild()


def test_a_locked_database_is_told_from_a_broken_one(root: Path) -> None:
    index = open_index(root, deadline=0.8)
    use(index, 1)
    holder = sqlite3.connect(database(root), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    index.note(digest(2), 10)
    with pytest.raises(StoreError, match="busy"):
        index.flush()
    assert index.noted() == [digest(2)], "what could not be written is kept"
    assert numbers(index) == [1], "reading goes on"
    holder.execute("ROLLBACK")
    holder.close()
    assert index.flush() == 1
    assert numbers(index) == [1, 2]
    assert Quarantine(Layout(root)).held() == (0, 0)
    index.close()


def passing(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("injected")
    error.sqlite_errorcode = code
    return error


def test_what_was_noted_meanwhile_stays_newer_than_what_is_put_back(index: Index, root: Path, monkeypatch) -> None:
    use(index, 9)

    def fail(self, batch):
        index.note(digest(1), 10)
        index.note(digest(4), 10)
        raise passing(sqlite3.SQLITE_FULL)

    for number in (1, 2, 3):
        index.note(digest(number), 10)
    with monkeypatch.context() as patch:
        patch.setattr(index_module._Database, "use", fail)
        with pytest.raises(StoreError):
            index.flush()
    assert index.noted() == [digest(2), digest(3), digest(1), digest(4)]


def test_notes_are_bounded_and_lose_the_least_recent(root: Path) -> None:
    index = open_index(root, capacity=3)
    for number in (1, 2, 3, 1, 4):
        index.note(digest(number), 1)
    assert index.noted() == [digest(3), digest(1), digest(4)]
    index.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY])
@pytest.mark.parametrize("where", ["BEGIN", "statement"])
def test_a_fault_that_may_pass_keeps_database_and_notes(root: Path, monkeypatch, code: int, where: str) -> None:
    index = open_index(root)
    use(index, 1)

    def fail(self, batch):
        if where == "statement":
            raise passing(code)
        try:
            raise passing(code)
        except sqlite3.OperationalError:
            raise diskcache.Timeout from None  # what diskcache makes of it

    monkeypatch.setattr(index_module, "_RETRY_AFTER", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(index_module._Database, "use", fail)
        index.note(digest(2), 10)
        with pytest.raises(StoreError):
            index.flush()
    assert index.flush() == 1
    assert numbers(index) == [1, 2]
    assert Quarantine(Layout(root)).held() == (0, 0)
    index.close()


def test_a_call_that_hangs_costs_its_callers_the_deadline_once(root: Path, monkeypatch) -> None:
    index = open_index(root, deadline=0.5)
    use(index, 1)
    release = SPAWN.Event()
    monkeypatch.setattr(index_module._Database, "use", lambda self, batch: release.wait(20))
    index.note(digest(2), 10)
    with pytest.raises(StoreError, match="does not answer"):
        index.flush()
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(StoreError):
            index.total()
    assert time.monotonic() - began < 20 * 0.5, "nobody queues behind a hung call"
    release.set()
    monkeypatch.undo()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            index.flush()
            break
        except StoreError:
            time.sleep(0.01)
    assert numbers(index) == [1, 2]
    index.close()


def test_a_closed_index_says_so(root: Path) -> None:
    index = open_index(root)
    index.close()
    with pytest.raises(StoreError):
        index.total()
    index.note(digest(1), 1)
    index.close()


def test_no_folder_for_locks_means_memory_only(tmp_path: Path) -> None:
    index = open_index(tmp_path / "missing")
    index.note(digest(1), 5)
    with pytest.raises(StoreError):
        index.flush()
    assert index.noted() == [digest(1)]
    index.close()


def live_in_memory(root: Path) -> None:
    index = open_index(root)
    index.note(digest(1), 5)
    for call in (index.flush, index.total, lambda: index.oldest(5)):
        with pytest.raises(StoreError):
            call()
    assert index.noted() == [digest(1)]
    index.close()


@pytest.mark.parametrize("there", [False, True])
def test_on_a_read_only_file_system_it_lives_in_memory(root: Path, there: bool) -> None:
    if there:
        index = open_index(root)
        use(index, 1)
        index.close()
    mounts.read_only(live_in_memory, root)
    assert Quarantine(Layout(root)).held() == (0, 0)


def fill_the_disk(root: Path) -> None:
    layout = Layout(root)
    layout.locks.mkdir(parents=True)
    layout.quarantine.mkdir()
    index_module._RETRY_AFTER = 0.0
    index = open_index(root)
    use(index, *range(100))
    with (root / "filler").open("wb", buffering=0) as filler:
        with suppress(OSError):
            while True:
                filler.write(bytes(4096))
        for number in range(100, 10_000):
            index.note(digest(number), 10)
        with pytest.raises(StoreError):
            index.flush()
        assert index.noted()
        filler.truncate(0)
    index.flush()
    assert index.count() == 10_000
    assert numbers(index, 10_000) == list(range(10_000))
    assert Quarantine(layout).held() == (0, 0)
    index.close()


def test_a_full_file_system_costs_nothing_but_time(root: Path) -> None:
    mounts.on_small_disk(fill_the_disk, root, "4m")


def hammer(root: str, process: int, rounds: int, failures) -> None:
    index = open_index(Path(root), deadline=20.0)
    try:
        for step in range(rounds):
            for offset in range(20):
                index.note(digest(process * 10_000 + step * 20 + offset), 10)
            index.note(digest(1_000_000), 10)
            index.flush()
            index.oldest(5)
        index.forget([digest(process * 10_000)])
    except Exception as error:
        failures.put(repr(error))
    finally:
        index.close()


def test_four_processes_open_and_write_at_once(root: Path) -> None:
    failures = SPAWN.Queue()
    processes = [SPAWN.Process(target=hammer, args=(str(root), number, 15, failures)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert failures.empty(), failures.get()
    index = open_index(root)
    assert index.count() == 4 * (15 * 20 - 1) + 1
    assert index.total() == index.count() * 10
    used = [entry.used for entry in index.oldest(10_000)]
    assert len(set(used)) == len(used), "no two uses share a time, whichever process noted them"
    assert Quarantine(Layout(root)).held() == (0, 0)
    index.close()


def flush_for_ever(root: str, ready) -> None:
    index = open_index(Path(root))
    step = 0
    while True:
        for offset in range(400):
            index.note(digest(step * 400 + offset), 10)
        index.flush()
        step += 1
        if step == 2:
            ready.set()


def test_kill_9_during_a_flush_leaves_whole_batches(root: Path) -> None:
    for attempt in range(3):
        ready = SPAWN.Event()
        process = SPAWN.Process(target=flush_for_ever, args=(str(root), ready))
        process.start()
        assert ready.wait(30)
        time.sleep(0.013 * attempt)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
    index = open_index(root)
    assert index.count() % 400 == 0
    assert index.total() == index.count() * 10
    assert sorted(numbers(index, 1_000_000)) == list(range(index.count()))
    assert Quarantine(Layout(root)).held() == (0, 0)
    index.close()


def test_a_hundred_thousand_rows_are_read_in_a_moment(root: Path) -> None:
    index = open_index(root, deadline=30.0)
    now = time.time()
    assert index.adopt([(digest(0), 3, now)]) == 1
    index.close()
    # Rows as the index writes them, faster.
    with sqlite3.connect(database(root)) as raw:
        raw.executemany(
            "INSERT INTO Cache (key, raw, store_time, access_time, size, mode) VALUES (?, 1, ?, ?, 3, 1)",
            ((str(digest(number)), now - number, now) for number in range(1, 100_000)),
        )
    raw.close()
    index = open_index(root, deadline=30.0)
    index.total()
    began = time.process_time()
    assert len(index.oldest(100_000)) == 100_000
    everything = time.process_time() - began
    began = time.process_time()
    for _ in range(20):
        assert index.total() == 300_000
        assert len(index.oldest(64)) == 64
    assert time.process_time() - began < everything, "neither reads all rows"
    use(index, 99_999)
    assert numbers(index, 2) == [99_998, 99_997]
    index.close()


def test_descriptors_that_have_run_out_do_not_cost_the_index(root: Path, monkeypatch) -> None:
    index = open_index(root)
    use(index, 1)
    index.close()

    def exhausted(*_args, **_options):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    index = open_index(root)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", exhausted)
        with pytest.raises(StoreError):
            index.total()
    monkeypatch.setattr(index_module, "_RETRY_AFTER", 0.0)
    assert Quarantine(Layout(root)).held() == (0, 0)
    index.close()
