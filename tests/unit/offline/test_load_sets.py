"""Load: which generation may come in, what it presumes, and that nothing is complete but what is whole and signed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.errors import ConfigurationError, Corrupt, MirrorError, StoreError
from mirror.oci.digest import Digest
from mirror.offline.digest_lists import dump_missing, inventory, parse_digests
from mirror.offline.load_report import LoadRefused, LoadReport
from mirror.offline.part_layout import How, SavePlan, plan_save
from mirror.offline.plan import Plan
from mirror.offline.saves import Saves
from mirror.store import ingest
from tests.unit.offline.gap_bed import PART, Contents, Site, made_up, never_sync, parts_of


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    never_sync(monkeypatch)


class Gap:
    """Two sides, and three generations of prod, each with some of the one before."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.near = Site(root / "near")
        self.far = Site(root / "far")
        self.plans: dict[int, Plan] = {}
        self.contents: dict[int, Contents] = {}
        kept: Contents = {}
        for number in (1, 2, 3):
            plan, contents = made_up(number, [400, 300_000, 20_000, 100_000], also=kept)
            self.plans[number], self.contents[number] = plan, contents
            self.near.fill(plan, contents, number)
            kept = {one.digest: contents[one.digest] for one in plan.blobs[-3:]}

    def save(self, number: int, to: str, how: How = "all", since: int | None = None, **options: object) -> Path:
        if how == "since":
            before, have = Saves(self.near.layout, "prod").since(number, since)
            options |= {"have": have, "because": f"prod@{before}"}
        planned: SavePlan = plan_save(self.plans[number], number, how=how, part_size=PART, **options)  # type: ignore[arg-type] # of a test
        assert self.near.save(planned, self.root / to).complete
        return self.root / to

    def whole(self, *numbers: int) -> bool:
        """Tell whether exactly these generations are complete on the far side, with all their content."""
        return [str(one) for one in self.far.sets.current()] == [f"prod@{number}" for number in numbers] and all(
            self.far.has_all(self.plans[number], self.contents[number]) for number in numbers
        )


@pytest.fixture
def gap(tmp_path: Path) -> Iterator[Gap]:
    gap = Gap(tmp_path)
    yield gap
    gap.near.close()
    gap.far.close()


def error_of(report: LoadReport) -> MirrorError:
    (one,) = report.loaded
    assert one.error is not None
    assert not one.ready
    return one.error


# -- differences -------------------------------------------------------------------------------------------------


def test_a_difference_holds_only_what_is_new_and_completes_both(gap: Gap) -> None:
    assert gap.far.load(gap.save(1, "first")).ready
    second = gap.save(2, "second", "since")
    third = gap.save(3, "third", "since")
    assert sum(path.stat().st_size for path in parts_of(second)) < sum(gap.plans[2].content.values())
    assert gap.far.load(second).ready
    assert gap.whole(1, 2)
    assert gap.far.load(third).ready
    assert gap.whole(1, 2, 3)


def test_a_difference_by_the_other_sides_inventory(gap: Gap) -> None:
    gap.far.load(gap.save(1, "first"))
    listed = b"".join(inventory(gap.far.layout))
    have = parse_digests(listed, "inventory")
    assert have == gap.far.blobs()
    second = gap.save(2, "second", "have", have=have)
    report = gap.far.load(second)
    assert report.ready
    assert not report.loaded[0].received.keys() & have
    assert gap.whole(1, 2)


def test_several_generations_in_one_folder_are_loaded_in_order(gap: Gap) -> None:
    for number in (1, 2, 3):
        gap.save(number, "disk", "all" if number == 1 else "since")
    report = gap.far.load(gap.root / "disk")
    assert [str(one) for one in report.loaded] == ["prod@1", "prod@2", "prod@3"]
    assert report.ready
    assert gap.whole(1, 2, 3)


