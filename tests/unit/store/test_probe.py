"""A store is made once, belongs to one user, and is refused where the file system would betray it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from mirror.errors import StoreUnreadable, StoreUnusable
from mirror.store import files, probe
from mirror.store.faults import DISK_FAULTS
from mirror.store.layout import Layout
from mirror.store.mounts import Mount, file_system_type, find_mount
from mirror.store.probe import FORMAT, prepare
from tests.tools import mounts


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "deep" / "store")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_makes_the_tree_for_the_owner_alone(layout: Layout) -> None:
    assert prepare(layout) == ()
    assert json.loads(layout.format.read_bytes()) == {"format": 1}
    assert mode(layout.root) == 0o700
    for folder in (layout.blobs, layout.ingest, layout.repositories, layout.sets, layout.uploads, layout.run):
        assert mode(folder) == 0o700
    for folder in (layout.locks, layout.index, layout.quarantine):
        assert mode(folder) == 0o700
    left = {path.name for path in layout.run.iterdir()}
    assert left == {"locks", "housekeeping.lock", "marked"}, "no trace of the probe"


def test_doing_it_again_changes_nothing_but_loose_modes(layout: Layout) -> None:
    prepare(layout)
    blob = layout.blobs / "sha256" / "00"
    blob.parent.mkdir()
    blob.write_bytes(b"content")
    os.chmod(layout.index, 0o755)
    os.chmod(layout.root, 0o755)
    before = layout.format.stat().st_ino
    assert prepare(layout) == ()
    assert (mode(layout.index), mode(layout.root)) == (0o700, 0o700)
    assert layout.format.stat().st_ino == before
    assert blob.read_bytes() == b"content"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"format": "1"}', b'{"format": 0}', b'{"format": true}', b"1"]
)
def test_a_format_that_cannot_be_read_is_refused(layout: Layout, content: bytes) -> None:
    prepare(layout)
    layout.format.write_bytes(content)
    with pytest.raises(StoreUnusable, match="cannot be read"):
        prepare(layout)
    assert layout.format.read_bytes() == content


def test_a_newer_format_is_refused(layout: Layout) -> None:
    prepare(layout)
    layout.format.write_text(json.dumps({"format": FORMAT + 1, "more": []}))
    with pytest.raises(StoreUnusable, match="format 2"):
        prepare(layout)


def test_a_directory_of_something_else_is_left_alone(layout: Layout) -> None:
    layout.root.mkdir(parents=True, mode=0o755)
    (layout.root / "thesis.txt").write_text("dear reader")
    with pytest.raises(StoreUnusable, match=r"thesis\.txt"):
        prepare(layout)
    assert os.listdir(layout.root) == ["thesis.txt"]
    assert mode(layout.root) == 0o755


def test_a_store_that_lost_its_format_alone_is_taken(layout: Layout) -> None:
    prepare(layout)
    (layout.root / "lost+found").mkdir()
    layout.format.unlink()
    assert prepare(layout) == ()
    assert layout.format.exists()


@pytest.mark.parametrize("place", ["root", "blobs"])
def test_a_file_in_the_place_of_a_folder_is_refused(layout: Layout, place: str) -> None:
    prepare(layout)
    if place == "blobs":
        layout.blobs.rmdir()
        layout.blobs.touch()
    else:
        layout = Layout(layout.format)
    with pytest.raises(StoreUnusable):
        prepare(layout)


def test_anothers_store_names_the_line_to_type(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(layout)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 4711)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreUnusable) as caught:
        prepare(layout)
    assert caught.value.remedy.startswith("sudo -u ")
    assert f"#{owner + 4711}" in caught.value.what


def test_a_user_without_a_name_is_told_by_number(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a directory away needs root")
    prepare(layout)
    os.chown(layout.root, 987654, -1)
    with pytest.raises(StoreUnusable, match="#987654") as caught:
        prepare(layout)
    assert caught.value.remedy == "sudo -u #987654 mirror …"


@pytest.mark.parametrize("place", ["blobs", "blobs/sha256", "repositories/quay.io", "format", "tokens"])
def test_what_is_anothers_below_is_refused_by_name(layout: Layout, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a directory away needs root")
    prepare(layout)
    for folder in ("blobs/sha256", "repositories/quay.io", "tokens"):
        (layout.root / folder).mkdir(mode=0o700)
    (layout.root / "lost+found").mkdir()
    for path in (layout.root, *layout.root.rglob("*")):
        os.chown(path, 4242, -1)
    os.chown(layout.root / "lost+found", 0, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert prepare(layout) == ()
    os.chown(layout.root / place, 987654, -1)
    with pytest.raises(StoreUnusable, match=f"{place} in the store belongs to #987654") as caught:
        prepare(layout)
    owner = "#987654" if place == "format" else "#4242"
    assert f"sudo chown -R '{owner}': {layout.root}" in caught.value.remedy


def test_a_folder_that_is_closed_by_its_mode_is_opened_without_a_word(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ours and mended by the start: no fault of the disk."""
    if os.geteuid() != 0:
        pytest.skip("giving a directory away needs root")
    prepare(layout)
    for path in (layout.root, *layout.root.rglob("*")):
        os.chown(path, 4242, -1)
    scandir = os.scandir

    def closed_to_others(path: str) -> Iterator[os.DirEntry[str]]:
        if not os.stat(path).st_mode & stat.S_IRUSR:
            raise PermissionError(errno.EACCES, "x", path)
        return scandir(path)

    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(os, "scandir", closed_to_others)
    layout.blobs.chmod(0)
    with structlog.testing.capture_logs() as said:
        assert prepare(layout) == ()
    assert (said, mode(layout.blobs)) == ([], 0o700)


