"""Bringing: each content once and verified, a full disk stops it, and the store's owner needs no rights outside."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.errors import StoreFull
from mirror.oci.digest import Digest
from mirror.offline import foreign
from mirror.outside import Handed, run_as_owner
from tests.unit.offline import foreign_bed as bed
from tests.unit.offline.foreign_bed import Bench

NAME = "quay.io/ns/app"
OWNER = 12345


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "store")
    yield made
    made.close()


class Recorded:
    """An intake that notes what it is asked for, in which order, and may fail."""

    def __init__(self, bench: Bench, full_after: int | None = None) -> None:
        self._intake = bench.intake
        self._full_after = full_after
        self._lock = threading.Lock()
        self.received: list[Digest] = []
        self.at_once = self.most_at_once = 0

    def has(self, digest, size):
        return self._intake.has(digest, size)

    def receive(self, digest, size, read):
        with self._lock:
            self.received.append(digest)
            if self._full_after is not None and len(self.received) > self._full_after:
                raise StoreFull("there is no room")
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self._intake.receive(digest, size, read)
        finally:
            with self._lock:
                self.at_once -= 1


def surveyed(bench: Bench, path: Path) -> tuple[foreign.Foreign, foreign.Survey]:
    archive = bench.open(path)
    return archive, bench.survey(archive)


def storage(tmp_path: Path, count: int) -> tuple[Path, list]:
    apps = [bed.app(f"app {number}") for number in range(count)]
    listed = [(app, f"v{number}") for number, app in enumerate(apps)]
    return bed.pack(tmp_path / "mirror_000001.tar", bed.storage({NAME: listed, "quay.io/ns/again": listed})), apps


def test_what_images_share_is_brought_once_and_manifests_last(bench, tmp_path):
    path, apps = storage(tmp_path, 10)
    archive, survey = surveyed(bench, path)
    intake, read = Recorded(bench), []
    lock = threading.Lock()

    def progress(count):
        with lock:
            read.append(count)

    brought = foreign.bring(survey, intake, progress=progress)
    archive.close()
    assert len(intake.received) == len(set(intake.received)) == len(bed.contents(*apps)) == brought.contents
    assert {str(digest) for digest in intake.received[-10:]} == {app.digest for app in apps}
    assert sum(read) == brought.size == sum(map(len, bed.contents(*apps).values()))
    assert intake.most_at_once <= 4
    assert bench.holds(*apps)


def test_one_worker_reads_an_archive_from_its_beginning_to_its_end(bench, tmp_path):
    path, _ = storage(tmp_path, 10)
    archive, survey = surveyed(bench, path)
    intake = Recorded(bench)
    foreign.bring(survey, intake, workers=1)
    blobs = [archive.place(digest).order for digest in intake.received[:-10]]
    archive.close()
    assert blobs == sorted(blobs)


def test_a_full_store_stops_it_and_a_rerun_goes_on(bench, tmp_path):
    path, apps = storage(tmp_path, 20)
    archive, survey = surveyed(bench, path)
    intake = Recorded(bench, full_after=5)
    with pytest.raises(StoreFull):
        foreign.bring(survey, intake)
    assert len(intake.received) <= 5 + 4 * 4 + 4
    here = sum(bench.here(Digest.parse(digest)) is not None for digest in bed.contents(*apps))
    assert here == 5
    brought = foreign.bring(survey, bench.intake)
    archive.close()
    assert brought.contents == len(bed.contents(*apps)) - 5
    assert bench.holds(*apps)
    assert os.listdir(bench.layout.ingest) == []


def test_needed_is_what_is_not_here(bench, tmp_path):
    path, apps = storage(tmp_path, 3)
    archive, survey = surveyed(bench, path)
    sizes = {digest: len(body) for digest, body in bed.contents(*apps).items()}
    assert survey.needed(bench.intake.has) == sum(sizes.values())
    layer = apps[0].blobs[1]
    position = iter([layer.body, b""])
    bench.intake.receive(Digest.parse(layer.digest), len(layer.body), lambda _: next(position))
    assert survey.needed(bench.intake.has) == sum(sizes.values()) - len(layer.body)
    archive.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the owner of a store")
@pytest.mark.parametrize("form", ["archive", "folder"])
def test_roots_archive_comes_into_the_store_of_another(form):
    """The archive is readable for root alone, the store belongs to somebody else, and both stay as they are."""
    image = bed.many()
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        place.chmod(0o755)
        (place / "secret").mkdir(mode=0o700)
        files = bed.oci_layout(image)
        path = place / "secret" / "image"
        if form == "archive":
            bed.pack(path, files).chmod(0o600)
        else:
            bed.lay(path, files)
        (place / "store").mkdir(mode=0o700)
        os.chown(place / "store", OWNER, OWNER)

        def work(outside) -> int:
            assert isinstance(outside, Handed)
            bench = Bench(place / "store")
            archive = foreign.recognise([path], outside)
            assert archive is not None
            survey = bench.survey(archive, f"{NAME}@{image.digest}")
            brought = foreign.bring(survey, bench.intake)
            archive.close()
            bench.close()
            return 0 if brought.contents == len(bed.contents(image)) and bench.holds(image) else 1

        assert run_as_owner(place / "store", work) == 0
        written = list((place / "store").rglob("*"))
        assert {entry.stat().st_uid for entry in written} == {OWNER}