def test_a_lost_archive_is_named_before_a_byte_and_a_save_since_the_older_one_repairs_it(gap: Gap) -> None:
    gap.far.load(gap.save(1, "first"))
    gap.save(2, "lost", "since")
    third = gap.save(3, "third", "since")
    before = gap.far.blobs()
    report = gap.far.load(third)
    (one,) = report.loaded
    assert (one.presumed, one.ready, one.error) == (True, False, None)
    assert one.missing == {
        digest: size
        for digest, size in gap.plans[3].content.items()
        if digest in gap.plans[2].content and digest not in gap.plans[1].content
    }
    assert one.missing
    assert "up to prod@2 before" in one.remedy, "the lost archive is named"
    assert "`mirror save prod@3 --since 1`" in one.remedy
    assert gap.far.blobs() == before
    assert gap.far.sets.generations("prod") == [1]
    assert gap.far.load(gap.save(3, "repair", "since", since=1)).ready
    assert gap.whole(1, 3)
    assert (
        gap.far.load(
            gap.save(2, "again", "since", since=1),
        )
        .loaded[0]
        .error
        is not None
    ), "it is older now"
    assert gap.far.load(gap.root / "again", allow_older=True).ready
    assert [str(one) for one in gap.far.sets.current()] == ["prod@1", "prod@3", "prod@2"]


@pytest.mark.parametrize("order", ["repair first", "repair last", "together"])
def test_what_was_presumed_and_missing_is_repaired_by_want(gap: Gap, order: str) -> None:
    gap.far.load(gap.save(1, "first"))
    gap.save(2, "lost", "since")
    third = gap.save(3, "third", "since")
    listed = dump_missing(gap.far.load(third).missing, "prod@3")
    repair = gap.save(3, "repair", "want", wanted=parse_digests(listed, "missing.txt"))
    if order == "together":
        assert gap.far.load(third, repair).ready
    elif order == "repair first":
        early = gap.far.load(repair)
        assert (early.loaded[0].error, early.loaded[0].presumed, early.ready) == (None, False, False)
        assert set(early.missing) == gap.plans[3].content.keys() - gap.far.blobs()
        assert gap.far.load(third).ready
    else:
        shutil.copytree(third, gap.root / "both")
        for path in parts_of(repair):  # a person gave them other names
            shutil.copy(path, gap.root / "both" / f"repair of {path.name}")
        assert gap.far.load(gap.root / "both").ready
    assert gap.whole(1, 3)


def test_pieces_that_wait_do_not_presume(gap: Gap) -> None:
    """A content of which a part brought some is not missing because another save presumes it."""
    first, *rest = parts_of(gap.save(1, "first"))
    assert not gap.far.load(first).ready
    assert gap.far.intake.waiting()
    assert gap.far.load(*rest).ready
    assert gap.whole(1)


# -- which generation may come in --------------------------------------------------------------------------------


def test_an_older_generation_comes_in_only_when_that_is_meant(gap: Gap) -> None:
    gap.far.load(gap.save(2, "second"))
    first = gap.save(1, "first")
    before = gap.far.blobs()
    error = error_of(gap.far.load(first))
    assert isinstance(error, LoadRefused)
    assert "--allow-older" in error.remedy
    assert gap.far.blobs() == before
    assert gap.far.sets.generations("prod") == [2]
    assert gap.far.load(first, allow_older=True).ready
    assert gap.whole(2, 1)
    assert gap.far.load(first).ready, "what is complete is no news"


def test_another_content_under_the_same_number_is_never_mixed_in(gap: Gap) -> None:
    stranger, contents = made_up(77, [400, 50_000])
    other = Site(gap.root / "other")
    other.fill(stranger, contents, 1)
    other.save(plan_save(stranger, 1, part_size=PART), gap.root / "stranger")
    other.close()
    first = gap.save(1, "first")
    both = gap.far.load(first, gap.root / "stranger")
    assert [type(one.error) for one in both.loaded] == [LoadRefused, LoadRefused]
    said = " ".join(str(one.error) for one in both.loaded)
    assert all(str(path) in said for path in parts_of(gap.root / "stranger")), "the files are named"
    assert str(parts_of(first)[0]) in said
    assert gap.far.blobs() == set()
    some = parts_of(first)[0]
    assert not gap.far.load(some).ready
    error = error_of(gap.far.load(gap.root / "stranger"))
    assert isinstance(error, LoadRefused)
    assert "mirror unpin prod@1" in error.remedy
    assert str(parts_of(gap.root / "stranger")[0]) in error.what
    assert not gap.far.blobs() & set(contents)
    mixed = gap.far.load(first, gap.root / "stranger")
    assert [one.ready for one in sorted(mixed.loaded, key=lambda one: one.ready)] == [False, True]
    assert gap.whole(1)
    assert isinstance(error_of(gap.far.load(gap.root / "stranger")), LoadRefused)


