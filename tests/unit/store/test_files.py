"""Seals, atomic writes, and the page cache's word."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mirror.errors import StoreUnreadable
from mirror.store import files


def sealed_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(files.SEALED_MODE)
    os.utime(path, (0, files.seal_time(len(content))))


@pytest.mark.parametrize("size", [0, 1, 999_999_999, 1_000_000_000, 1_000_000_001, 53_687_091_200])
def test_the_seal_is_whole_seconds_from_the_size(size: int) -> None:
    assert files.seal_time(size) == 1_000_000_000 + size % 1_000_000_000


def test_mode_and_mtime_make_a_seal(tmp_path: Path) -> None:
    path = tmp_path / "x"
    sealed_file(path, b"12345")
    assert files.is_sealed(os.stat(path))
    for spoil in (
        lambda: path.chmod(0o640),
        lambda: os.utime(path, ns=(0, files.seal_time(5) * 10**9 + 1)),
        lambda: os.utime(path, (0, files.seal_time(6))),
    ):
        sealed_file(path, b"12345") if os.access(path, os.W_OK) else None
        path.chmod(0o600)
        sealed_file(path, b"12345")
        spoil()
        assert not files.is_sealed(os.stat(path))
    path.chmod(0o600)
    sealed_file(path, b"12345")
    os.truncate(path, 4)
    assert not files.is_sealed(os.stat(path)), "a truncated file loses its seal with its mtime"


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StoreUnreadable) as caught:
        files.open_content(str(tmp_path / "link"))
    assert caught.value.number == errno.ELOOP
    assert files.open_content(str(tmp_path / "absent")) is None
    assert files.open_content(str(tmp_path / "real" / "below")) is None
    assert files.modified(str(tmp_path / "absent")) is None


def test_small_files_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert files.read_small(str(path), 5) == b"12345"
    assert files.read_small(str(tmp_path / "absent"), 5) is None
    with pytest.raises(OSError) as caught:
        files.read_small(str(path), 4)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize("durable", [True, False])
def test_a_write_is_whole_or_not_at_all(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a" / "b" / "x"
    files.write_atomically(str(path), b"one", durable=durable)
    before = files.modified(str(path))
    files.write_atomically(str(path), b"two", durable=durable)
    assert path.read_bytes() == b"two"
    assert files.modified(str(path)) != before
    assert os.listdir(path.parent) == ["x"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    (tmp_path / "a" / "b" / "folder").mkdir()
    with pytest.raises(OSError):
        files.write_atomically(str(tmp_path / "a" / "b" / "folder"), b"x", durable=durable)
    assert sorted(os.listdir(path.parent)) == ["folder", "x"], "what failed leaves nothing behind"


def test_the_page_cache_is_asked_and_filled(tmp_path: Path) -> None:
    path = tmp_path / "x"
    size = 3 * 1024 * 1024
    with path.open("wb") as target:
        target.write(os.urandom(size))
        target.flush()
        os.fsync(target.fileno())
        os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    fd = files.open_content(str(path))
    assert fd is not None
    try:
        cache = files.PageCache()
        if cache.resident(fd, 0, size):
            pytest.skip("this kernel keeps what it was told to drop")
        files.read_ahead(fd, 0, size)
        assert cache.resident(fd, 0, size) or not cache._probes
        assert cache.resident(fd, 0, 0) or not cache._probes
    finally:
        os.close(fd)


def test_a_file_system_that_cannot_say_is_asked_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*arguments: object) -> int:
        asked.append(arguments)
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "preadv", refuse)
    cache = files.PageCache()
    assert not cache.resident(0, 0, 10)
    assert not cache.resident(0, 0, 10)
    assert len(asked) == 1


def test_hashing_takes_just_the_range(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    fd = files.open_content(str(path))
    assert fd is not None
    got = bytearray()
    try:
        assert files.hash_file(fd, got.extend, 2, 5) == 3
        assert files.hash_file(fd, got.extend, 8) == 2
    finally:
        os.close(fd)
    assert got == b"23489"