def test_a_root_that_was_given_away_is_refused_without_a_look_inside(layout: Layout) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a directory away needs root")
    refused = 0
    with tempfile.TemporaryDirectory() as open_folder:
        os.chmod(open_folder, 0o755)
        root = Path(open_folder) / "store"
        prepare(Layout(root))
        os.chown(root, 4242, -1)
        child = os.fork()
        if not child:
            try:
                os.setuid(4242)
                prepare(Layout(root))
            except StoreUnusable:
                refused = 1
            finally:
                os._exit(refused)
        _, ended = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended) == 1


def use_roots_volume(root: Path) -> None:
    os.chown(root, 0, 4242)
    os.chmod(root, 0o2775)
    os.setgid(4242)
    os.setuid(4242)
    layout = Layout(root)
    assert prepare(layout) == ()
    assert layout.blobs.stat().st_uid == 4242
    assert prepare(layout) == ()


def test_a_volume_of_roots_that_lets_us_write_is_ours() -> None:
    mounts.on_small_disk(use_roots_volume, Path("/mnt"), "4m")  # what is above tmp_path is root's alone


def refuse_others_tree(root: Path) -> None:
    os.chmod(root, 0o777)
    prepare(Layout(root))
    os.chmod(root, 0o777)
    os.setuid(4242)
    with pytest.raises(StoreUnusable, match="belongs to root"):
        prepare(Layout(root))


def test_a_tree_that_root_made_in_such_a_volume_is_not() -> None:
    mounts.on_small_disk(refuse_others_tree, Path("/mnt"), "4m")


def probe_read_only(root: Path) -> None:
    (warning,) = prepare(Layout(root))
    assert "read-only" in warning


def test_a_read_only_store_is_served_as_it_is(layout: Layout) -> None:
    prepare(layout)
    mounts.read_only(probe_read_only, layout.root)


def refuse_read_only(root: Path) -> None:
    for layout in (Layout(root), Layout(root / "store")):
        with pytest.raises(StoreUnusable, match="Read-only") as caught:
            prepare(layout)
        assert "ReadWritePaths=" in caught.value.remedy


def test_an_empty_read_only_directory_is_no_store(tmp_path: Path) -> None:
    mounts.read_only(refuse_read_only, tmp_path)


