"""Locks between processes: what happens when their folder is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mirror.store.layout import Layout
from mirror.store.lock import FileLock


def test_a_removed_run_folder_is_made_again(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "run" / "store")
    layout.root.mkdir(parents=True)
    with FileLock(layout.lock("space")):
        shutil.rmtree(layout.root / "run")
        other = FileLock(layout.lock("space"))
        assert other.try_acquire()
        other.release()


def test_no_store_comes_up_in_place_of_one_that_is_gone(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "run" / "store")
    layout.root.parent.mkdir()
    for path in (layout.lock("space"), layout.housekeeping_lock):
        with pytest.raises(FileNotFoundError):
            FileLock(path).try_acquire()
    assert not layout.root.exists()
