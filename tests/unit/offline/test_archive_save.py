"""Save: nothing bad or half leaves the store; whatever stops it, the same command goes on, here or elsewhere."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirror.errors import ConfigurationError, NotYet, StoreError, StoreFull
from mirror.oci.digest import Digest
from mirror.offline import archive
from mirror.offline.archive import Room, SaveReport, save
from mirror.offline.carrying import Carrying, Stopped
from mirror.offline.digest_lists import dump_missing, inventory, parse_digests
from mirror.offline.part_layout import SavePlan
from mirror.offline.plan import Plan
from mirror.offline.saves import Saves
from mirror.offline.target import TargetFailed
from mirror.outside import Direct
from mirror.store import ingest
from mirror.store.lock import FileLock
from mirror.store.mounts import find_mount
from tests.unit.offline.gap_bed import (
    KIB,
    PART,
    Contents,
    Site,
    edited,
    made_up,
    names,
    never_sync,
    parts_of,
    plan_save,
)

# What a save does to disks; of the writes of a part only some are waited for.
STEPS = ("fsync", "replace", "rename", "unlink", "open")


class Case:
    """A filled store, a save of it, and disks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.site = Site(root / "store")
        self.plan, self.contents = made_up(5, [300, 700_000, 90_000, 40, 200_000, 5000])
        self.site.fill(self.plan, self.contents)
        self.planned = plan_save(self.plan, 1, part_size=PART)
        self.disk = root / "disk"
        self.disk.mkdir()

    def save(self, to: Path | None = None, carrying: Carrying | None = None) -> SaveReport:
        return self.site.save(self.planned, to or self.disk, carrying)

    def blob(self, large: bool = True) -> Digest:
        return max(self.plan.content, key=lambda digest: self.plan.content[digest] * (1 if large else -1))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    never_sync(monkeypatch)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    yield case
    case.site.close()


class Disk(Direct):
    """A disk of so many bytes."""

    def __init__(self, room: int, honest: bool = True) -> None:
        self.room = room
        self.honest = honest

    def free(self, path: Path) -> int:
        used = sum(one.stat().st_size for one in path.iterdir()) if path.exists() else 0
        return max(0, self.room - used) if self.honest else 1 << 60


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts_of(folder)}


def test_a_save_says_what_it_did(case: Case) -> None:
    carrying = Carrying()
    rooms: list[Room] = []
    report = save(case.planned, case.site.store, case.site.outside, case.disk, carrying, rooms.append)
    assert len(case.planned.parts) >= 4
    assert (report.complete, report.full, report.left, report.kept) == (True, None, (), ())
    assert [one.name for one in report.written] == names(parts_of(case.disk))
    assert report.plan.line == f"set prod@1 {case.plan.digest}"
    assert (carrying.done, carrying.total) == (case.planned.size, case.planned.size)
    assert [(room.needed, room.fit, room.parts) for room in rooms] == [(case.planned.size, 5, 5)]
    assert rooms[0].free > 0
    assert sorted(os.listdir(case.disk)) == ["README.txt", "SHA256SUMS", *names(parts_of(case.disk))]
    listed = (case.disk / "SHA256SUMS").read_text()
    assert listed == "".join(f"{value}  {name}\n" for name, value in sorted(checksums(case.disk).items()))
    assert "mirror load" in (case.disk / "README.txt").read_text()


def test_the_same_save_anywhere_has_the_same_bytes(case: Case, tmp_path: Path) -> None:
    case.save()
    other = Site(tmp_path / "other")
    try:
        other.fill(case.plan, case.contents)
        other.save(plan_save(case.plan, 1, part_size=PART), tmp_path / "copy")
    finally:
        other.close()
    assert checksums(tmp_path / "copy") == checksums(case.disk)


def test_a_rerun_verifies_and_writes_nothing(case: Case) -> None:
    case.save()
    before = {path: path.stat().st_mtime_ns for path in parts_of(case.disk)}
    report = case.save()
    assert report.complete
    assert (len(report.kept), report.written) == (5, ())
    assert {path: path.stat().st_mtime_ns for path in parts_of(case.disk)} == before