def probe_full(root: Path) -> None:
    prepare(Layout(root))
    with (root / "blobs" / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    (warning,) = prepare(Layout(root))
    assert "full" in warning
    assert list((root / "run").glob("probe-*")) == []


def test_a_full_store_is_served(tmp_path: Path) -> None:
    mounts.on_small_disk(probe_full, tmp_path, "2m")


def refuse_mounted_blobs(root: Path) -> None:
    layout = Layout(root)
    prepare(layout)
    mounts.mount("-t", "tmpfs", "tmpfs", layout.blobs)
    with pytest.raises(StoreUnusable, match="another file system"):
        prepare(layout)


def test_folders_on_other_file_systems_are_refused(tmp_path: Path) -> None:
    mounts.on_small_disk(refuse_mounted_blobs, tmp_path, "4m")


# What a file system may fail to keep, by pretending that it does.


def test_modes_are_needed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chmod", lambda *_args, **_options: None)
    with pytest.raises(StoreUnusable, match="mode of a file"):
        prepare(layout)


def test_odd_seconds_are_needed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    utime = os.utime

    def even(path, times=None, **options):
        utime(path, times and tuple(second // 2 * 2 for second in times), **options)

    monkeypatch.setattr(os, "utime", even)
    with pytest.raises(StoreUnusable, match="modification times"):
        prepare(layout)


@pytest.mark.parametrize("failure", ["always free", "not supported"])
def test_locks_are_needed(layout: Layout, monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    def flock(_fd, _operation):
        if failure == "not supported":
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreUnusable, match="flock"):
        prepare(layout)


def test_locks_must_hold_between_processes(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    real, own = fcntl.flock, os.getpid()
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: real(fd, how) if os.getpid() == own else None)
    monkeypatch.setattr(probe.threading, "active_count", lambda: 1)
    with pytest.raises(StoreUnusable, match="flock"):
        prepare(layout)


def test_beside_threads_it_does_not_fork(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.threading, "active_count", lambda: 2)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    assert prepare(layout) == ()


def test_renames_must_replace(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def copy(old, new):
        if os.path.basename(old) != "new":
            return rename(old, new)
        with open(old, "rb") as source, open(new, "wb") as target:  # as a file system without renames does it
            target.write(source.read())
        return os.unlink(old)

    monkeypatch.setattr(os, "rename", copy)
    with pytest.raises(StoreUnusable, match="rename"):
        prepare(layout)


def test_case_matters(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.name == "case" or exists(path))
    with pytest.raises(StoreUnusable, match="case"):
        prepare(layout)


def test_a_network_is_only_warned_of(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "file_system_type", lambda _path: "nfs4")
    (warning,) = prepare(layout)
    assert "nfs4" in warning


def test_what_is_in_the_store_costs_no_time(layout: Layout) -> None:
    prepare(layout)
    folder = layout.blobs / "sha256"
    folder.mkdir()

    def cost() -> float:
        best = float("inf")
        for _ in range(5):
            began = time.process_time()
            prepare(layout)
            best = min(best, time.process_time() - began)
        return best

    empty = cost()
    for number in range(5000):
        (folder / str(number)).touch()
    began = time.process_time()
    for entry in os.scandir(folder):
        entry.stat()
    assert cost() < empty + (time.process_time() - began) / 2


def test_reads_the_kind_of_file_system_from_the_kernel(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / / rw shared:1 - ext4 /dev/vda rw\n"
        f"2 1 0:5 / {tmp_path}/with\\040space rw - xfs /dev/vdb rw\n"
        f"3 1 0:6 / {tmp_path}/with rw - nfs4 server:/x rw\n"
        f"4 1 0:7 / {tmp_path}/over rw - tmpfs tmpfs rw\n"
        f"5 1 0:8 / {tmp_path}/over rw - btrfs /dev/vdc rw\n"
        "broken line\n"
    )
    assert file_system_type(tmp_path / "with space" / "deep", table) == "xfs"
    assert file_system_type(tmp_path / "with" / "deep", table) == "nfs4"
    assert file_system_type(tmp_path / "without", table) == "ext4"
    assert file_system_type(tmp_path / "over", table) == "btrfs"
    assert file_system_type(tmp_path, tmp_path / "missing") == ""
    assert find_mount(tmp_path / "with space", table) == Mount(f"{tmp_path}/with space", "xfs", "/dev/vdb")
    assert str(find_mount(tmp_path / "without", table)) == "/ (ext4, /dev/vda)"
    assert file_system_type(tmp_path) != ""


@pytest.mark.parametrize("folder", ["blobs", "repositories", "sets"])
def test_a_folder_that_a_store_has_lost_is_told_and_not_made(layout: Layout, folder: str) -> None:
    prepare(layout)
    away, place = layout.root.with_name("away"), layout.root / folder
    place.rename(away)
    assert prepare(layout) == ()
    assert not place.exists()
    (row,) = DISK_FAULTS.told()
    assert (row["path"], row["errno"]) == (str(place), "ENOENT")
    assert "mount or restore this folder" in row["remedy"]
    assert "mkdir -m 700" in row["remedy"]
    DISK_FAULTS.retry()
    assert DISK_FAULTS.told(), "it is still away"
    away.rename(place)
    DISK_FAULTS.retry()
    assert DISK_FAULTS.told() == []


def test_nothing_is_made_in_place_of_what_is_away(layout: Layout) -> None:
    prepare(layout)
    blob = str(layout.blobs / "sha256" / "00")
    files.write_atomically(blob, b"content", durable=False)
    away = layout.root.with_name("away")
    layout.root.rename(away)
    layout.root.mkdir()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            files.write_atomically(blob, b"other", durable=False)
        for ask in (files.look, files.open_content, files.names, lambda path: list(files.entries(path))):
            with pytest.raises(StoreUnreadable, match="blobs cannot be read"):
                ask(blob)
    assert os.listdir(layout.root) == []
    layout.root.rmdir()
    away.rename(layout.root)
    assert files.read_small(blob, 100) == b"content"
    assert files.look(f"{blob}1") is None


@pytest.mark.parametrize("left", [(), ("blobs",)])
def test_a_store_whose_making_was_cut_off_is_made_to_its_end(layout: Layout, left: tuple[str, ...]) -> None:
    layout.root.mkdir(parents=True)
    for name in left:
        (layout.root / name).mkdir()
    prepare(layout)
    prepare(layout)
    assert DISK_FAULTS.told() == []
    assert layout.sets.is_dir()


def test_a_store_of_the_last_release_that_has_its_format_alone_is_made(layout: Layout) -> None:
    layout.root.mkdir(parents=True)
    layout.format.write_text(json.dumps({"format": FORMAT}))
    prepare(layout)
    assert DISK_FAULTS.told() == []
    assert layout.blobs.is_dir()


def test_folders_of_what_is_under_way_are_made_again(layout: Layout) -> None:
    prepare(layout)
    for folder in (layout.ingest, layout.uploads, layout.quarantine):
        folder.rmdir()
    probe.mend(layout)
    assert all(mode(folder) == 0o700 for folder in (layout.ingest, layout.uploads, layout.quarantine))
    layout.ingest.rmdir()
    layout.blobs.rmdir()
    probe.mend(layout)
    assert not layout.ingest.exists(), "the store is away"
    assert DISK_FAULTS.told()


def test_what_is_in_the_place_of_a_folder_is_told_until_it_is_gone(layout: Layout) -> None:
    prepare(layout)
    layout.ingest.rmdir()
    for place in (layout.ingest, layout.hosted):
        os.mkfifo(place)
    for _ in range(2):
        probe.mend(layout)
        DISK_FAULTS.retry()
        assert [(one["errno"], one["paths"]) for one in DISK_FAULTS.told()] == [("ENOTDIR", 2)]
    for place in (layout.ingest, layout.hosted):
        place.unlink()
    probe.mend(layout)
    DISK_FAULTS.retry()
    assert DISK_FAULTS.told() == []
    assert layout.ingest.is_dir()


def test_a_folder_that_came_later_may_not_go_either(layout: Layout) -> None:
    prepare(layout)
    folder = layout.blobs / "sha256"
    blob = str(folder / "00")
    assert files.look(blob) is None
    folder.mkdir()
    probe.mend(layout)
    folder.rename(layout.root.with_name("away"))
    with pytest.raises(StoreUnreadable, match="blobs/sha256 cannot be read"):
        files.look(blob)
    with pytest.raises(FileNotFoundError):
        files.write_atomically(blob, b"other", durable=False)


def test_a_folder_of_which_nothing_can_be_said_does_not_stop_a_start(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(layout)
    sick, real = layout.blobs / "sha256", os.lstat
    sick.mkdir()

    def lstat(path: Any, **options: Any) -> os.stat_result:
        if os.fspath(path) == str(sick):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(sick))
        return real(path, **options)

    monkeypatch.setattr(os, "lstat", lstat)
    monkeypatch.setattr(probe, "_first_levels", lambda *_: [sick])
    probe.check_owners(layout, 4242)
    assert [one["path"] for one in DISK_FAULTS.told()] == [str(sick)]


@pytest.mark.parametrize("name", ["pins", "signatures", "tokens", "blobs/sha256"])
@pytest.mark.parametrize("noted", ["at a start", "while it runs"])
def test_a_folder_that_came_later_is_missed_at_the_next_start(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, name: str, noted: str
) -> None:
    """Where it is gone before a start, nobody takes what was in it for absent: pins, say, whose content would go."""
    prepare(layout)
    folder = layout.root / name
    folder.mkdir()
    if noted == "at a start":
        prepare(layout)
    else:
        probe.mend(layout)
    folder.rmdir()
    monkeypatch.setattr(files, "_folders", {})  # as in another process
    assert prepare(layout) == ()
    assert not folder.exists()
    with pytest.raises(StoreUnreadable):
        files.look(str(folder / "x"))
    DISK_FAULTS.over("read", str(folder))
    probe.mend(layout)  # whether or not anybody asks
    assert [row["path"] for row in DISK_FAULTS.told()] == [str(folder)]
    folder.mkdir()
    DISK_FAULTS.retry()
    assert not DISK_FAULTS
    assert files.look(str(folder / "x")) is None
