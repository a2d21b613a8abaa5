"""Parts: one holder, takeover, recovery after another boot, the mark, the commit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mirror.errors import Corrupt
from mirror.oci.digest import Digest
from mirror.store import files, ingest, probe
from mirror.store.blobs import Blobs
from mirror.store.ingest import Part, PartNote
from mirror.store.layout import Layout
from mirror.store.lock import FileLock

CONTENT = b"content" * 1000
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "store")
    probe.prepare(layout)
    return layout


def begin(layout: Layout) -> Part:
    part = Part.open(layout, DIGEST, create=True)
    assert part is not None
    return part


def note(boot: str, synced: int = 0) -> PartNote:
    return PartNote(len(CONTENT), "lab", "team/app", boot, synced, "test")


def test_one_holder_and_a_free_fall(layout: Layout) -> None:
    one, two = begin(layout), begin(layout)
    assert one.try_lock()
    assert not two.try_lock()
    one.close()
    assert two.try_lock()
    assert not two.moved
    two.close()
    assert Part.open(layout, Digest.of(b"absent"), create=False) is None


def test_from_the_first_byte_to_the_blob(layout: Layout) -> None:
    part, reader = begin(layout), begin(layout)
    part.try_lock()
    hasher = DIGEST.hasher()
    assert part.append(0, (CONTENT[:100], CONTENT[100:200]), hasher) == 200
    assert part.append(200, (CONTENT[200:],), hasher) == len(CONTENT)
    part.write_note(note("now"))
    part.sync(len(CONTENT), note("now"))
    kept = part.note()
    assert kept is not None
    assert kept.synced == len(CONTENT)
    assert not reader.status[1]
    part.mark()
    assert reader.status[:2] == (len(CONTENT), True), "the mark is seen through every descriptor"
    part.commit()
    assert reader.moved
    assert os.listdir(layout.ingest) == []
    found = Blobs(layout, lambda path, why: None).open(DIGEST)
    assert found is not None
    assert (found.size, found.sealed) == (len(CONTENT), True)
    for fd in (found.fd,):
        os.close(fd)
    part.close()
    reader.close()


def test_a_part_of_this_boot_goes_on_as_it_is(layout: Layout) -> None:
    part = begin(layout)
    part.try_lock()
    part.append(0, (CONTENT[:500],), DIGEST.hasher())
    part.write_note(note("now"))
    assert part.recover("now") == (500, False, note("now"))
    part.close()


@pytest.mark.parametrize(("synced", "kept"), [(0, 0), (300, 300), (9999, 500)])
@pytest.mark.parametrize("marked", [False, True])
def test_a_part_of_another_boot_keeps_what_was_synced(layout: Layout, synced: int, kept: int, marked: bool) -> None:
    part = begin(layout)
    part.try_lock()
    part.append(0, (CONTENT[:500],), DIGEST.hasher())
    part.write_note(note("before", synced))
    if marked:
        part.mark()
    *recovered, found = part.recover("now")
    assert recovered == [kept, False]
    assert found == part.note()
    assert found is not None
    assert (found.boot, found.synced) == ("now", kept)
    assert part.status[:2] == (kept, False)
    part.close()


def test_bytes_that_nobody_vouches_for_are_dropped(layout: Layout) -> None:
    Path(layout.part(DIGEST)).write_bytes(b"whose?")
    part = begin(layout)
    part.try_lock()
    assert part.recover("now") == (0, False, None)
    part.close()
    Path(layout.part_note(DIGEST)).write_bytes(b'{"size": "many"}')
    part = begin(layout)
    assert part.note() is None
    part.close()


def test_bad_content_goes_another_way(layout: Layout) -> None:
    part = begin(layout)
    part.try_lock()
    part.write_note(note("now"))
    bad = part.give_away()
    assert part.moved
    assert Path(bad).exists()
    assert not Path(layout.part_note(DIGEST)).exists()
    part.close()


def test_a_short_file_is_not_rehashed_silently(layout: Layout) -> None:
    part = begin(layout)
    with pytest.raises(Corrupt):
        part.hash_existing(DIGEST.hasher(), 10)
    part.close()


def test_small_content_is_committed_whole(layout: Layout) -> None:
    ingest.store_bytes(layout, DIGEST, CONTENT)
    ingest.store_bytes(layout, DIGEST, CONTENT)
    path = Path(layout.blob(DIGEST))
    assert path.read_bytes() == CONTENT
    assert files.is_sealed(path.stat())
    assert os.listdir(layout.ingest) == []


def test_unsealed_content_is_verified_or_put_away(layout: Layout) -> None:
    away: list[str] = []
    blobs = Blobs(layout, lambda path, why: (away.append(why), os.unlink(path))[0])  # type: ignore[func-returns-value]
    path = Path(layout.blob(DIGEST))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    found = blobs.open(DIGEST)
    assert found is not None
    assert not found.sealed
    blobs.verify(DIGEST, found.fd)
    os.close(found.fd)
    assert files.is_sealed(path.stat())
    path.chmod(0o600)
    path.write_bytes(CONTENT + b"!")
    found = blobs.open(DIGEST)
    assert found is not None
    with pytest.raises(Corrupt):
        blobs.verify(DIGEST, found.fd)
    os.close(found.fd)
    assert len(away) == 1
    assert blobs.open(DIGEST) is None


def test_locks_exclude_within_a_process_too(layout: Layout) -> None:
    one, two = FileLock(layout.lock("x")), FileLock(layout.lock("x"))
    with one:
        assert one.held
        assert not two.try_acquire()
        assert not two.acquire(0.02)
    assert two.acquire(0.02)
    two.release()
    two.release()
    assert not two.held
