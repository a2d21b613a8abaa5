"""What the tests of faults share: an upstream, a service in front of it, and waits that are cut short."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.faults.hurry import hurry, without_system_authorities
from tests.faults.nursery import Nursery
from tests.faults.service import Service, serving
from tests.peers.scripted import ScriptedRegistry
from tests.tools.programs import Programs

# Saved before the blocking-call detector replaces it: to a socket that never waits it does not block.
_SENDFILE = os.sendfile


@pytest.fixture(autouse=True)
def sendfile_to_sockets(loop_never_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sendfile", _SENDFILE)


@pytest.fixture(autouse=True)
def no_system_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    without_system_authorities(monkeypatch)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every deadline of the pull path be about a second, and no test wait for the disk of the machine it runs on.

    What is durable before what is shown by the processes of `nursery`, which do wait for it.
    """
    hurry(monkeypatch)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(autouse=True)
def events() -> Iterator[list[MutableMapping[str, Any]]]:
    """Return the list of events that the mirror logs."""
    with structlog.testing.capture_logs() as said:
        yield said


@pytest.fixture(scope="session")
def nursery_process() -> Iterator[Nursery]:
    with Nursery() as opened:
        yield opened


@pytest.fixture
def nursery(nursery_process: Nursery, programs: Programs) -> Iterator[Nursery]:
    """Return what starts service processes; what a test leaves running is ended."""
    programs.find("strace")
    yield nursery_process
    nursery_process.clear()


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        yield registry


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Return a function that serves `tmp_path`/store: serve(upstreams, extra keys, limits of the connections)."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*arguments: Any, **keywords: Any) -> Service:
            return await stack.enter_async_context(serving(tmp_path, *arguments, **keywords))

        yield start
