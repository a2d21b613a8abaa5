"""What was pushed lately, read by whoever counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.store import ledger
from mirror.store.layout import Layout
from mirror.store.ledger import Ledger, Place


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "run").mkdir()
    return Layout(tmp_path)


def test_what_one_writes_another_reads_from_where_it_was(layout: Layout) -> None:
    one, other = Ledger(layout), Ledger(layout)
    start = other.end()
    assert other.since(start) == ([], start)
    one.add("team/app", 5)
    other.add("team/lib", 7)
    found = other.since(start)
    assert found is not None
    lines, place = found
    assert lines == [("team/app", 5), ("team/lib", 7)]
    assert place == one.end()
    one.add("team/app", -5)
    assert other.since(place) == ([("team/app", -5)], one.end())


def test_a_line_that_is_being_written_is_read_when_it_is_whole(layout: Layout) -> None:
    book = Ledger(layout)
    book.add("a", 1)
    with (layout.run / "pushed").open("ab") as file:
        file.write(b"12 team/")
    found = book.since(Place(0, 0))
    assert found is not None
    lines, place = found
    assert lines == [("a", 1)]
    with (layout.run / "pushed").open("ab") as file:
        file.write(b"app\n")
    assert book.since(place) == ([("team/app", 12)], book.end())


def test_one_that_became_long_is_begun_anew_and_whoever_reads_is_told(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_LONGEST", 40)
    book = Ledger(layout)
    book.add("team/app", 1)
    found = book.since(Place(0, 0))
    assert found is not None
    _, place = found
    for number in range(4):
        book.add("team/app", number)
    assert book.since(place) is None
    assert book.end().offset <= 40


def test_what_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    book = Ledger(Layout(tmp_path / "gone"))
    book.add("team/app", 1)
    assert book.end() == Place(0, 0)
    assert book.since(Place(0, 0)) == ([], Place(0, 0))
