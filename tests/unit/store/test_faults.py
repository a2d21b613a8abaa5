"""The ledger of faults: what is in the place of a file, what mends it, and when it counts as over."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest

from mirror.errors import StoreUnreadable
from mirror.store import files
from mirror.store.faults import DISK_FAULTS, Faults
from tests.tools import mounts


def link(path: Path) -> None:
    real = path.with_name("real")
    real.write_bytes(b"content")
    path.symlink_to(real)


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, chdir(path.parent):
        listener.bind(path.name)


MISPLACED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a symbolic link": (link, "ELOOP"),
    "a folder": (Path.mkdir, "EISDIR"),
    "a pipe": (os.mkfifo, "ESPIPE"),
    "a socket": (listen, "ENXIO"),
}


def read_record(path: str) -> object:
    return files.read_small(path, 100)


def read_content(path: str) -> object:
    fd = files.open_content(path)
    assert fd is not None
    try:
        return files.status(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", MISPLACED)
@pytest.mark.parametrize("read", [read_record, read_content])
def test_what_is_in_the_place_of_a_file_is_said_until_it_is_moved_away(
    tmp_path: Path, kind: str, read: Callable[[str], object]
) -> None:
    """Opening it may work, and is no cure: only a file that can be read is."""
    path = tmp_path / "x"
    make, name = MISPLACED[kind]
    make(path)
    with pytest.raises(StoreUnreadable) as caught:
        read(str(path))
    assert caught.value.number == getattr(errno, name)
    assert f"{kind} is in its place" in caught.value.what
    for word in ("away by hand", "scrub"):
        assert word in caught.value.remedy
    for word in ("dmesg", "mount", "remove"):
        assert word not in caught.value.remedy
    for _ in range(3):
        DISK_FAULTS.retry()
        (row,) = DISK_FAULTS.told()
        assert (row["operation"], row["errno"], row["path"]) == ("read", name, str(path))
        assert (row["error"], row["remedy"]) == (f"{kind} is in its place", caught.value.remedy)
    path.rename(tmp_path / "away")
    path.write_bytes(b"content")
    DISK_FAULTS.retry()
    assert not DISK_FAULTS


def test_a_folder_that_is_meant_is_not_in_the_way(tmp_path: Path) -> None:
    faults = Faults()
    faults.note("read", str(tmp_path), OSError(errno.EIO, "x"))
    assert "dmesg" in faults.told()[0]["remedy"]
    faults.retry()
    assert not faults


def test_a_file_in_the_place_of_a_folder_is_no_cure(tmp_path: Path) -> None:
    faults = Faults()
    faults.note("read", str(tmp_path / "blobs"), OSError(errno.ENOENT, "x"))
    (tmp_path / "blobs").touch()
    faults.retry()
    assert faults
    (tmp_path / "blobs").unlink()
    (tmp_path / "blobs").mkdir()
    faults.retry()
    assert not faults


def test_a_folder_that_a_write_meets_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        files.write_atomically(str(tmp_path / "x"), b"content", durable=True)
    DISK_FAULTS.retry()
    (row,) = DISK_FAULTS.told()
    assert (row["operation"], row["error"]) == ("write", "a folder is in its place")
    assert "by hand" in row["remedy"]
    (tmp_path / "x").rename(tmp_path / "away")
    DISK_FAULTS.retry()
    assert not DISK_FAULTS


def _writes_what_is_not_there_yet(root: Path) -> None:
    for path in (root / "repositories" / "app" / "_blobs" / "x", root / "blobs" / "x"):
        with pytest.raises(OSError, match="Read-only"):
            files.write_atomically(str(path), b"content", durable=True)
    before = DISK_FAULTS.told()
    assert before
    DISK_FAULTS.retry()
    assert DISK_FAULTS.told() == before


def test_a_read_only_file_system_does_not_work_where_a_folder_is_still_to_be_made(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    mounts.read_only(_writes_what_is_not_there_yet, tmp_path)


def test_reading_is_tried_again_where_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"content")
    ill = True
    pread = os.pread

    def fails(fd: int, size: int, position: int) -> bytes:
        if ill and position == 4:
            raise OSError(errno.EIO, "x")
        return pread(fd, size, position)

    monkeypatch.setattr(os, "pread", fails)
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(StoreUnreadable):
            files.read_bytes(fd, 4, 7)
    finally:
        os.close(fd)
    DISK_FAULTS.retry()
    assert DISK_FAULTS
    ill = False
    DISK_FAULTS.retry()
    assert not DISK_FAULTS


def test_one_row_for_what_has_the_same_remedy(tmp_path: Path) -> None:
    """ENXIO of a disk that went away, and of a socket, are two things to do."""
    faults = Faults()
    listen(tmp_path / "socket")
    (tmp_path / "file").touch()
    for name in ("socket", "file"):
        faults.note("read", str(tmp_path / name), OSError(errno.ENXIO, "x"))
    remedies = {Path(row["path"]).name: row["remedy"] for row in faults.told()}
    assert "by hand" in remedies["socket"]
    assert "mount" in remedies["file"]