def test_only_what_is_expected_is_loaded(gap: Gap) -> None:
    first, second = gap.save(1, "first"), gap.save(2, "second")
    plans = gap.plans
    for wrong in (str(plans[3].digest), f"set prod@2 {plans[1].digest}", f"prod@3 {plans[2].digest}"):
        with pytest.raises(Corrupt, match="expected"):
            gap.far.load(first, second, expect=wrong)
    for odd in ("", "set prod@1", "sha256:x", "yes"):
        with pytest.raises(ConfigurationError):
            gap.far.load(first, expect=odd)
    assert gap.far.blobs() == set()
    report = gap.far.load(first, second, expect=f"set prod@2 {plans[2].digest}\n")
    assert [str(one) for one in report.loaded] == ["prod@2"]
    assert {path.parent for path, _ in report.ignored} == {first}
    assert gap.whole(2)
    assert gap.far.load(second, expect=str(plans[2].digest)).ready


def test_sets_do_not_mix(gap: Gap) -> None:
    lab, contents = made_up(42, [300, 90_000], name="lab")
    gap.near.fill(lab, contents, 1)
    gap.near.save(plan_save(lab, 1, part_size=PART), gap.root / "disk")
    gap.save(1, "disk")
    report = gap.far.load(gap.root / "disk")
    assert report.ready
    assert sorted(gap.far.finished) == ["lab@1", "prod@1"]
    assert gap.far.sets.names() == ["lab", "prod"]


def test_one_that_is_refused_stops_no_other(gap: Gap) -> None:
    gap.far.load(gap.save(2, "second"))
    gap.save(1, "disk")
    gap.save(3, "disk")
    report = gap.far.load(gap.root / "disk")
    assert [(str(one), one.ready) for one in report.loaded] == [("prod@1", False), ("prod@3", True)]
    assert not report.ready
    assert gap.whole(2, 3)


# -- signatures, and the end -----------------------------------------------------------------------------------------


class Unsigned(Corrupt):
    """Stands for what verifying raises."""


def test_signatures_are_asked_for_before_anything_is_written(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gap.save(1, "first")

    def refuse(plan: Plan, signatures: object) -> None:
        raise Unsigned("the release is signed by an unknown key", "look at releases.keyring")

    with monkeypatch.context() as strict:
        strict.setattr(gap.far, "_check_signatures", refuse)
        assert isinstance(error_of(gap.far.load(first)), Unsigned)
    assert gap.far.blobs() == set()
    assert gap.far.sets.names() == []
    assert os.listdir(gap.far.layout.ingest) == []
    assert gap.far.load(first).ready
    release = gap.plans[1].releases[0].digest
    assert list(gap.far.checked[0]) == [release]
    assert len(gap.far.store.signatures.list(release)) == 1


def test_what_cannot_be_finished_is_not_complete_and_can_be_later(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gap.save(1, "first")

    def fail(plan: Plan, generation: int) -> None:
        raise StoreError("the store's disk is read-only")

    with monkeypatch.context() as broken:
        broken.setattr(gap.far, "_finish", fail)
        report = gap.far.load(first)
        assert isinstance(error_of(report), StoreError)
        assert report.loaded[0].missing == {}
    assert gap.far.sets.current() == ()
    report = gap.far.load(first)
    assert report.ready
    assert report.loaded[0].received == {}, "the content had come"
    assert gap.whole(1)


def test_content_that_another_set_brought_is_not_brought_again(gap: Gap) -> None:
    for digest, raw in gap.contents[1].items():
        if digest in gap.plans[1].content:
            ingest.store_bytes(gap.far.layout, digest, raw)
    report = gap.far.load(gap.save(1, "first"))
    assert report.ready
    assert report.loaded[0].received == {}
    assert gap.far.finished == ["prod@1"]


def test_a_complete_set_that_lost_something_is_mended(gap: Gap) -> None:
    first = gap.save(1, "first")
    gap.far.load(first)
    gone = gap.plans[1].blobs[0].digest
    os.unlink(gap.far.layout.blob(gone))
    rotten: Digest = gap.plans[1].blobs[1].digest
    path = Path(gap.far.layout.blob(rotten))
    path.chmod(0o600)
    path.write_bytes(b"!" + path.read_bytes()[1:])
    report = gap.far.load(first)
    assert report.ready
    assert report.loaded[0].before
    assert report.loaded[0].received.keys() == {gone, rotten}
    assert gap.far.has_all(gap.plans[1], gap.contents[1])
