"""Image sets in the store: what is complete is said in one file, by one rename."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from mirror.store.probe import prepare
from mirror.store.sets import Sets

PLAN = b'{"manifests": [], "blobs": []}'


@pytest.fixture
def sets(tmp_path: Path) -> Sets:
    layout = Layout(tmp_path / "store")
    prepare(layout)
    return Sets(layout)


def complete(sets: Sets, *wanted: tuple[str, int]) -> None:
    for name, number in wanted:
        sets.write(name, number, PLAN)
        sets.complete(name, number, Digest.of(PLAN), "synced")


def test_an_empty_store_has_none(sets: Sets) -> None:
    assert (sets.names(), sets.current(), sets.modified(), sets.newest("prod")) == ([], (), None, None)


def test_generations_are_complete_in_the_order_of_completion(sets: Sets) -> None:
    complete(sets, ("prod", 2), ("lab", 1), ("prod", 10))
    sets.write("prod", 11, PLAN)
    assert [str(one) for one in sets.current()] == ["prod@2", "lab@1", "prod@10"]
    assert sets.generations("prod") == [2, 10, 11]
    assert str(sets.newest("prod")) == "prod@10"
    complete(sets, ("prod", 2))
    assert [str(one) for one in sets.current()] == ["lab@1", "prod@10", "prod@2"]
    assert str(sets.newest("prod")) == "prod@10"


def test_completing_changes_what_readers_look_at(sets: Sets) -> None:
    complete(sets, ("prod", 1))
    before = sets.modified()
    complete(sets, ("prod", 2))
    assert sets.modified() != before


def test_giving_up_takes_a_generation_from_both(sets: Sets) -> None:
    complete(sets, ("prod", 1), ("prod", 2))
    sets.set_source("prod", Path("/etc/mirror/sets/prod.yaml"))
    assert sets.remove("prod", 1)
    assert not sets.remove("prod", 1)
    assert [str(one) for one in sets.current()] == ["prod@2"]
    assert sets.source("prod") == "/etc/mirror/sets/prod.yaml"
    sets.remove("prod", 2)
    assert (sets.names(), sets.source("prod")) == ([], "")


def test_at_once_nothing_is_lost(sets: Sets) -> None:
    threads = [threading.Thread(target=complete, args=(sets, (f"set{number}", 1))) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.set for one in sets.current()) == sorted(f"set{number}" for number in range(12))


@pytest.mark.parametrize("content", [b"", b"{", b'{"complete": [{}]}', b'{"complete": [{"set": "../x"}]}'])
def test_a_damaged_list_is_an_error_and_never_an_empty_one(sets: Sets, content: bytes, tmp_path: Path) -> None:
    complete(sets, ("prod", 1))
    (tmp_path / "store/sets/current").write_bytes(content)
    with pytest.raises(StoreError, match="sets/current"):
        sets.current()
    with pytest.raises(StoreError, match="sets/current"):
        sets.complete("prod", 2, Digest.of(PLAN), "synced")


def test_a_set_is_worked_on_by_one(sets: Sets) -> None:
    lock = sets.try_busy("prod")
    assert lock is not None
    assert sets.try_busy("prod") is None
    assert sets.try_busy("lab") is not None
    lock.release()
    assert sets.try_busy("prod") is not None


def test_strays_are_no_generations(sets: Sets, tmp_path: Path) -> None:
    complete(sets, ("prod", 1))
    folder = tmp_path / "store/sets"
    for stray in ("prod/01.json", "prod/x.json", "prod/2.json.1-a~", "..x", "note"):
        path = folder / stray
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    os.mkdir(folder / "empty")
    assert (sets.names(), sets.generations("prod")) == (["prod"], [1])
