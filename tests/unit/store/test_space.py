"""Room is promised once, made by evicting what was used longest ago, and never at the cost of what must stay."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.config import Amount, Storage
from mirror.errors import RecordDamaged, StoreFull
from mirror.oci.digest import Digest
from mirror.store import eviction as eviction_module
from mirror.store.faults import DISK_FAULTS
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.probe import prepare
from mirror.store.promises import UNIT
from mirror.store.quarantine import Quarantine
from mirror.store.sets import Sets
from mirror.store.space import Disk, Space
from tests.tools import mounts
from tests.tools.mounts import SPAWN

MIB = 1 << 20
DAY = 86400


def digest(number: int) -> Digest:
    return Digest("sha256", f"{number:064x}")


class Store:
    """A store with its index and space, and short words for laying it out."""

    def __init__(self, root: Path, *, cache_size: int | None = None, keep_free: int = 0, **options: Any) -> None:
        self.layout = Layout(root)
        prepare(self.layout)
        (self.layout.blobs / "sha256").mkdir(exist_ok=True)
        self.index = Index(self.layout, Quarantine(self.layout))
        storage = Storage(path=root, cache_size=cache_size, keep_free=Amount(bytes=keep_free))
        self.space = Space(self.layout, self.index, storage, **options)

    def put(self, *numbers: int, size: int = 4096, known: bool = True) -> None:
        """Keep blobs and use them in this order; unknown ones have no row."""
        for number in numbers:
            Path(self.layout.blob(digest(number))).write_bytes(os.urandom(size))
            if known:
                self.index.note(digest(number), size)
        if known:
            self.index.flush()
            self.index.rebuilt(self.index.identity())

    def here(self) -> list[int]:
        return sorted(int(name, 16) for name in os.listdir(self.layout.blobs / "sha256"))

    def note_part(self, number: int, size: int | None, written: int = 0) -> None:
        Path(self.layout.part(digest(number))).write_bytes(bytes(written))
        Path(self.layout.part_note(digest(number))).write_text(json.dumps({"size": size}))

    def reserve(self, number: int, size: int | None, **options: Any) -> None:
        self.space.reserve(digest(number), size, lambda: self.note_part(number, size), **options)

    def promises(self) -> list[str]:
        return sorted(name for name in os.listdir(self.layout.ingest) if name.endswith(".json"))


Make = Callable[..., Store]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Store] = []

    def make_store(**options: Any) -> Store:
        made.append(Store(tmp_path / "store", **options))
        return made[-1]

    yield make_store
    for store in made:
        store.index.close()


@pytest.fixture
def two_days_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ctime cannot be set, so it is the clock that moves."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 2 * DAY)


def test_what_fits_is_promised_and_nothing_is_evicted(make: Make) -> None:
    store = make()
    store.put(1, 2)
    store.reserve(9, 10 * MIB)
    assert store.here() == [1, 2]
    assert store.space.promised() == 10 * MIB
    assert store.space.eviction.blobs == 0


def test_promise_shrinks_as_the_part_grows(make: Make) -> None:
    store = make()
    store.reserve(1, 10 * MIB)
    part = Path(store.layout.part(digest(1)))
    part.write_bytes(os.urandom(4 * MIB))
    assert 6 * MIB - 64 * 1024 <= store.space.promised() <= 6 * MIB
    part.write_bytes(os.urandom(10 * MIB))
    assert store.space.promised() == 0


def test_unknown_totals_promise_a_unit_at_a_time(make: Make) -> None:
    store = make()
    store.reserve(1, None)
    assert store.space.promised() == UNIT
    Path(store.layout.part(digest(1))).write_bytes(os.urandom(MIB))
    assert UNIT - MIB - 64 * 1024 <= store.space.promised() <= UNIT - MIB


def test_unreadable_notes_count_as_unknown_and_foreign_files_as_nothing(make: Make) -> None:
    store = make()
    store.note_part(1, 5 * MIB)
    for number, text in ((2, "{"), (3, '{"size": -5}'), (4, '{"size": true}'), (5, "[]"), (6, "[" * 5000)):
        Path(store.layout.part(digest(number))).touch()
        Path(store.layout.part_note(digest(number))).write_text(text)
    (store.layout.ingest / "sha256-abc.part.1234.bad").write_bytes(bytes(MIB))
    (store.layout.ingest / "sha256-abc.part").write_bytes(bytes(MIB))
    assert store.space.promised() == 5 * MIB + 5 * UNIT


def test_a_note_that_outlived_its_commit_promises_nothing(make: Make) -> None:
    store = make()
    store.note_part(1, 5 * MIB)
    Path(store.layout.part(digest(1))).unlink()
    assert store.space.promised() == 5 * MIB, "its file is about to be made"
    store.put(1)
    assert store.space.promised() == 0


def test_uploads_count(make: Make) -> None:
    store = make()
    (store.layout.uploads / "0123.json").write_text('{"size": 8192}')
    (store.layout.uploads / "0123.part").touch()
    assert store.space.promised() == 8192


def test_least_recently_used_goes_first_and_no_more_than_needed(make: Make) -> None:
    store = make(cache_size=10 * MIB)
    store.put(*range(10), size=MIB)
    store.index.note(digest(0), MIB)  # used again, not written yet
    store.reserve(100, 3 * MIB)
    assert store.here() == [0, 4, 5, 6, 7, 8, 9]
    assert store.index.count() == 7
    assert (store.space.eviction.blobs, store.space.eviction.bytes) == (3, 3 * MIB)


def test_cache_size_counts_downloads_under_way(make: Make) -> None:
    store = make(cache_size=10 * MIB)
    store.put(1, 2, 3, size=MIB)
    store.reserve(100, 7 * MIB)
    assert store.here() == [1, 2, 3]
    store.reserve(101, MIB)
    assert store.here() == [2, 3]
    Path(store.layout.part(digest(100))).write_bytes(os.urandom(7 * MIB))
    store.reserve(102, MIB)
    assert store.here() == [3], "written or not, a download counts once"


def test_reserving_again_counts_the_own_promise_once(make: Make) -> None:
    store = make(cache_size=10 * MIB)
    store.put(1, size=MIB)
    for _ in range(3):
        store.reserve(100, 9 * MIB)
    assert store.here() == [1]


def test_what_can_never_fit_evicts_nothing(make: Make) -> None:
    store = make(cache_size=4 * MIB)
    store.put(1, 2, 3, size=MIB)
    with pytest.raises(StoreFull) as caught:
        store.reserve(100, 5 * MIB)
    assert store.here() == [1, 2, 3]
    assert store.promises() == []
    assert "5.0 MiB" in caught.value.what
    assert "4.0 MiB" in caught.value.what
    assert "cache_size" in caught.value.remedy


def test_more_than_the_disk_evicts_nothing(make: Make) -> None:
    store = make()
    store.put(1, 2, 3)
    with pytest.raises(StoreFull, match="can be evicted"):
        store.reserve(100, store.space.disk().total * 2)
    assert store.here() == [1, 2, 3]


def test_what_does_not_say_its_size_says_how_room_is_taken(make: Make) -> None:
    store = make(keep_free=make().space.disk().total)
    with pytest.raises(StoreFull, match=r"no room for 64.0 MiB of a push to team/app \(.* 64.0 MiB at a time\): "):
        store.space.reserve_upload("0" * 36, "team/app", None)
    with pytest.raises(StoreFull) as caught:
        store.space.reserve_upload("0" * 36, "team/app", 4096)
    assert "at a time" not in str(caught.value)


def test_kept_free_space_is_not_given_away(make: Make, tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    store = make(keep_free=found.f_blocks * found.f_frsize)
    with pytest.raises(StoreFull, match="kept free"):
        store.reserve(100, 4096)


def test_offline_nothing_is_evicted(make: Make) -> None:
    store = make(cache_size=3 * MIB, offline=True)
    store.put(1, 2, 3, size=MIB)
    with pytest.raises(StoreFull, match="offline") as caught:
        store.reserve(100, MIB)
    assert "unpin --now" in caught.value.remedy
    assert store.space.trim() == 0
    assert store.here() == [1, 2, 3]


def test_pinned_and_growing_content_stays(make: Make) -> None:
    store = make(cache_size=3 * MIB)
    pin(store, "prod", 1, {1: MIB})
    store.put(1, 2, 3, 4, size=MIB)
    Path(store.layout.part(digest(2))).touch()
    store.reserve(100, MIB)
    assert store.here() == [1, 2, 4]


def pin(store: Store, name: str, number: int, sizes: dict[int, int]) -> None:
    blobs = [{"digest": str(digest(one)), "size": size} for one, size in sizes.items()]
    Sets(store.layout).write(name, number, json.dumps({"manifests": [], "blobs": blobs}).encode())


def test_cache_size_bounds_nothing_that_is_pinned(make: Make) -> None:
    store = make(cache_size=2 * MIB)
    store.put(1, 2, size=MIB)
    pin(store, "prod", 1, dict.fromkeys(range(100, 110), MIB))
    for number in range(100, 110):
        store.reserve(number, MIB)
        store.put(number, size=MIB)
        Path(store.layout.part_note(digest(number))).unlink()
        Path(store.layout.part(digest(number))).unlink(missing_ok=True)
    assert store.here() == [1, 2, *range(100, 110)]
    store.reserve(3, MIB)
    assert store.here() == [2, *range(100, 110)]


def test_what_is_pinned_while_room_is_being_made_stays(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make()
    store.put(1, 2, size=MIB)
    lexists = os.path.lexists

    def pin_meanwhile(path: Any) -> bool:
        if path == store.layout.part(digest(1)):
            pin(store, "prod", 1, {1: MIB})
        return lexists(path)

    monkeypatch.setattr(os.path, "lexists", pin_meanwhile)
    store.space.eviction.free(2 * MIB)
    assert store.here() == [1]


def test_a_generation_given_up_is_cache_again(make: Make) -> None:
    store = make()
    store.put(1, 2, size=MIB)
    pin(store, "prod", 1, {1: MIB})
    pin(store, "prod", 2, {1: MIB, 2: MIB})
    store.space.eviction.free(10 * MIB)
    assert store.here() == [1, 2]
    assert Sets(store.layout).remove("prod", 2)
    store.space.eviction.free(10 * MIB)
    assert store.here() == [1]
    assert Sets(store.layout).remove("prod", 1)
    assert Sets(store.layout).names() == []
    store.space.eviction.free(10 * MIB)
    assert store.here() == []


def test_a_damaged_plan_stops_eviction_rather_than_losing_its_set(make: Make) -> None:
    store = make()
    store.put(1, size=MIB)
    Sets(store.layout).write("prod", 1, b"{")
    assert store.space.eviction.free(MIB) == 0
    assert store.here() == [1]
    [told] = DISK_FAULTS.told()
    assert (told["operation"], told["path"]) == ("parse", Sets(store.layout).path("prod", 1))


def test_where_there_is_room_nobody_has_to_know_what_is_pinned(make: Make) -> None:
    store = make()
    Sets(store.layout).write("prod", 1, b"{")
    store.reserve(1, MIB)
    store.space.reserve_upload("0" * 8, "apps/web", MIB)
    bounded = make(cache_size=100 * MIB)
    bounded.space.reserve_upload("1" * 8, "apps/web", MIB)
    with pytest.raises(RecordDamaged):
        bounded.reserve(2, MIB)


@pytest.mark.parametrize("lost", ["the plan", "the set", "while it runs"])
def test_a_complete_generation_without_its_plan_stops_eviction(make: Make, lost: str) -> None:
    """Whoever takes a folder of sets/ away, or mounts it too late, loses nothing of what it needs."""
    store = make()
    store.put(1, 2, size=MIB)
    pin(store, "prod", 1, {1: MIB})
    sets = Sets(store.layout)
    sets.complete("prod", 1, digest(9), "loaded")
    if lost == "while it runs":
        assert str(digest(1)) in store.space.eviction._pins.digests()
    folder, away = store.layout.set("prod"), store.layout.root.parent / "away"
    plan = Path(sets.path("prod", 1))
    content = plan.read_bytes()
    if lost == "the plan":
        plan.unlink()
    else:
        folder.rename(away)
    assert store.space.eviction.free(2 * MIB) == 0
    assert store.here() == [1, 2]
    [told] = DISK_FAULTS.told()
    assert (told["operation"], told["path"]) == ("parse", str(plan))
    if lost == "the plan":
        plan.write_bytes(content)
    else:
        away.rename(folder)
    DISK_FAULTS.retry()
    assert not DISK_FAULTS
    assert store.space.eviction.free(2 * MIB)
    assert store.here() == [1]
    plan.unlink()
    sets.remove("prod", 1)  # nobody is asked for a plan to do without it
    assert store.space.eviction.free(2 * MIB)
    assert store.here() == []


def test_a_row_without_a_file_is_forgotten_and_counts_nothing(make: Make) -> None:
    store = make(cache_size=4 * MIB)
    store.put(1, 2, 3, 4, size=MIB)
    os.unlink(store.layout.blob(digest(1)))
    store.reserve(100, MIB)
    assert store.here() == [3, 4]
    assert store.index.count() == 2


def test_an_evicted_file_is_read_to_its_end_by_who_has_it_open(make: Make) -> None:
    store = make(cache_size=MIB)
    store.put(1, size=MIB)
    with open(store.layout.blob(digest(1)), "rb") as reader:
        store.reserve(100, MIB)
        assert store.here() == []
        assert len(reader.read()) == MIB


def test_what_cannot_be_removed_is_passed_over_and_then_left_alone(make: Make, monkeypatch) -> None:
    store = make(cache_size=40 * 4096)
    store.put(*range(40))
    unlink, tried = os.unlink, []

    def refuse(path, **options):
        tried.append(path)
        if path == store.layout.blob(digest(0)):
            raise PermissionError(errno.EPERM, "immutable", path)
        unlink(path, **options)

    monkeypatch.setattr(eviction_module.os, "unlink", refuse)
    store.reserve(100, 4096)
    assert store.here() == [0, *range(2, 40)]
    monkeypatch.setattr(
        eviction_module.os, "unlink", lambda path: tried.append(path) or exec("raise OSError(30, 'read-only')")
    )
    tried.clear()
    assert store.space.eviction.free(40 * 4096) == 0
    assert len(tried) == 16


@pytest.mark.parametrize("state", ["new", "away"])
def test_without_an_index_the_files_themselves_say_what_is_old(make: Make, monkeypatch, state: str) -> None:
    store = make(cache_size=6 * MIB)
    store.put(*range(6), size=MIB, known=False)
    for number in range(6):
        os.utime(store.layout.blob(digest(number)), (0, 1_000_000_000 + MIB))
    # The kernel keeps ctime to a tick: enough between any two to tell which was touched last.
    for number in (3, 0, 1, 2, 4, 5):
        time.sleep(0.012)
        os.chmod(store.layout.blob(digest(number)), 0o440)
    if state == "away":
        store.index.close()
    store.reserve(100, 2 * MIB)
    assert store.here() == [1, 2, 4, 5]
    store.index.note(digest(1), MIB)  # used by this process just now, and not written yet
    if state == "away":
        store.reserve(101, MIB)
        assert store.here() == [1, 4, 5]


def test_files_used_just_now_go_when_nothing_else_does(make: Make) -> None:
    store = make(cache_size=2 * MIB)
    store.put(1, 2, size=MIB, known=False)
    store.index.close()
    store.index.note(digest(1), MIB)
    store.reserve(100, 2 * MIB)
    assert store.here() == []


def test_a_commit_that_meets_a_full_disk_is_a_full_store(make: Make) -> None:
    store = make()

    def no_space() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreFull, match="No space"):
        store.space.reserve(digest(1), 10, no_space)

    def broken() -> None:
        raise OSError(errno.EIO, "I/O error")

    with pytest.raises(OSError, match="I/O error"):
        store.space.reserve(digest(1), 10, broken)
    store.reserve(1, 10)  # the lock is free again


def test_waiting_for_the_lock_is_bounded(make: Make) -> None:
    store = make()
    with FileLock(store.layout.lock("space")):
        began = time.monotonic()
        with pytest.raises(StoreFull, match="in time"):
            store.reserve(1, 10, timeout=0.1)
        assert time.monotonic() - began < 5


def test_trim_brings_content_down_to_cache_size(make: Make) -> None:
    store = make(cache_size=3 * MIB)
    store.put(*range(5), size=MIB)
    assert store.space.trim() == 2 * MIB
    assert store.here() == [2, 3, 4]
    assert store.space.trim() == 0


def test_leftovers_go_after_a_day_unless_somebody_holds_them(make: Make, two_days_on: None) -> None:
    store = make()
    for number in (1, 2):
        store.note_part(number, MIB, written=8192)
    store.note_part(3, MIB)
    Path(store.layout.part(digest(3))).unlink()
    for name in ("sha256-aa.1234.tmp", "sha256-aa.part.12.bad", "sha256-aa.json.1-ff~", "unknown", "sha256-aa.part"):
        (store.layout.ingest / name).write_bytes(bytes(8192))
    with Path(store.layout.part(digest(2))).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert store.space.remove_leftovers() == 4 * 8192
    names = set(os.listdir(store.layout.ingest))
    kept = {
        Path(store.layout.part(digest(2))).name,
        Path(store.layout.part_note(digest(2))).name,
        "unknown",
        "sha256-aa.part",
    }
    assert names == kept


def test_leftovers_of_today_stay(make: Make) -> None:
    store = make()
    store.note_part(1, MIB, written=8192)
    sealed = store.layout.ingest / "sha256-aa.1234.tmp"
    sealed.write_bytes(b"about to be renamed")
    os.utime(sealed, (1_000_000_019,) * 2)
    assert store.space.remove_leftovers() == 0
    assert len(os.listdir(store.layout.ingest)) == 3


def test_abandoned_downloads_go_before_content(make: Make, two_days_on: None) -> None:
    store = make(cache_size=4 * MIB)
    store.put(1, size=MIB)
    store.note_part(50, 3 * MIB, written=2 * MIB)
    store.reserve(100, MIB)
    assert store.here() == [1]
    assert store.promises() == [Path(store.layout.part_note(digest(100))).name]


# On disks of their own


def evict_for_real(root: Path) -> None:
    store = Store(root, keep_free=4 * MIB)
    store.put(*range(40), size=MIB)
    assert store.space.disk().free < 24 * MIB
    store.reserve(100, 30 * MIB)
    gone = 40 - len(store.here())
    disk = store.space.disk()
    assert disk.free - store.space.promised() >= 4 * MIB
    assert disk.free - store.space.promised() < 5 * MIB + 128 * 1024, "no more was evicted than needed"
    assert store.here() == list(range(gone, 40))
    with pytest.raises(StoreFull):
        store.reserve(101, 40 * MIB)
    assert store.here() == list(range(gone, 40))
    store.index.close()


def test_evicts_by_what_the_disk_really_has(tmp_path: Path) -> None:
    mounts.on_small_disk(evict_for_real, tmp_path, "64m")


def trim_for_real(root: Path) -> None:
    store = Store(root, keep_free=4 * MIB)
    store.put(*range(59), size=MIB)
    before = store.space.disk()
    assert before.free < 5 * MIB
    store.space.trim()
    after = store.space.disk()
    assert after.free >= 4 * MIB + before.total // 100
    assert len(store.here()) >= 57
    assert store.space.trim() == 0
    store.index.close()


def test_trim_keeps_a_little_more_free_than_it_must(tmp_path: Path) -> None:
    mounts.on_small_disk(trim_for_real, tmp_path, "64m")


def run_out_of_inodes(root: Path) -> None:
    store = Store(root)
    fixed = 2000 - os.statvfs(root).f_favail
    store.put(*range(2000 - fixed - 10), size=1)
    count = len(store.here())
    spare = root / "run" / "spare"
    spare.mkdir()
    for number in range(os.statvfs(root).f_favail):
        (spare / str(number)).touch()
    assert store.space.disk().inodes_lacking > 0
    assert store.space.disk().free > 10 * MIB
    store.space.reserve(digest(5000), 100)
    assert store.space.disk().inodes_lacking == 0
    assert 0 < count - len(store.here()) <= 4
    assert 0 not in store.here()
    store.reserve(5001, 100)
    store.index.close()


def test_out_of_inodes_is_full(tmp_path: Path) -> None:
    mounts.on_small_disk(run_out_of_inodes, tmp_path, "64m", inodes=2000)


def reserve_many(root: str, process: int, start: Any, results: Any) -> None:
    store = Store(Path(root), keep_free=2 * MIB)
    start.wait(20)
    made = []
    for number in range(process * 100, process * 100 + 12):
        try:
            store.reserve(number, 3 * MIB, timeout=30)
        except StoreFull:
            continue
        made.append(number)
    results.put(made)
    store.index.close()


def promise_from_two_processes(root: Path) -> None:
    store = Store(root, keep_free=2 * MIB)
    store.put(*range(1000, 1030), size=MIB)
    store.index.close()
    start, results = SPAWN.Event(), SPAWN.Queue()
    processes = [SPAWN.Process(target=reserve_many, args=(str(root), number, start, results)) for number in range(2)]
    for process in processes:
        process.start()
    start.set()
    made = [number for _ in processes for number in results.get(timeout=60)]
    for process in processes:
        process.join(20)
    store = Store(root, keep_free=2 * MIB)
    disk = store.space.disk()
    assert store.space.promised() == 3 * MIB * len(made)
    assert len(store.promises()) == len(made)
    assert disk.free - store.space.promised() >= 2 * MIB, "more was promised than there is"
    assert len(store.here()) <= 2, "content makes room for as long as it is enough"
    assert len(made) >= 18
    # And it is true: all of it can be written.
    for number in made:
        with Path(store.layout.part(digest(number))).open("r+b") as part:
            part.write(os.urandom(3 * MIB))
    store.index.close()


def test_two_processes_never_promise_the_same_room(tmp_path: Path) -> None:
    mounts.on_small_disk(promise_from_two_processes, tmp_path, "64m")


def survive_read_only(root: Path) -> None:
    store = Store(root, cache_size=MIB)
    with pytest.raises(StoreFull, match="cannot be written"):
        store.reserve(100, 10)
    assert store.space.eviction.free(MIB) == 0
    store.index.close()


def test_a_read_only_store_is_full_and_nothing_worse(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(1)
    store.index.close()
    mounts.read_only(survive_read_only, tmp_path)
    assert (tmp_path / "blobs" / "sha256" / digest(1).hex).exists()


# -- when evicting does not help -------------------------------------------------------------------------------------


def test_eviction_that_gives_no_room_stops_after_a_trial(make: Make) -> None:
    """Snapshots keep what is deleted, or somebody else takes it: the cache must not go for nothing."""
    store = make()
    store.put(*range(200))
    still = eviction_module.Room(1000, 1000)
    assert store.space.eviction.free(1 << 40, room=lambda: still)
    assert store.space.eviction.in_vain
    assert len(store.here()) == 200 - eviction_module._TRIAL_FILES


def test_eviction_that_gives_room_goes_on(make: Make) -> None:
    store = make()
    store.put(*range(200))
    rooms = iter(range(0, 1 << 40, 1 << 20))
    store.space.eviction.free(1 << 40, room=lambda: eviction_module.Room(next(rooms), 10 * next(rooms)))
    assert not store.space.eviction.in_vain
    assert store.here() == []


def test_a_small_eviction_needs_no_trial(make: Make) -> None:
    store = make()
    store.put(1, 2, 3)
    assert store.space.eviction.free(5000, room=lambda: eviction_module.Room(0, 0))
    assert not store.space.eviction.in_vain
    assert store.here() == [3]


class Others:
    """A disk of a gibibyte on which others take what the store leaves, as fast as it does."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.others = 0
        monkeypatch.setattr(Space, "disk", lambda _space: self.disk())

    def disk(self) -> Disk:
        own = sum(os.stat(self.store.layout.blob(digest(number))).st_size for number in self.store.here())
        return Disk(1 << 30, max(0, (1 << 30) - own - self.others), 0, 0, 0)

    def take_all(self) -> None:
        self.others += self.disk().free


