"""Runs that would take much of a store stop, and what the disk does not give is noted until it does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mirror.errors import CollectionStopped, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import brake as brakes
from mirror.store import files, ingest
from mirror.store.brake import Amount, Brake
from mirror.store.brought import Brought
from mirror.store.faults import Faults, noted, unreadable
from mirror.store.layout import Layout
from mirror.store.probe import prepare


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "store")
    prepare(layout)
    for number in range(100):
        content = b"%d" % number * 1000
        ingest.store_bytes(layout, Digest.of(content), content)
    return layout


@pytest.mark.parametrize(
    ("contents", "size", "stops"),
    [
        (0, 0, False),
        (9, 1 << 20, False),  # few
        (10, 1000, False),  # a tenth, and not more
        (11, 1000, True),
        (10, 1 << 20, True),  # ten contents that are most of the bytes
        (1, 2 << 30, True),  # one, and a large one
        (100, 1, True),
    ],
)
def test_more_than_a_tenth_stops(layout: Layout, contents: int, size: int, stops: bool) -> None:
    brake = Brake(layout)
    assert brake.stock().contents == 100
    brake.check("gc", Amount(contents, size), yes=True)
    if not stops:
        brake.check("gc", Amount(contents, size), yes=False)
        assert brake.stopped() == {}
        return
    with pytest.raises(CollectionStopped, match="--yes"):
        brake.check("gc", Amount(contents, size), yes=False)
    assert list(brake.stopped()) == ["gc"]
    brake.check("unpin", Amount(0, 0), yes=False)
    assert list(Brake(layout).stopped()) == ["gc"], "another run says nothing of this one"
    brake.check("gc", Amount(contents, size), yes=True)
    assert brake.stopped() == {}


def test_a_run_that_only_a_person_repeats_is_told_of_for_a_day(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    brake = Brake(layout)
    brake.stop("unpin", "x")
    brake.stop("scrub", "y")
    now = brakes.time.time()
    monkeypatch.setattr(brakes.time, "time", lambda: now + 2 * 86400)
    assert list(brake.stopped()) == ["scrub"]


def test_faults_are_summed_and_forgotten_when_it_works_again(tmp_path: Path) -> None:
    faults = Faults()
    for name in "abc":
        (tmp_path / name).write_bytes(b"x")
        faults.note("read", str(tmp_path / name), OSError(errno.EIO, "x"))
    faults.note("read", str(tmp_path / "a"), OSError(errno.EIO, "x"))
    faults.note("write", str(tmp_path / "a"), OSError(errno.EROFS, "x"))
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    faults.note("read", str(link), OSError(errno.ELOOP, "x"))
    rows = {(row["operation"], row["errno"]): row for row in faults.told()}
    assert set(rows) == {("read", "EIO"), ("write", "EROFS"), ("read", "ELOOP")}
    assert (rows["read", "EIO"]["paths"], rows["read", "EIO"]["count"]) == (3, 4)
    assert all("remove" not in row["remedy"].replace("removed", "") for row in rows.values())
    assert faults.take_counts() == {"read_eio": 4, "write_erofs": 1, "read_eloop": 1}
    faults.retry()
    assert [(row["operation"], row["errno"]) for row in faults.told()] == [("read", "ELOOP")]
    link.unlink()
    faults.retry()
    assert not faults
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"], "trying leaves nothing"


def test_the_ledger_is_bounded() -> None:
    faults = Faults()
    for number in range(1000):
        faults.note("read", f"/nowhere/{number}", OSError(errno.EIO, "x"))
    (row,) = faults.told()
    assert row["paths"] == 256


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EEXIST])
def test_what_is_no_fault_of_the_disk_is_not_noted(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Faults()
    monkeypatch.setattr("mirror.store.faults.DISK_FAULTS", ledger)
    with pytest.raises(OSError), noted("write", "/x"):
        raise OSError(number, os.strerror(number))
    assert not ledger
    unreadable("/x", OSError(errno.EIO, "x"))
    assert ledger


def test_hashing_past_the_page_cache_reads_the_same(tmp_path: Path) -> None:
    for size in (0, 1, 4096, (1 << 20) + 17):
        content = os.urandom(size)
        (tmp_path / "x").write_bytes(content)
        digest, fd = Digest.of(content), os.open(tmp_path / "x", os.O_RDONLY)
        try:
            hasher = digest.hasher()
            assert files.hash_from_disk(fd, hasher.update) == size
            assert hasher.hexdigest() == digest.hex
        finally:
            os.close(fd)


def test_who_brought_a_digest(layout: Layout) -> None:
    brought, digest = Brought(layout), Digest.of(b"x")
    assert brought.by(digest) == ([], True)
    for name in ("quay.io/a/b", "apps/web", "quay.io/a/b"):
        brought.add(name, digest)
    assert brought.by(digest) == (["quay.io/a/b", "apps/web"], True)
    # A write that was cut off costs nothing but itself, and what is no name counts for none.
    with open(layout.bringers(digest), "ab") as file:
        file.write(f"\n{digest.hex} quay.io/a/cu".encode())
    with open(layout.bringers(digest), "ab") as file:
        file.write(f"\n{digest.hex} ../x\n\0\0\n{digest.hex[:20]} apps/x\n".encode())
    brought.add("apps/other", digest)
    assert brought.by(digest)[0] == ["quay.io/a/b", "apps/web", "quay.io/a/cu", "apps/other"]
    for number in range(1200):
        brought.add(f"apps/a{number}", digest)
    names, every = brought.by(digest)
    assert not every
    assert len(names) == 1000


def test_names_of_content_that_is_gone_go_after_a_day(layout: Layout) -> None:
    brought = Brought(layout)
    here, gone, young = Digest.of(b"0" * 1000), Digest.of(b"gone"), Digest.of(b"young")
    for digest in (here, gone, young):
        brought.add("a/b", digest)
    for digest in (here, gone):
        os.utime(layout.bringers(digest), (0, 0))
    assert brought.tidy() == 1
    assert [bool(brought.by(one)[0]) for one in (here, gone, young)] == [True, False, True]


def test_a_link_in_the_place_of_a_record_is_no_absence(layout: Layout) -> None:
    path = layout.root / "record"
    assert files.read_record(str(path), 10) is None
    path.symlink_to("/etc/passwd")
    with pytest.raises(StoreUnreadable) as caught:
        files.read_record(str(path), 10)
    assert (caught.value.number, caught.value.path) == (errno.ELOOP, str(path))
