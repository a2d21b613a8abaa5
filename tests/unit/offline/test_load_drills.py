"""Drills: a bit flipped anywhere in a part, and a load killed before any of its steps."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirror.offline import part
from tests.faults.invariants import sealed_files_hash_to_their_names
from tests.unit.offline.gap_bed import KIB, Crossing, damages, made_up, never_sync, parts_of, places


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    never_sync(monkeypatch)


@pytest.fixture
def gap(tmp_path: Path) -> Iterator[Crossing]:
    gap = Crossing(tmp_path)
    yield gap
    for site in gap.sites:
        site.close()


def test_a_flipped_bit_anywhere(gap: Crossing) -> None:
    chance = random.Random(3)
    tried = 0
    victims = gap.parts()
    for victim, thorough in ((victims[0], True), (victims[2], False)):
        raw = victim.read_bytes()
        for what, first, size in list(places(victim)):
            for offset in {chance.randrange(size), size - 1} if thorough else {chance.randrange(size)}:
                site = gap.site()
                flipped = bytearray(raw)
                flipped[first + offset] ^= 1 << chance.randrange(8)
                victim.write_bytes(flipped)
                report = site.load(gap.disk)
                tried += 1
                assert victim in {damage.path for damage in report.damaged}, (what, offset)
                assert {damage.path for damage in report.damaged} == {victim}, (what, offset)
                held = part.piece(what.removeprefix("header of "))
                if held is not None:
                    assert damages(report) == [(victim.name, what.removeprefix("header of "))]
                    assert set(report.missing) == {held.digest}
                elif (
                    what.startswith("after ")
                    or what == "end"
                    or "signature" in what
                    or part.CONTENTS in what
                    or part.PLAN in what
                ):
                    assert report.ready, (what, offset)
                assert sealed_files_hash_to_their_names(site.layout) == []
                victim.write_bytes(raw)
                if not report.ready:
                    assert site.load(victim).ready, (what, offset)
                assert gap.whole(site)
                site.close()
                gap.sites.remove(site)
                shutil.rmtree(site.layout.root)
    assert tried > 40


STEPS = ("pwrite", "fdatasync", "fsync", "ftruncate", "rename", "unlink", "fchmod", "mkdir")


def killed_at(number: int, work: Callable[[], object]) -> bool:
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

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    try:
        work()
    finally:
        os._exit(0)


def test_a_kill_before_any_step(gap: Crossing) -> None:
    plan, contents = made_up(8, [300, 150_000])
    gap.near.fill(plan, contents, 4)
    gap.save(plan, 4, gap.root / "small", part_size=100 * KIB)
    assert len(parts_of(gap.root / "small")) >= 2
    for number in itertools.count(1):
        site = gap.site()
        died = killed_at(number, lambda site=site: site.load(gap.root / "small"))  # type: ignore[misc] # bound now
        assert sealed_files_hash_to_their_names(site.layout) == []
        complete = [str(one) for one in site.sets.current()]
        assert all(site.store.has(digest, size) for digest, size in plan.content.items()) or complete == []
        report = site.load(gap.root / "small")
        assert report.ready, f"after a kill before step {number}"
        assert site.has_all(plan, contents), f"after a kill before step {number}"
        assert [str(one) for one in site.sets.current()] == ["prod@4"]
        assert site.space.promised() == 0
        site.close()
        gap.sites.remove(site)
        shutil.rmtree(site.layout.root)
        if not died:
            break
    assert number > 40