def test_what_others_take_again_and_again_does_not_cost_the_whole_cache(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(keep_free=20 * MIB)
    store.put(*range(100), size=MIB)
    others = Others(store, monkeypatch)
    for _ in range(20):
        others.take_all()
        store.space.trim()
    assert store.space.in_vain
    assert 30 <= len(store.here()) <= 80, "what is kept free for others was given to them, and not much more"
    assert store.space.forecast().evictable == 0
    with pytest.raises(StoreFull, match="nothing is evicted for a while"):
        store.reserve(999, 10 * MIB)
    # Another process of the store knows, too; and it is tried again after a while.
    assert Space(store.layout, store.index, Storage(path=store.layout.root)).in_vain
    old = time.time() - 3600
    os.utime(store.layout.run / "eviction_in_vain", (old, old))
    assert not store.space.in_vain


def test_what_is_taken_once_is_made_room_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(keep_free=20 * MIB)
    store.put(*range(100), size=MIB)
    others = Others(store, monkeypatch)
    others.take_all()
    store.space.trim()
    assert others.disk().free >= 20 * MIB
    store.space.trim()
    assert not store.space.in_vain


def test_what_must_stay_and_cannot_be_read_stops_eviction(make: Make) -> None:
    store = make()
    store.put(1, 2, 3)
    Sets(store.layout).write("prod", 1, b'{"manifests": [], "blobs": []}')
    plan = store.layout.generation("prod", 1)
    plan.unlink()
    plan.symlink_to("/nowhere")
    assert store.space.eviction.free(1 << 40) == 0
    assert store.here() == [1, 2, 3]
    assert plan.is_symlink()