def test_a_damaged_or_lost_part_is_written_again(case: Case) -> None:
    case.save()
    good = checksums(case.disk)
    first, second, *_ = parts_of(case.disk)
    edited(first, lambda raw: raw.__setitem__(len(raw) // 2, raw[len(raw) // 2] ^ 1))
    second.unlink()
    report = case.save()
    assert names(one.name and case.disk / one.name for one in report.written) == [first.name, second.name]
    assert checksums(case.disk) == good
    edited(first, lambda raw: raw.__delitem__(slice(100, None)))
    assert len(case.save().written) == 1
    assert checksums(case.disk) == good


def test_another_empty_disk_gets_another_copy(case: Case, tmp_path: Path) -> None:
    case.save()
    assert len(case.save(tmp_path / "second").written) == 5
    assert checksums(tmp_path / "second") == checksums(case.disk)


def test_the_files_of_another_save_are_left_alone(case: Case) -> None:
    case.save()
    good = checksums(case.disk)
    again = plan_save(case.plan, 1, part_size=PART + 512)
    assert [one.name for one in again.parts] == [one.name for one in case.planned.parts]
    with pytest.raises(ConfigurationError, match="another save"):
        case.site.save(again, case.disk)
    assert checksums(case.disk) == good
    case.site.fill(case.plan, case.contents, 2)
    assert case.site.save(plan_save(case.plan, 2, part_size=PART), case.disk).complete
    sums = (case.disk / "SHA256SUMS").read_text().splitlines()
    assert len(sums) == 10, "both are listed"
    (case.root / "mine").mkdir()
    (case.root / "mine" / case.planned.parts[0].name).write_text("what somebody else keeps under this name" * 100)
    with pytest.raises(ConfigurationError, match="another save"):
        case.save(case.root / "mine")
    (case.root / "folder" / case.planned.parts[0].name).mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="another save"):
        case.save(case.root / "folder")


# -- what is missing or bad here ---------------------------------------------------------------------------------


def test_what_is_not_in_the_store_is_listed_and_nothing_is_written(case: Case) -> None:
    gone = [case.blob(), case.blob(large=False)]
    for digest in gone:
        os.unlink(case.site.layout.blob(digest))
    report = case.save()
    assert sorted(report.missing) == sorted(gone)
    assert not report.complete
    assert parts_of(case.disk) == []


def rot(case: Case, digest: Digest) -> None:
    path = Path(case.site.layout.blob(digest))
    status = path.stat()
    path.chmod(0o600)
    edited(path, lambda raw: raw.__setitem__(len(raw) // 2, raw[len(raw) // 2] ^ 1))
    path.chmod(0o440)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("large", [True, False])
def test_rotten_content_leaves_no_part_and_is_named(case: Case, large: bool) -> None:
    digest = case.blob(large)
    rot(case, digest)
    report = case.save()
    assert [one for one, _ in report.corrupt] == [digest]
    assert "hashes to" in report.corrupt[0][1]
    assert not report.complete
    needing = [one for one in case.planned.parts if any(span.digest == digest for span in one.spans)]
    assert report.left == tuple(needing)
    assert [one.name for one in report.written] == names(parts_of(case.disk))
    assert case.site.quarantine.held()[0] == 1
    assert case.save().missing == (digest,)
    ingest.store_bytes(case.site.layout, digest, case.contents[digest])
    again = case.save()
    assert again.complete
    assert again.written == tuple(needing)
    assert len(again.kept) == len(case.planned.parts) - len(needing)


def test_all_that_is_rotten_is_named_at_once(case: Case) -> None:
    bad = sorted(case.plan.content)
    for digest in bad:
        rot(case, digest)
    report = case.save()
    assert sorted(one for one, _ in report.corrupt) == bad
    assert parts_of(case.disk) == []


def test_a_signature_that_is_not_here_stops_a_save(case: Case) -> None:
    for path in case.site.layout.root.glob("signatures/*/*"):
        path.unlink()
    with pytest.raises(StoreError, match="signature 1"):
        case.save()
    assert parts_of(case.disk) == []


# -- a disk that is full, and the next one -------------------------------------------------------------------------


@pytest.mark.parametrize("honest", [True, False])
def test_a_full_disk_ends_at_a_part_and_the_next_disk_gets_the_rest(
    case: Case, honest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_SLACK", 0)
    room = 2 * PART + PART // 2
    case.site.outside = Disk(room, honest)
    if not honest:
        _break_after(monkeypatch, room)
    report = case.save()
    assert report.full is not None
    assert (len(report.written), len(report.left), report.complete) == (2, 3, False)
    assert "2 of 5 parts" in report.full.what
    assert str(case.planned.size) in report.full.what, "what is needed is said"
    assert "--to" in report.full.remedy
    assert names(parts_of(case.disk)) == [one.name for one in case.planned.parts[:2]]
    assert not [name for name in os.listdir(case.disk) if name.endswith(".partial")]
    monkeypatch.undo()
    case.site.outside = Direct()
    rest = case.save(case.root / "next")
    assert rest.complete
    assert [one.number for one, _ in rest.elsewhere] == [1, 2]
    assert {where for _, where in rest.elsewhere} == {str(case.disk)}
    assert names(parts_of(case.root / "next")) == [one.name for one in case.planned.parts[2:]]
    assert len((case.root / "next" / "SHA256SUMS").read_text().splitlines()) == 3
    assert case.save(case.root / "next").written == ()
    assert case.save(case.disk).written == ()


def _break_after(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Have the disk become full although it said that there was room."""
    real, written = os.write, 0

    def write(fd: int, content: bytes | memoryview) -> int:
        nonlocal written
        if "/disk/" in os.readlink(f"/proc/self/fd/{fd}"):
            written += len(content)
            if written > room:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, content)

    monkeypatch.setattr(os, "write", write)


def test_the_next_disk_may_be_where_the_last_one_was(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_SLACK", 0)
    case.site.outside = Disk(2 * PART)
    assert len(case.save().written) == 2
    case.disk.rename(case.root / "first")
    assert len(case.save().written) == 2
    case.disk.rename(case.root / "second")
    last = case.save()
    assert last.complete
    assert len(last.written) == 1
    assert [one.number for one, _ in last.elsewhere] == [1, 2, 3, 4]
    assert case.save().written == ()


def test_finished_parts_may_be_taken_away_to_make_room(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_SLACK", 0)
    case.site.outside = Disk(2 * PART)
    seen = []
    for _ in range(3):
        seen += [one.number for one in case.save().written]
        for path in parts_of(case.disk):
            path.unlink()
    assert seen == [1, 2, 3, 4, 5]


def test_a_disk_that_takes_not_even_one_part(case: Case) -> None:
    case.site.outside = Disk(1000)
    rooms: list[Room] = []
    report = save(case.planned, case.site.store, case.site.outside, case.disk, Carrying(), rooms.append)
    assert isinstance(report.full, StoreFull)
    assert (report.written, len(report.left)) == ((), 5)
    assert rooms == [Room(case.planned.size, 1000, 0, 5, find_mount(case.disk))]
    assert parts_of(case.disk) == []


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.EFBIG, "--part-size"), (errno.EIO, "look at the disk"), (errno.EROFS, "look at the disk")],
)
def test_a_disk_that_fails_is_said_to(case: Case, monkeypatch: pytest.MonkeyPatch, number: int, says: str) -> None:
    real = os.write

    def write(fd: int, content: bytes | memoryview) -> int:
        if "/disk/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(number, os.strerror(number))
        return real(fd, content)

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", write)
        with pytest.raises(TargetFailed) as caught:
            case.save()
    assert says in caught.value.remedy
    assert os.listdir(case.disk) == []
    assert case.save().complete


@pytest.mark.parametrize("place", ["file/disk", "unmounted"])
def test_a_folder_that_is_not_there_is_not_made(case: Case, place: str) -> None:
    (case.root / "file").write_text("")
    with pytest.raises(TargetFailed):
        save(case.planned, case.site.store, case.site.outside, case.root / place, Carrying())
    assert not (case.root / place).exists()


# -- stops and kills -----------------------------------------------------------------------------------------------


def killed_at(number: int, steps: tuple[str, ...], work: Callable[[], object]) -> bool:
    """Run `work` in a child that dies before its step `number`; say whether it did."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    done = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal done
            done += 1
            if done == number:
                os._exit(9)
            return real(*arguments, **options)

        return call

    for name in steps:
        setattr(os, name, counted(getattr(os, name)))
    try:
        work()
    finally:
        os._exit(0)


@pytest.mark.parametrize(("steps", "stride"), [(STEPS, 1), (("write",), 5)], ids=["steps", "writes"])
def test_a_kill_before_any_step(case: Case, steps: tuple[str, ...], stride: int) -> None:
    case.plan, case.contents = made_up(5, [300, 200_000, 5000])
    case.site.fill(case.plan, case.contents, 2)
    case.planned = plan_save(case.plan, 2, part_size=PART // 2)
    assert len(case.planned.parts) == 2
    case.save()
    good = checksums(case.disk)
    number, tries, kept = 1, 0, 0
    while True:
        disk = case.root / f"disk-{number}"
        if not killed_at(number, steps, lambda disk=disk: case.save(disk)):  # type: ignore[misc] # bound now
            break
        report = case.save(disk)
        assert report.complete, f"after a kill before step {number}"
        assert checksums(disk) == good, f"after a kill before step {number}"
        assert [name for name in os.listdir(disk) if name.endswith(".partial")] == []
        kept += len(report.kept)
        tries += 1
        number += stride
    assert tries > (20 if stride == 1 else 4)
    assert kept > 2, "what was finished is kept"


def test_stopping_leaves_whole_parts_only(case: Case) -> None:
    class Impatient(Carrying):
        def move(self, count: int) -> None:
            self.stop = self.done > 2.5 * PART
            super().move(count)

    with pytest.raises(Stopped):
        case.save(carrying=Impatient())
    assert len(parts_of(case.disk)) == 2
    assert not [name for name in os.listdir(case.disk) if name.endswith(".partial")]
    report = case.save()
    assert (len(report.kept), len(report.written)) == (2, 3)


def test_two_of_the_same_save_at_once(case: Case) -> None:
    lock = FileLock(case.site.layout.lock(f"save {case.planned.id}"))
    with lock, pytest.raises(NotYet):
        case.save()
    assert case.save().complete


# -- what earlier saves brought ------------------------------------------------------------------------------------


def grown(contents: Contents) -> tuple[Plan, Contents]:
    """Return a newer generation: something of the old one, and something new."""
    old = dict(sorted(contents.items())[:4])
    return made_up(9, [10_000, 20_000], also=old)


def test_since_carries_what_no_earlier_save_did(case: Case) -> None:
    saves = Saves(case.site.layout, "prod")
    with pytest.raises(ConfigurationError, match="no finished save"):
        saves.since(2, None)
    case.save()
    newer, contents = grown(case.contents)
    case.site.fill(newer, {**case.contents, **contents}, 2)
    since, have = saves.since(2, None)
    assert since == 1
    assert have == set(case.plan.content)
    assert saves.since(2, 1) == (since, have)
    assert saves.since(9, 5) == (since, have)
    planned = plan_save(newer, 2, have=have, how="since", because="since prod@1", part_size=PART)
    assert planned.carried.keys() == newer.content.keys() - case.plan.content.keys()
    case.site.save(planned, case.root / "newer")
    assert saves.generations() == [1, 2]
    assert saves.since(3, None) == (2, set(case.plan.content) | set(newer.content))
    assert saves.since(3, 1) == (1, set(case.plan.content))
    assert saves.since(2, None)[0] == 1, "a lost second archive is repaired by saving it again since the first"
    for older in (2, 3):
        with pytest.raises(ConfigurationError, match="not older"):
            saves.since(2, older)
    with pytest.raises(ConfigurationError, match="prod@1, prod@2"):
        saves.since(3, 0)


def test_a_save_that_was_not_finished_counts_for_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_SLACK", 0)
    case.site.outside = Disk(PART * 2)
    assert not case.save().complete
    with pytest.raises(ConfigurationError):
        Saves(case.site.layout, "prod").since(2, None)


def test_a_damaged_note_costs_only_what_it_said(case: Case) -> None:
    case.save()
    (note,) = (case.site.layout.set("prod") / "saves").iterdir()
    for content in (b"", b"{", b"null", b'{"schema": 9}', note.read_bytes().replace(b"sha256:", b"md5:", 1)):
        note.write_bytes(content)
        assert Saves(case.site.layout, "prod").generations() == []
        assert case.save().complete
        assert Saves(case.site.layout, "prod").generations() == [1]
    assert case.site.sets.generations("prod") == [1]


def test_a_note_that_cannot_be_written_is_an_error(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mirror.offline.saves.files.write_atomically", full)
    with pytest.raises(StoreError, match="cannot note"):
        case.save()


# -- lists ----------------------------------------------------------------------------------------------------------


def test_an_inventory_lists_what_is_verified_and_is_read_back(case: Case) -> None:
    (case.site.layout.blobs / "sha256" / ("f" * 64)).write_bytes(b"not verified")
    (case.site.layout.blobs / "sha256" / "tmp~").write_bytes(b"no digest")
    sha512 = Digest.of(b"long", "sha512")
    ingest.store_bytes(case.site.layout, sha512, b"long")
    raw = b"".join(inventory(case.site.layout))
    assert json.loads(raw)["kind"] == "inventory"
    assert parse_digests(raw, "inventory") == {*case.plan.content, sha512}
    assert raw == b"".join(inventory(case.site.layout))
    planned = plan_save(case.plan, 1, have=parse_digests(raw, "inventory"), how="have")
    assert planned.carried == {}


def test_an_empty_inventory(tmp_path: Path) -> None:
    site = Site(tmp_path / "empty")
    raw = b"".join(inventory(site.layout))
    site.close()
    assert parse_digests(raw, "x") == set()


def test_lists_of_what_is_missing(case: Case) -> None:
    wanted = set(list(case.plan.content)[:3])
    raw = dump_missing(wanted, "prod@1")
    assert raw.startswith(b"# missing of prod@1\n")
    assert parse_digests(raw, "missing") == wanted
    assert parse_digests(
        json.dumps({"schema": 1, "kind": "missing", "digests": [str(one) for one in wanted]}).encode(), "x"
    )
    assert parse_digests(b"", "x") == set()
    spaced = b"\r\n".join(f"  {one}  # why".encode() for one in wanted)
    assert parse_digests(spaced, "x") == wanted


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b"{",
        b'{"schema": 2, "kind": "inventory", "digests": []}',
        b'{"schema": 1, "kind": "plan", "digests": []}',
        b'{"schema": 1, "kind": "inventory", "digests": ["sha256:x"]}',
        b'{"schema": 1, "kind": "inventory", "digests": 5}',
        b'{"a":' * 50_000,
    ],
)
def test_a_list_that_is_none(raw: bytes) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_digests(raw, "inv.json")
    assert caught.value.problems[0].where == "inv.json"


def test_every_wrong_line_is_named(case: Case) -> None:
    good = str(case.blob())
    with pytest.raises(ConfigurationError) as caught:
        parse_digests(f"{good}\nsha256:short\n\n# fine\n{good.upper()}\n".encode() + b"\xff\n", "want.txt")
    assert [one.where for one in caught.value.problems] == ["want.txt:2", "want.txt:5", "want.txt:6"]


def test_memory_is_flat(tmp_path: Path) -> None:
    site = Site(tmp_path / "store")
    size = 64 * KIB * KIB
    raw = bytes(size)
    plan, contents = made_up(1, [10], also={Digest.of(raw): raw})
    site.fill(plan, contents)
    del raw
    contents.clear()
    planned: SavePlan = plan_save(plan, 1, part_size=20 * KIB * KIB)
    tracemalloc.start()
    try:
        assert site.save(planned, tmp_path / "disk").complete
        assert tracemalloc.get_traced_memory()[1] < 12 * KIB * KIB
    finally:
        tracemalloc.stop()
        site.close()
