"""Load: any parts in any order, now and later; what is missing or damaged is named exactly; nothing wrong comes in."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mirror.errors import ConfigurationError, Corrupt, NotYet, StoreFull
from mirror.oci.digest import Digest
from mirror.offline import part, ustar
from mirror.offline.carrying import Carrying, Stopped
from mirror.offline.digest_lists import dump_missing, parse_digests
from mirror.offline.part import Index, Member
from mirror.offline.part_file import PartFile
from mirror.outside import Direct
from mirror.store.space import Forecast
from tests.faults.invariants import sealed_files_hash_to_their_names
from tests.unit.offline.gap_bed import (
    KIB,
    PART,
    Crossing,
    damages,
    edited,
    held_by,
    made_up,
    never_sync,
    parts_of,
    places,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    never_sync(monkeypatch)


@pytest.fixture
def gap(tmp_path: Path) -> Iterator[Crossing]:
    gap = Crossing(tmp_path)
    yield gap
    for site in gap.sites:
        site.close()


def spans_in(path: Path) -> list[tuple[Member, int | None]]:
    with PartFile(Direct(), path) as opened:
        return [(member, held.offset) for member in opened.index.members if (held := part.piece(member.name))]


def test_everything_at_once(gap: Crossing) -> None:
    carrying = Carrying()
    report = gap.far.load(gap.disk, carrying=carrying)
    (one,) = report.loaded
    assert (report.ready, one.ready, one.error, one.missing, one.missing_parts) == (True, True, None, {}, [])
    assert one.received == gap.plan.content
    assert (report.damaged, report.doubled, report.ignored) == ([], [], [])
    assert gap.whole()
    assert carrying.done == carrying.total == sum(gap.plan.content.values())
    assert gap.far.sets.read("prod", 1) == gap.plan.dump()
    assert sealed_files_hash_to_their_names(gap.far.layout) == []


def test_loading_again_reads_nothing_and_says_that_all_is_here(gap: Crossing) -> None:
    gap.far.load(gap.disk)
    carrying = Carrying()
    report = gap.far.load(gap.disk, carrying=carrying)
    (one,) = report.loaded
    assert (one.ready, one.before, one.received, carrying.done) == (True, True, {}, 0)


@pytest.mark.parametrize("seed", range(6))
def test_parts_in_any_order_over_any_runs(gap: Crossing, seed: int) -> None:
    parts = gap.parts()
    chance = random.Random(seed)
    chance.shuffle(parts)
    spanning = [digest for digest in gap.plan.content if gap.plan.content[digest] > 2 * PART]
    assert spanning, "one goes over three parts at least"
    for number, path in enumerate(parts, 1):
        report = gap.far.load(gap.copy(path, name=f"run-{number}") if chance.random() < 0.5 else path)
        (one,) = report.loaded
        if number < len(parts):
            assert (one.ready, one.error, report.damaged) == (False, None, [])
            assert one.missing
            assert one.missing_parts == sorted(other.name for other in parts[number:])
            assert gap.far.finished == []
            assert [str(one) for one in gap.far.sets.current()] == []
            assert gap.far.sets.read("prod", 1) == gap.plan.dump(), "what is on its way is pinned"
    assert gap.whole()


def test_missing_parts_and_digests_are_named_exactly(gap: Crossing) -> None:
    first, second, *rest = gap.parts()
    held = held_by(second)
    report = gap.far.load(gap.copy(first, *rest))
    (one,) = report.loaded
    assert one.missing_parts == [second.name]
    assert set(one.missing) == held
    assert all(one.missing[digest] == gap.plan.content[digest] for digest in held)
    assert parse_digests(dump_missing(report.missing, str(one)), "x") == held
    assert gap.far.load(second).ready
    assert gap.whole()


def test_what_is_missing_can_be_saved_alone_and_loaded_before_or_after(gap: Crossing) -> None:
    first, _, *rest = gap.parts()
    report = gap.far.load(gap.copy(first, *rest))
    gap.save(gap.plan, 1, gap.root / "repair", wanted=set(report.missing), how="want")
    assert gap.far.load(gap.root / "repair").ready
    assert gap.whole()
    other = gap.site()
    early = other.load(gap.root / "repair")
    assert (early.loaded[0].error, early.loaded[0].presumed, early.ready) == (None, False, False)
    assert early.loaded[0].received.keys() == report.missing.keys()
    assert other.load(gap.root / "some").ready
    assert gap.whole(other)


def test_the_same_part_twice_is_fine_and_said(gap: Crossing) -> None:
    copies = gap.copy(*gap.parts()[1:3], name="copies")
    report = gap.far.load(gap.disk, copies, gap.disk, gap.parts()[0])
    assert report.ready
    assert [(one.parent.name, other.name) for one, other in report.doubled] == [
        ("copies", path.name) for path in gap.parts()[1:3]
    ] or [(other.parent.name, one.name) for one, other in report.doubled] == [
        ("copies", path.name) for path in gap.parts()[1:3]
    ]
    assert gap.whole()


def test_a_good_copy_mends_a_damaged_one(gap: Crossing) -> None:
    copies = gap.copy(*gap.parts(), name="copies")
    for path in parts_of(copies):
        edited(path, lambda raw: raw.__setitem__(slice(len(raw) // 2, len(raw) // 2 + 9), b"bad bytes"))
    report = gap.far.load(copies, gap.disk)
    assert report.ready
    assert gap.whole()
    assert {one.path.parent.name for one in report.damaged} == {"copies"}


# -- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", range(0, 100, 5))
def test_a_part_cut_at_any_place(gap: Crossing, percent: int) -> None:
    victim = gap.parts()[2]
    good = gap.copy(victim, name="good") / victim.name
    os.truncate(victim, victim.stat().st_size * percent // 100)
    report = gap.far.load(gap.disk)
    (one,) = report.loaded
    assert (victim.name, "") in damages(report)
    assert any("cut short" in damage.why for damage in report.damaged)
    assert {damage.path for damage in report.damaged} == {victim}
    assert not one.ready
    assert gap.far.finished == []
    assert set(one.missing) <= held_by(good)
    assert one.missing
    assert sealed_files_hash_to_their_names(gap.far.layout) == []
    assert gap.far.load(good).ready
    assert gap.whole()


def test_a_part_that_lost_only_its_end_is_enough(gap: Crossing) -> None:
    victim = gap.parts()[2]
    os.truncate(victim, victim.stat().st_size - 600)
    report = gap.far.load(gap.disk)
    assert report.ready
    assert damages(report) == [(victim.name, "")]
    assert gap.whole()


def test_every_signature_damaged_or_every_plan(gap: Crossing) -> None:
    name = part.signature_name(gap.plan.releases[0].digest, 1)
    raw = {path: path.read_bytes() for path in gap.parts()}
    for member in (name, part.PLAN):
        for path in gap.parts():
            first = next(start for what, start, _ in places(path) if what == member)
            edited(path, lambda raw, first=first: raw.__setitem__(first, raw[first] ^ 1))  # type: ignore[misc] # bound now
        report = gap.far.load(gap.disk)
        assert isinstance(report.loaded[0].error, Corrupt)
        assert damages(report) == [(path.name, member) for path in gap.parts()]
        assert gap.untouched()
        for path, content in raw.items():
            path.write_bytes(content)
    assert gap.far.load(gap.disk).ready


# -- hostile parts -----------------------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[Index], Index], bodies: dict[str, bytes] | None = None) -> None:
    """Write a part anew with another index, whose checksum is right."""
    with PartFile(Direct(), path) as opened:
        index = opened.index
        kept = {member.name: opened.content(member.name) for member in index.members}
    index = change(index)
    raw = index.dump()
    out = b""
    fixed = {part.INDEX: raw, part.CHECKSUM: part.checksum(raw)}
    for name, body in [*fixed.items(), *((one.name, {**kept, **(bodies or {})}[one.name]) for one in index.members)]:
        out += ustar.header(name, len(body)) + body + bytes(ustar.padding(len(body)))
    path.write_bytes(out + ustar.END)


def header_like(name: str, size: int, kind: bytes, link: str = "") -> bytes:
    block = bytearray(ustar.header(name, size))
    block[156:157] = kind
    block[157 : 157 + len(link)] = link.encode()
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\x00 " % sum(block)
    return bytes(block)


KINDS = {
    "a hard link": b"1",
    "a symbolic link": b"2",
    "a character device": b"3",
    "a block device": b"4",
    "a folder": b"5",
    "a named pipe": b"6",
    "a sparse file": b"S",
    "an extended header": b"x",
    "a long name": b"L",
}


@pytest.mark.parametrize("says", KINDS)
def test_what_is_no_file_is_refused(gap: Crossing, says: str) -> None:
    victim = gap.parts()[0]
    what, first, _ = [one for one in places(victim) if one[0].startswith("header of blobs/")][1]
    name = what.removeprefix("header of ")
    with PartFile(Direct(), victim) as opened:
        size = next(member.size for member in opened.index.members if member.name == name)
    block = header_like(name, size, KINDS[says], "/etc/passwd")
    edited(victim, lambda raw: raw.__setitem__(slice(first, first + 512), block))
    report = gap.far.load(gap.disk)
    assert damages(report) == [(victim.name, name)]
    assert report.damaged[0].why == f"{says} stands in its place"
    held = part.piece(name)
    assert held is not None
    assert set(report.missing) == {held.digest}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../../etc/passwd", "'../../etc/passwd' stands in its place"),
        ("/etc/passwd", "'/etc/passwd' stands in its place"),
        ("plan.json", "'plan.json' stands in its place"),
        ("\x00", "'' stands in its place"),
    ],
)
def test_odd_names_are_refused(gap: Crossing, name: str, says: str) -> None:
    victim = gap.parts()[0]
    what, first, _ = [one for one in places(victim) if one[0].startswith("header of blobs/")][1]
    edited(victim, lambda raw: raw.__setitem__(slice(first, first + 512), header_like(name, 5, b"0")))
    report = gap.far.load(gap.disk)
    assert [(damage.member, damage.why) for damage in report.damaged] == [(what.removeprefix("header of "), says)]
    assert gap.far.finished == []


@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"-0000000001\0", b"           \0", b"\x80" + b"\xff" * 11, b"00000000009\0"]
)
def test_odd_sizes_are_refused(gap: Crossing, size: bytes) -> None:
    for which in ("header of mirror-part.json", "header of plan.json", "header of blobs/"):
        victim = gap.parts()[0]
        raw = victim.read_bytes()
        first = next(start for what, start, _ in places(victim) if what.startswith(which))
        block = bytearray(raw[first : first + 512])
        block[124:136] = size
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\x00 " % sum(block)
        edited(victim, lambda raw, first=first, block=block: raw.__setitem__(slice(first, first + 512), block))  # type: ignore[misc] # bound now
        report = gap.far.load(victim)
        assert victim in {damage.path for damage in report.damaged}
        assert gap.far.finished == []
        victim.write_bytes(raw)
    assert gap.far.load(gap.disk).ready


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_tar_that_begins_with_an_extension_is_no_part(gap: Crossing, kind: bytes) -> None:
    (gap.disk / "zzz.tar").write_bytes(header_like("x", 2**33 - 1, kind) + b"path=../../x\n" * 1000)
    report = gap.far.load(gap.disk)
    assert report.ready
    assert [(path.name, why) for path, why in report.ignored] == [("zzz.tar", "it is not a part")]


def test_an_index_that_lies(gap: Crossing) -> None:
    victim = next(path for path in gap.parts() if any(offset == 0 for _, offset in spans_in(path)))
    raw = victim.read_bytes()
    foreign = Digest.of(b"not of this set")

    def with_members(*more: Member) -> Callable[[Index], Index]:
        return lambda index: replace(index, members=(*index.members, *more))

    rewritten(
        victim,
        with_members(Member(part.blob_name(foreign, None), 15, foreign.hex)),
        {part.blob_name(foreign, None): b"not of this set"},
    )
    report = gap.far.load(gap.disk)
    assert report.ready
    assert damages(report) == [(victim.name, part.blob_name(foreign, None))]
    assert foreign not in gap.far.blobs(), "what the plan does not name does not come in"
    victim.write_bytes(raw)

    # Bytes that are not what their name says, with a checksum that agrees: only the digest tells.
    site = gap.site()
    span = next(member for member, offset in spans_in(victim) if offset == 0)
    body = b"x" * span.size
    rewritten(
        victim,
        lambda index: replace(
            index,
            members=tuple(
                Member(one.name, one.size, hashlib.sha256(body).hexdigest()) if one == span else one
                for one in index.members
            ),
        ),
        {span.name: body},
    )
    report = site.load(gap.disk)
    held = part.piece(span.name)
    assert held is not None
    assert set(report.missing) == {held.digest}
    assert held.digest not in site.blobs()
    assert any("hashes to" in damage.why for damage in report.damaged)
    victim.write_bytes(raw)
    assert site.load(gap.disk).ready
    assert gap.whole(site)


def test_a_plan_that_is_another_one_than_its_index_names(gap: Crossing) -> None:
    other, _ = made_up(99, [10])
    for path in gap.parts():
        rewritten(
            path,
            lambda index: Index(
                index.set,
                index.generation,
                index.part,
                index.parts,
                index.save,
                other.digest,
                index.how,
                "",
                index.members,
            ),
        )
    report = gap.far.load(gap.disk)
    assert isinstance(report.loaded[0].error, Corrupt)
    assert gap.untouched()


@pytest.mark.parametrize("where", ["folder", "file"])
def test_files_that_are_no_parts(gap: Crossing, where: str) -> None:
    folder = gap.root / "odd"
    folder.mkdir()
    (folder / "notes.txt").write_text("hello")
    (folder / "empty.tar").write_text("")
    (folder / "inner").mkdir()
    os.mkfifo(folder / "pipe.tar")
    (folder / "prod-1-002-of-005.tar").write_text("cut")
    (folder / "prod-1-003-of-005.tar").write_text("c")
    with open(folder / "large.tar", "wb") as file:
        file.truncate(1 << 30)
    if where == "file":
        with pytest.raises(ConfigurationError, match="neither parts"):
            gap.far.load(folder / "notes.txt", folder / "pipe.tar", folder / "large.tar")
        return
    report = gap.far.load(folder, gap.disk)
    assert report.ready
    assert [(damage.path.name, damage.why) for damage in report.damaged] == [
        ("prod-1-002-of-005.tar", "it is cut short: 3 bytes"),
        ("prod-1-003-of-005.tar", "it is cut short: 1 byte"),
    ]
    assert sorted(path.name for path, _ in report.ignored) == ["empty.tar", "large.tar", "notes.txt", "pipe.tar"]


def test_paths_that_are_not_there(gap: Crossing) -> None:
    with pytest.raises(ConfigurationError) as caught:
        gap.far.load(gap.root / "nowhere", gap.disk, gap.root / "neither")
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigurationError, match="neither parts"):
        gap.far.load(gap.copy(name="empty"))


def test_a_folder_around_the_parts_leads_to_them(gap: Crossing) -> None:
    outer = gap.root / "outer"
    outer.mkdir()
    gap.disk.rename(outer / "prod")
    with pytest.raises(ConfigurationError) as caught:
        gap.far.load(outer)
    (problem,) = caught.value.problems
    assert problem.remedy == f"give what lies in it: `mirror load {outer / 'prod'}`"
    assert gap.far.load(Path(problem.remedy.partition("mirror load ")[2].rstrip("`"))).ready


def test_only_damaged_parts_are_reported_without_a_generation(gap: Crossing) -> None:
    for path in gap.parts():
        os.truncate(path, 100)
    report = gap.far.load(gap.disk)
    assert (report.ready, report.loaded, len(report.damaged)) == (False, [], 5)


def test_a_part_of_a_newer_release(gap: Crossing) -> None:
    first = gap.parts()[0]
    edited(first, lambda raw: None)
    with PartFile(Direct(), first) as opened:
        raw = opened.index.dump().replace(b'"schema": 1', b'"schema": 2')
    out = ustar.header(part.INDEX, len(raw)) + raw + bytes(ustar.padding(len(raw)))
    out += (
        ustar.header(part.CHECKSUM, part.CHECKSUM_SIZE) + part.checksum(raw) + bytes(ustar.padding(part.CHECKSUM_SIZE))
    )
    first.write_bytes(out + ustar.END)
    report = gap.far.load(gap.disk)
    assert "newer release" in report.damaged[0].why
    assert not report.ready


# -- stops, and several at once ----------------------------------------------------------------------------------


def test_stopping_keeps_what_is_done(gap: Crossing) -> None:
    class Impatient(Carrying):
        def move(self, count: int) -> None:
            self.stop = self.done > 500_000
            super().move(count)

    with pytest.raises(Stopped):
        gap.far.load(gap.disk, carrying=Impatient())
    assert sealed_files_hash_to_their_names(gap.far.layout) == []
    carrying = Carrying()
    assert gap.far.load(gap.disk, carrying=carrying).ready
    assert carrying.done < sum(gap.plan.content.values())
    assert gap.whole()


def test_a_set_that_somebody_else_works_on(gap: Crossing) -> None:
    busy = gap.far.sets.try_busy("prod")
    assert busy is not None
    report = gap.far.load(gap.disk)
    assert isinstance(report.loaded[0].error, NotYet)
    assert gap.untouched()
    busy.release()
    assert gap.far.load(gap.disk).ready


def test_a_source_that_cannot_be_read(gap: Crossing, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = gap.parts()[1]
    real = os.pread

    def pread(fd: int, count: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}") == str(victim) and offset + count > 100_000:
            raise OSError(5, "Input/output error")
        return real(fd, count, offset)

    with monkeypatch.context() as broken:
        broken.setattr(os, "pread", pread)
        report = gap.far.load(gap.disk)
    assert {damage.path for damage in report.damaged} == {victim}
    assert all("Input/output error" in damage.why for damage in report.damaged)
    assert set(report.missing) <= held_by(victim)
    assert not report.ready
    assert gap.far.load(gap.disk).ready
    assert gap.whole()


# -- room --------------------------------------------------------------------------------------------------------


def test_a_store_without_room_says_so_before_a_byte(gap: Crossing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap.far.space, "forecast", lambda: Forecast(500_000, 1000))
    report = gap.far.load(gap.disk)
    error = report.loaded[0].error
    assert isinstance(error, StoreFull)
    assert str(sum(gap.plan.content.values())) in error.what
    assert "500000" in error.what
    assert gap.untouched()


def test_a_store_that_becomes_full_goes_on_when_there_is_room(gap: Crossing, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = os.pwrite, 0

    def pwrite(fd: int, content: bytes, offset: int) -> int:
        nonlocal written
        written += len(content)
        if written > 600_000:
            raise OSError(28, "No space left on device")
        return real(fd, content, offset)

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", pwrite)
        report = gap.far.load(gap.disk)
    assert isinstance(report.loaded[0].error, StoreFull)
    assert report.loaded[0].missing
    assert gap.far.finished == []
    carrying = Carrying()
    assert gap.far.load(gap.disk, carrying=carrying).ready
    assert carrying.done < sum(gap.plan.content.values())
    assert gap.whole()


def resident(which: str) -> int:
    """Return what the kernel says of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * KIB for line in lines if line.startswith(f"{which}:"))


def test_memory_is_flat(gap: Crossing) -> None:
    size = 64 * KIB * KIB
    raw = bytes(size)
    plan, contents = made_up(1, [10], name="large", also={Digest.of(raw): raw})
    gap.near.fill(plan, contents, 1)
    del raw
    contents.clear()
    gap.save(plan, 1, gap.root / "large", part_size=20 * KIB * KIB)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far, proc(5)
    before = resident("VmRSS")
    assert gap.far.load(gap.root / "large").ready
    assert resident("VmHWM") - before < 24 * KIB * KIB
