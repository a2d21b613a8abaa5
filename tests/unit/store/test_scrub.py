"""Scrub: what is not what its name says is found, in an order that can be gone on with; strays are found."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.errors import RecordDamaged, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import files, ingest, records
from mirror.store import scrub as scrub_module
from mirror.store.blobs import Blobs
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.probe import prepare
from mirror.store.quarantine import Quarantine
from mirror.store.reconcile import reconcile
from mirror.store.scrub import Scrub, in_order
from mirror.store.strays import stray_content, stray_records
from mirror.store.tags import TagRecord, Tags
from mirror.store.usage import Contents
from tests.peers.images import noise


class Bed:
    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        prepare(self.layout)
        self.discarded: list[str] = []
        self.blobs = Blobs(self.layout, self._discard)

    def _discard(self, path: str, why: str) -> None:
        self.discarded.append(why)
        os.rename(path, self.layout.quarantine / f"{len(self.discarded)}")

    def put(self, *seeds: int, size: int = 3000, algorithm: str = "sha256") -> list[Digest]:
        found = []
        for seed in seeds:
            content = noise(size, seed)
            found.append(Digest.of(content, algorithm))
            ingest.store_bytes(self.layout, found[-1], content)
        return found

    def scrub(self, **options: object) -> Scrub:
        return Scrub(self.layout, self.blobs, **options)

    def flip(self, digest: Digest) -> None:
        path = Path(self.layout.blob(digest))
        before = path.stat()
        path.chmod(0o600)
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        path.chmod(0o440)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert files.is_sealed(path.stat())


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def finish(scrub: Scrub, most: int = 1000) -> Scrub:
    while not scrub.done:
        assert scrub.step(most) <= most
    return scrub


def test_everything_is_read_once_and_nothing_is_touched(bed: Bed) -> None:
    digests = bed.put(*range(20)) + bed.put(20, size=0) + bed.put(21, size=2_500_000) + bed.put(22, algorithm="sha512")
    before = {digest: os.stat(bed.layout.blob(digest)) for digest in digests}
    scrub = finish(bed.scrub(), 1_000_000)
    assert (scrub.contents, scrub.bytes, scrub.bad()) == (23, 21 * 3000 + 2_500_000, [])
    assert scrub.cursor == max(digests)
    for digest, status in before.items():
        now = os.stat(bed.layout.blob(digest))
        assert (now.st_atime_ns, now.st_mtime_ns, now.st_mode) == (
            status.st_atime_ns,
            status.st_mtime_ns,
            status.st_mode,
        )


@pytest.mark.parametrize("share", [3, 50_000])
def test_it_goes_on_after_a_cursor_in_the_order_of_digests(
    bed: Bed, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "_SHARE", share)
    digests = sorted(bed.put(*range(30)) + bed.put(*range(30, 35), algorithm="sha512"))
    (bed.layout.blobs / "sha256" / "notes").touch()
    assert list(in_order(bed.layout)) == digests
    for number in (0, 7, 29, 31, 34):
        assert list(in_order(bed.layout, digests[number])) == digests[number + 1 :]
    first = bed.scrub()
    while first.contents < 12:
        first.step(1000)
    first.close()
    assert first.cursor == digests[11]
    rest = finish(bed.scrub(after=first.cursor))
    assert rest.contents == 35 - 12


@pytest.mark.parametrize("how", ["flip", "short", "long"])
def test_what_is_bad_is_put_away(bed: Bed, how: str) -> None:
    good, bad = bed.put(1, 2)
    path = Path(bed.layout.blob(bad))
    if how == "flip":
        bed.flip(bad)
    else:
        path.chmod(0o600)
        os.truncate(path, 10 if how == "short" else 5000)
        path.chmod(0o440)
        os.utime(path, (1, files.seal_time(path.stat().st_size)))
    seen = finish(bed.scrub(dry_run=True))
    assert [one.digest for one in seen.bad()] == [bad]
    assert bed.discarded == []
    scrub = finish(bed.scrub())
    ((digest, size, why),) = scrub.bad()
    assert digest == bad
    assert size == {"flip": 3000, "short": 10, "long": 5000}[how]
    assert why.startswith("hashes to ")
    assert bed.discarded == [f"scrub: {why}"]
    assert scrub.bad() == []
    assert not path.exists()
    assert os.path.exists(bed.layout.blob(good))


def test_an_unreadable_file_stays(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    (digest,) = bed.put(1)

    def fail(fd: int, size: int, position: int) -> bytes:
        raise OSError(5, "Input/output error")

    scrub = bed.scrub()
    monkeypatch.setattr(os, "pread", fail)
    scrub.step(1)
    monkeypatch.undo()
    assert [one.digest for one in scrub.unread()] == [digest]
    assert not scrub.bad()
    assert not bed.discarded
    assert os.path.exists(bed.layout.blob(digest))


def test_a_file_without_a_seal_is_sealed_unless_it_is_being_written(bed: Bed) -> None:
    good, bad = bed.put(1, 2)
    Path(bed.layout.blob(bad)).chmod(0o600)
    Path(bed.layout.blob(bad)).write_bytes(b"half of i")
    os.utime(bed.layout.blob(good))
    assert finish(bed.scrub()).contents == 0
    assert bed.discarded == []
    scrub = finish(bed.scrub(young=0))
    assert scrub.contents == 2
    assert [one.digest for one in scrub.bad()] == [bad]
    assert files.is_sealed(os.stat(bed.layout.blob(good)))


@pytest.mark.parametrize("how", ["evicted", "replaced"])
def test_what_goes_while_it_is_read_is_not_judged(bed: Bed, how: str) -> None:
    (digest,) = bed.put(1)
    bed.flip(digest)
    scrub = bed.scrub()
    scrub.step(1000)
    os.unlink(bed.layout.blob(digest))
    if how == "replaced":
        bed.put(1)
    assert finish(scrub).bad() == []
    assert bed.discarded == []
    assert os.path.exists(bed.layout.blob(digest)) == (how == "replaced")


def test_only_some(bed: Bed) -> None:
    digests = bed.put(1, 2, 3)
    assert finish(bed.scrub(only={digests[0], Digest.of(b"nowhere")})).contents == 1


def test_what_is_in_the_place_of_content_cannot_be_read_and_stays(bed: Bed) -> None:
    folder = bed.layout.blobs / "sha256"
    folder.mkdir(exist_ok=True)
    (folder / ("a" * 64)).symlink_to("/etc/passwd")
    (folder / ("b" * 64)).mkdir()
    os.mkfifo(folder / ("c" * 64))
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):
        listener.bind("d" * 64)
    scrub = finish(bed.scrub())
    assert (scrub.contents, scrub.bad(), bed.discarded) == (0, [], [])
    said = {one.digest.hex[0]: one.why.partition("(")[2] for one in scrub.unread()}
    assert said == {
        "a": "a symbolic link is in its place)", "b": "a folder is in its place)",
        "c": "a pipe is in its place)", "d": "a socket is in its place)",
    }  # fmt: skip
    assert list(stray_content(bed.layout)) == []


def test_strays(bed: Bed) -> None:
    layout = bed.layout
    (digest,) = bed.put(1)
    name = "quay.io/team/app"
    good = [
        Path(layout.tag(name, "v1.0_x")), Path(layout.manifest(name, digest)), Path(layout.membership(name, digest)),
        Path(layout.referrers(name, digest)), Path(layout.pushed_referrer(name, digest, digest)),
        Path(layout.tag("a", "v1")),
    ]  # fmt: skip
    folder = layout.repositories / name
    bad = [
        layout.blobs / "x", layout.blobs / "sha256" / f"{'a' * 63}", layout.blobs / "md5" / "x",
        layout.repositories / "x", layout.repositories / "_tags" / "x", folder / "x", folder / "_other" / "x",
        folder / "_tags" / "-", folder / "_blobs" / "x",
        folder / "_manifests" / "sha256" / "x", folder / "_referrers" / "sha256" / "x",
        folder / "_referrers" / "sha256" / digest.hex / "x", layout.repositories / "UPPER" / "x",
    ]  # fmt: skip
    ours = Path(f"{layout.tag(name, 'v2')}.123-0a1b2c3d~")
    for path in (*good, *bad, ours):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    found = [*stray_content(layout), *stray_records(layout)]
    said = {one.path for one in found if not one.ours}
    assert said == {
        str(path.parent if path.parent.name in ("md5", "_tags", "_other", "UPPER") and path.name == "x" else path)
        for path in bad
    }
    assert [one.path for one in found if one.ours] == [str(ours)]
    assert all(one.is_young(100) and not one.is_young(-100) for one in found)


def test_records_that_say_nothing_and_what_is_in_the_place_of_some(bed: Bed) -> None:
    layout = bed.layout
    (digest,) = bed.put(1)
    rows, tags = Manifests(layout), Tags(layout)
    for name in ("a", "b/c"):
        rows.add_manifest(name, digest, "m", 1)
        for tag in ("v1", "v2", "v3"):
            tags.write(name, tag, TagRecord(digest, "m", 1.0), durable=False)
    empty, link, row = Path(layout.tag("a", "v1")), Path(layout.tag("a", "v2")), Path(layout.manifest("b/c", digest))
    empty.write_bytes(b"")
    link.unlink()
    link.symlink_to("v3")
    row.write_bytes(b"{}")
    assert {error.path: type(error) for error in records.ill(layout)} == {
        str(empty): RecordDamaged, str(link): StoreUnreadable, str(row): RecordDamaged,
    }  # fmt: skip
    assert {error.path for error in records.ill(layout, ["a"])} == {str(empty), str(link)}
    for path in (empty, link, row):
        assert [error.path for error in records.look(layout, str(path))] == [str(path)]
    for other in (layout.tag("a", "v3"), layout.tag("a", "none"), layout.membership("a", digest), "/etc/passwd", ""):
        assert list(records.look(layout, other)) == []
    assert [Path(one.path) for one in stray_records(layout)] == []


@pytest.fixture
def index(bed: Bed) -> Iterator[Index]:
    made = Index(bed.layout, Quarantine(bed.layout))
    yield made
    made.close()


def test_an_index_agrees_with_the_files_afterwards(bed: Bed, index: Index) -> None:
    digests = bed.put(1, 2, 3)
    index.adopt([(Digest.of(b"gone"), 4, 1.0)])
    changes = list(reconcile(bed.layout, index))
    assert (sum(one.added for one in changes), sum(one.dropped for one in changes)) == (3, 1)
    assert not index.needs_rebuild()
    assert {entry.digest for entry in index.oldest(9)} == set(digests)
    assert sum(one.added + one.dropped for one in reconcile(bed.layout, index)) == 0


def test_room_is_shared_out(bed: Bed) -> None:
    first, second, third = bed.put(1, size=10) + bed.put(2, size=200) + bed.put(3, size=3000)
    contents = Contents(bed.layout)
    gone = Digest.of(b"gone")
    contents.count("a", [first, second, gone])
    contents.count("a", [second])
    contents.count("b", [second])
    contents.count("c", [second])
    assert [(one.name, one.contents, one.bytes, one.unique) for one in contents.groups()] == [
        ("a", 2, 210, 10),
        ("b", 1, 200, 0),
        ("c", 1, 200, 0),
    ]
    assert contents.unnamed == (1, 3000)
    assert contents.total == (3, 3210)
    assert contents.of([third, gone]) == (1, 3000)


def test_a_hundred_thousand_names_are_walked_in_seconds(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [Digest.of(str(number).encode()).hex for number in range(100_000)]
    monkeypatch.setattr(scrub_module, "_names", lambda folder: iter(names) if folder.endswith("sha256") else iter(()))
    began = time.thread_time()
    found = [digest.hex for digest in in_order(bed.layout)]
    assert found == sorted(names)
    assert time.thread_time() - began < 5
