"""What every test gets: the loop may not block in mirror.*, and a missing tool skips or, in CI, fails."""

from __future__ import annotations

import fcntl
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from blockbuster import BlockBuster, BlockBusterFunction
from hypothesis import settings

from mirror import logs
from mirror.store import files
from mirror.store.faults import DISK_FAULTS
from tests.tools.programs import Programs

# How long an example takes is the host's affair.
settings.register_profile("mirror", deadline=None)
settings.load_profile("mirror")

_TESTS = str(Path(__file__).parent)
_MIRROR = str(Path(files.__file__).parents[1])

# Calls that wait for the disk and that blockbuster does not know of its own.
_DISK = (
    "os.fchmod",
    "os.fdatasync",
    "os.fstat",
    "os.fsync",
    "os.ftruncate",
    "os.open",
    "os.posix_fadvise",
    "os.posix_fallocate",
    "os.pread",
    "os.preadv",
    "os.pwrite",
    "os.utime",
    "shutil.rmtree",
)


def _called_by_test() -> bool:
    """Tell whether the outermost frame of mirror.* on the stack is a plain function that a test itself called.

    A test may lay out files on its own loop. A coroutine or a callback of mirror.* may not: its outermost frame
    is a coroutine's, or was called by the loop.
    """
    outermost = None
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith(_MIRROR):
            outermost = frame
        frame = frame.f_back
    if outermost is None or outermost.f_back is None:
        return False
    is_coroutine = bool(outermost.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR))
    return not is_coroutine and outermost.f_back.f_code.co_filename.startswith(_TESTS)


def _or_by_test(allowed: Callable[..., bool]) -> Callable[..., bool]:
    return lambda *args, **kwargs: allowed(*args, **kwargs) or _called_by_test()


def _flock_waits_not(_fd: Any, operation: int) -> bool:
    return bool(operation & (fcntl.LOCK_NB | fcntl.LOCK_UN))


@pytest.fixture(autouse=True)
def loop_never_blocks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which a coroutine or callback of mirror.* makes a call that blocks the event loop.

    `mirror.store.files.ON_LOOP` names the calls that may: metadata, and reads of what the page cache holds.
    """
    if Path(request.node.path).parent.name in ("clients", "conformance"):
        yield  # the product runs in processes of its own there
        return
    detector = BlockBuster("mirror")
    for name in _DISK:
        detector.functions[name] = BlockBusterFunction(None, name, scanned_modules="mirror")
    detector.functions["fcntl.flock"] = BlockBusterFunction(
        None, "fcntl.flock", scanned_modules="mirror", can_block_predicate=_flock_waits_not
    )
    for function in detector.functions.values():
        function.can_block_predicate = _or_by_test(function.can_block_predicate)
        function.can_block_in("mirror/store/files.py", files.ON_LOOP)
    detector.activate()
    try:
        yield
    finally:
        detector.deactivate()


@pytest.fixture(autouse=True)
def faults_of_its_own() -> Iterator[None]:
    """Forget what a test's disk did not give: the ledger is one a process, and it may never work again."""
    yield
    for operation, path in list(DISK_FAULTS._noted):
        DISK_FAULTS.over(operation, path)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Undo what a command that ran in this process did to its logs: they would write from the loops of later tests."""
    configured = structlog.is_configured()
    yield
    if structlog.is_configured() and not configured:
        structlog.reset_defaults()
        root = logging.getLogger()
        root.handlers = [handler for handler in root.handlers if type(handler).__module__ != logs.__name__]


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Look programs up by name: skips the test where one is missing, fails it where REQUIRE_TOOLS names it."""
    return Programs(os.environ.get("REQUIRE_TOOLS", ""), Path(sys.prefix))
