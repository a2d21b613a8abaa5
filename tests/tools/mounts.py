"""File systems of a test's own: mounted in a namespace that ends with the process, so nothing stays behind."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SPAWN = multiprocessing.get_context("spawn")
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS, unshare(2)


def mount(*arguments: str | Path) -> None:
    """Mount something, in a scenario; raise PermissionError where that is not allowed."""
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.strip())


def _inside(scenario: Callable[[Path], None], root: Path, wanted: list[tuple[str, ...]], results: Any) -> None:
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS):
            raise PermissionError(os.strerror(ctypes.get_errno()))
        mount("--make-rprivate", "/")
        for arguments in wanted:
            mount(*arguments)
    except (OSError, AttributeError) as error:
        results.put(("skip", str(error)))
        return
    try:
        scenario(root)
    except BaseException:
        results.put(("fail", traceback.format_exc()))
    else:
        results.put(("pass", ""))


def _run(scenario: Callable[[Path], None], root: Path, wanted: list[tuple[str, ...]]) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    results = SPAWN.Queue()
    process = SPAWN.Process(target=_inside, args=(scenario, root, wanted, results))
    process.start()
    try:
        outcome, text = results.get(timeout=100)
    finally:
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()
        results.close()
    if outcome == "skip":
        pytest.skip(f"no file system may be mounted here: {text}")
    assert outcome == "pass", text


def on_small_disk(scenario: Callable[[Path], None], root: Path, size: str, inodes: int = 0) -> None:
    """Run `scenario(root)`, a function of a test module, in a process where `root` is a tmpfs of `size` (`64m`)."""
    options = f"size={size}" + (f",nr_inodes={inodes}" if inodes else "")
    _run(scenario, root, [("-t", "tmpfs", "-o", options, "tmpfs", str(root))])


def on_disk(scenario: Callable[[Path], None], root: Path, size: str) -> None:
    """Run `scenario(root)`, a function of a test module, in a process where `root` is an ext4 of `size` (`64M`).

    Such a one becomes read-only under those who write, as after an error: `mount -o remount,abort`.
    """
    image = root.with_name(f"{root.name}.ext4")
    subprocess.run(["truncate", "-s", size, image], check=True)
    done = subprocess.run(["mkfs.ext4", "-q", image], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no ext4 can be made here: {done.stderr.strip()}")
    _run(scenario, root, [("-o", "loop", str(image), str(root))])


def read_only(scenario: Callable[[Path], None], root: Path) -> None:
    """Run `scenario(root)`, a function of a test module, in a process where `root` is read-only."""
    _run(scenario, root, [("--bind", str(root), str(root)), ("-o", "remount,ro,bind", str(root))])
