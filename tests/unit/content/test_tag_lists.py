"""Lists of tags from the store: read once for many pages, by whoever asks, and never older than the question."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.content import tag_lists
from mirror.content.tag_lists import TagLists
from mirror.oci.digest import Digest
from mirror.oci.reference import is_tag
from mirror.store import files, tags
from mirror.store.layout import Layout
from mirror.store.tags import Listing, TagRecord, Tags
from mirror.store.threads import Threads

NAME = "team/app"
RECORD = TagRecord(Digest.of(b"x"), "", 0.0)
MOVED = TagRecord(Digest.of(b"y"), "", 0.0)


@pytest.fixture
def stored(tmp_path: Path) -> Tags:
    return Tags(Layout(tmp_path))


@pytest.fixture
def lists(stored: Tags) -> Iterator[TagLists]:
    threads = Threads("read", 2)
    yield TagLists(stored, threads)
    threads.close()


def push(stored: Tags, *names: str, record: TagRecord = RECORD) -> None:
    for name in names:
        stored.write(NAME, name, record, durable=False)


def folder(stored: Tags) -> Path:
    return stored._layout.tags(NAME)


def settle(stored: Tags) -> None:
    """Let the last change lie so far back that the clock tells it from the next one."""
    now = time.time_ns() - 10 * files.TICK
    os.utime(folder(stored), ns=(now, now))


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the folders that were listed."""
    found: list[str] = []
    real = files.names
    monkeypatch.setattr(files, "names", lambda path: found.append(str(path)) or real(path))
    return found


async def test_a_list_that_has_not_changed_is_read_once(stored: Tags, lists: TagLists, listed: list[str]) -> None:
    push(stored, "b", "a", "c")
    settle(stored)
    for _ in range(20):
        assert await lists.get(NAME) == ["a", "b", "c"]
    assert len(listed) == 1


async def test_one_that_has_just_changed_is_not_believed(stored: Tags, lists: TagLists) -> None:
    """Within a tick of the clock the next change leaves the same time."""
    push(stored, "a")
    now = time.time_ns()
    os.utime(folder(stored), ns=(now, now))
    assert await lists.get(NAME) == ["a"]
    push(stored, "b")
    os.utime(folder(stored), ns=(now, now))
    assert await lists.get(NAME) == ["a", "b"]


def replaced(stored: Tags) -> None:
    place, (_, mtime, _) = folder(stored), stored.stamp(NAME) or (0, 0, 0)
    place.rename(place.with_name("_away"))
    push(stored, "other")
    os.utime(place, ns=(mtime, mtime))


@pytest.mark.parametrize("few", [1000, 0], ids=["amended", "anew"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda stored: push(stored, "aa", "z"), ["a", "aa", "b", "c", "z"], id="came"),
        pytest.param(lambda stored: stored.remove(NAME, "b"), ["a", "c"], id="went"),
        pytest.param(lambda stored: push(stored, "b", record=MOVED), ["a", "b", "c"], id="moved"),
        pytest.param(lambda stored: (folder(stored) / "d.1-0a~").touch(), ["a", "b", "c"], id="being-written"),
        pytest.param(lambda stored: (folder(stored) / ".d").touch(), ["a", "b", "c"], id="no-tag"),
        pytest.param(lambda stored: [stored.remove(NAME, tag) for tag in "abc"], [], id="all-went"),
        pytest.param(replaced, ["other"], id="another-folder-of-the-same-time"),
        pytest.param(lambda stored: folder(stored).rename(folder(stored).with_name("_away")), [], id="no-folder"),
    ],
)
async def test_what_another_process_changes_is_seen_at_once(
    stored: Tags,
    lists: TagLists,
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    change: Callable[[Tags], object],
    expected: list[str],
) -> None:
    monkeypatch.setattr(tags, "_FEW", few)
    push(stored, "a", "b", "c")
    settle(stored)
    assert await lists.get(NAME) == ["a", "b", "c"]
    change(Tags(stored._layout))
    assert await lists.get(NAME) == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sets(
            st.sampled_from(
                ["a", "B", "a.b", "a-b", "_", "v1", "v10", "v9", "x~", ".x", "-x", "é", "l" * 128, "l" * 129]
            )
        ),
        max_size=6,
    )
)
def test_a_list_that_is_amended_is_the_one_that_is_read_anew(states: list[set[str]]) -> None:
    with TemporaryDirectory() as place:
        stored = Tags(Layout(Path(place)))
        folder(stored).mkdir(parents=True)
        known: Listing | None = None
        for state in states:
            for name in os.listdir(folder(stored)):
                (folder(stored) / name).unlink()
            for name in state:
                (folder(stored) / name).touch()
            known = stored.listing(NAME, known)
            assert known.tags == stored.list(NAME) == sorted(filter(is_tag, state))


async def test_what_sets_hold_is_listed_too_and_taken_anew_when_it_is(stored: Tags, lists: TagLists) -> None:
    push(stored, "b", "c")
    settle(stored)
    assert await lists.get(NAME, ["a", "b"]) == ["a", "b", "c"]
    assert await lists.get(NAME, ["d"]) == ["b", "c", "d"]
    assert await lists.get(NAME) == ["b", "c"]


async def test_who_joins_a_reading_gets_what_was_pushed_before_the_question(
    stored: Tags, lists: TagLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(stored, "a")
    began, go_on, real, count = threading.Event(), threading.Event(), stored.listing, 0

    def listing(name: str, before: Listing | None = None) -> Listing:
        nonlocal count
        count += 1
        found = real(name, before)
        began.set()
        go_on.wait(30)
        return found

    monkeypatch.setattr(stored, "listing", listing)
    first = asyncio.create_task(lists.get(NAME))
    await asyncio.to_thread(began.wait, 30)
    push(stored, "b")
    later = [asyncio.create_task(lists.get(NAME)) for _ in range(5)]
    await asyncio.sleep(0)
    go_on.set()
    assert await first == ["a"]
    assert await asyncio.gather(*later) == [["a", "b"]] * 5
    assert count == 2  # one reading for all five


async def test_what_is_remembered_is_bounded_by_tags(
    stored: Tags, lists: TagLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag_lists, "_MOST", 10)
    for number in range(8):
        for tag in range(3):
            stored.write(f"team/app{number}", f"v{tag}", RECORD, durable=False)
        assert len(await lists.get(f"team/app{number}")) == 3
        assert lists._count == sum(len(one.tags) for one in lists._known.values()) <= 10
    push(stored, *(f"v{number}" for number in range(11)))
    assert len(await lists.get(NAME)) == 11
    assert NAME not in lists._known
