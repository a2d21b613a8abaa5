"""A volume whose mount point is root's and lets a group write, as Kubernetes gives it to a pod (fsGroup)."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirror.admin.check.storage import find_in_storage
from mirror.admin.check.surroundings import Surroundings
from mirror.config import Config
from mirror.config.model import Storage
from mirror.errors import StoreUnusable
from mirror.outside import run_as_owner
from mirror.store import probe
from mirror.store.layout import Layout

USER, OTHER, GROUP = 1000680000, 1000690000, 1000680000

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes what belongs to others")


@pytest.fixture
def volume() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        folder = Path(made) / "store"
        folder.mkdir()
        os.chown(folder, 0, GROUP)
        folder.chmod(0o2770)
        yield folder


def as_user(user: int, work: Callable[[], object], group: int = GROUP) -> str:
    """Run `work` in a child that is this user, in group 0 and the volume's; return what it returned, or raised."""
    theirs, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([group])
            os.setresgid(0, 0, 0)
            os.setresuid(user, user, user)
            said = str(work())
        except StoreUnusable as error:
            said = f"StoreUnusable: {error}"
        except BaseException:
            said = traceback.format_exc()
        os.write(ours, said.encode())
        os._exit(0)
    os.close(ours)
    with os.fdopen(theirs) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def test_who_may_write_begins_the_store_and_commands_agree(volume: Path) -> None:
    who = lambda _outside: os.geteuid() % 251  # noqa: E731 - an exit code
    assert as_user(USER, lambda: run_as_owner(volume, who)) == str(USER % 251)
    assert as_user(USER, lambda: probe.prepare(Layout(volume))) == "()"
    assert (volume / "format").stat().st_uid == USER
    assert as_user(USER, lambda: run_as_owner(volume, who)) == str(USER % 251)
    # Root works as the service's user, not as itself because the mount point is its.
    assert run_as_owner(volume, who) == USER % 251


def test_a_store_of_another_namespace_is_refused(volume: Path) -> None:
    as_user(USER, lambda: probe.prepare(Layout(volume)))
    for work in (lambda: probe.prepare(Layout(volume)), lambda: run_as_owner(volume, lambda _: 0)):
        said = as_user(OTHER, work)
        assert said.startswith("StoreUnusable: ")
        assert str(USER) in said


def test_who_may_not_write_is_told_whose_it_is(volume: Path) -> None:
    said = as_user(OTHER, lambda: run_as_owner(volume, lambda _: 0), group=OTHER)
    assert said.startswith("StoreUnusable: ")


def test_check_finds_nothing_wrong_with_it(volume: Path) -> None:
    config = Config(storage=Storage(path=volume))

    def codes() -> list[str]:
        return sorted(one.code for one in find_in_storage(config, Surroundings.look({}, volume), None))

    fine = as_user(USER, codes)
    as_user(USER, lambda: probe.prepare(Layout(volume)))
    assert fine == as_user(USER, codes)
    assert "store_owner" not in fine
    assert "store_too_open" not in fine
    assert "store_owner" in as_user(OTHER, codes)
