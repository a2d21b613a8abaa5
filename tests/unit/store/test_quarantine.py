"""Bad content leaves by a rename, its note says why, and what is kept is bounded."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from mirror.store import quarantine as quarantine_module
from mirror.store.layout import Layout
from mirror.store.quarantine import Quarantine
from tests.tools import mounts


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    made.quarantine.mkdir()
    return made


def bad(layout: Layout, name: str = "bad", size: int = 10) -> Path:
    path = layout.root / name
    path.write_bytes(os.urandom(size))
    return path


def notes(layout: Layout) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(layout.quarantine.glob("*.json"))]


def contents(layout: Layout) -> list[str]:
    return sorted(path.name[21:] for path in layout.quarantine.iterdir() if path.suffix != ".json")


def test_content_and_why_are_kept(layout: Layout) -> None:
    path = bad(layout)
    inode, content = path.stat().st_ino, path.read_bytes()
    assert Quarantine(layout).take(path, "hashes to something else", digest="sha256:00")
    assert not path.exists()
    (note,) = notes(layout)
    assert note["why"] == "hashes to something else"
    assert (note["name"], note["size"], note["kept"], note["digest"]) == ("bad", 10, True, "sha256:00")
    (kept,) = (path for path in layout.quarantine.iterdir() if path.suffix != ".json")
    assert (kept.stat().st_ino, kept.read_bytes()) == (inode, content)
    assert Quarantine(layout).held() == (1, 10)


def test_a_name_as_text_and_one_that_is_not_there(layout: Layout) -> None:
    assert Quarantine(layout).take(str(bad(layout)), "x")
    assert Quarantine(layout).take(str(layout.root / "missing"), "x")
    assert len(notes(layout)) == 1


def test_oldest_go_when_there_are_too_many(layout: Layout) -> None:
    quarantine = Quarantine(layout, count=3)
    for number in range(6):
        quarantine.take(bad(layout, f"bad{number}"), "x")
    assert contents(layout) == ["bad3", "bad4", "bad5"]
    assert [note["name"] for note in notes(layout)] == ["bad3", "bad4", "bad5"]


def test_oldest_go_when_they_are_too_large_together(layout: Layout) -> None:
    quarantine = Quarantine(layout, size=25)
    for number in range(4):
        quarantine.take(bad(layout, f"bad{number}"), "x")
    assert contents(layout) == ["bad2", "bad3"]
    assert quarantine.held() == (2, 20)


def test_of_what_is_too_large_only_the_note_stays(layout: Layout) -> None:
    quarantine = Quarantine(layout, size=25)
    quarantine.take(bad(layout, "small"), "x")
    path = bad(layout, "large", size=26)
    assert quarantine.take(path, "too large to keep")
    assert not path.exists()
    assert contents(layout) == ["small"]
    assert [(note["name"], note["kept"], note["size"]) for note in notes(layout)] == [
        ("small", True, 10),
        ("large", False, 26),
    ]


def test_a_folder_goes_whole_and_is_deleted_whole(layout: Layout) -> None:
    quarantine = Quarantine(layout, count=1)
    folder = layout.root / "index"
    folder.mkdir()
    (folder / "cache.db").write_bytes(bytes(30))
    assert quarantine.take(folder, "no database")
    assert contents(layout) == ["index"]
    assert quarantine.held() == (1, 30)
    quarantine.take(bad(layout), "x")
    assert contents(layout) == ["bad"]


def test_a_symbolic_link_is_moved_and_not_followed(layout: Layout) -> None:
    target = bad(layout, "target")
    link = layout.root / "link"
    link.symlink_to(target)
    assert Quarantine(layout, count=1).take(link, "a link")
    assert target.exists()
    Quarantine(layout, count=1).take(bad(layout), "x")
    assert contents(layout) == ["bad"]
    assert target.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EXDEV, errno.EIO])
def test_what_cannot_be_moved_is_deleted(layout: Layout, monkeypatch, code: int) -> None:
    def refuse(*_paths):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(quarantine_module.os, "rename", refuse)
    path = bad(layout)
    assert Quarantine(layout).take(path, "x")
    assert not path.exists()
    assert notes(layout)[0]["kept"] is False


def test_without_its_folder_bad_content_still_leaves(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    path = bad(layout)
    assert Quarantine(layout).take(path, "x")
    assert not path.exists()
    assert Quarantine(layout).held() == (0, 0)


def take_on_read_only(root: Path) -> None:
    layout = Layout(root)
    assert Quarantine(layout).take(root / "bad", "x") is False
    assert (root / "bad").exists()


def test_on_a_read_only_file_system_it_says_that_it_is_still_there(layout: Layout) -> None:
    bad(layout)
    mounts.read_only(take_on_read_only, layout.root)


def take_on_full(root: Path) -> None:
    layout = Layout(root)
    layout.quarantine.mkdir()
    path = bad(layout, size=5000)
    with (root / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert Quarantine(layout).take(path, "x")
    assert not path.exists()


def test_on_a_full_file_system_nothing_is_raised(tmp_path: Path) -> None:
    mounts.on_small_disk(take_on_full, tmp_path, "1m")
