"""What the tests of faults share: an upstream, a service in front of it, and waits that are cut short."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from mirror.content import blobs, fetch, fill, manifests, pull, referrers, tags, through
from mirror.upstream import body, endpoints, login, pauses, retry, transport
from tests.faults.service import Service, serving
from tests.peers.scripted import ScriptedRegistry

# Saved before the blocking-call detector replaces it: to a socket that never waits it does not block.
_SENDFILE = os.sendfile

PATIENCE = 1.0  # seconds, for 18
PROGRESS = 1.5  # for 120


@pytest.fixture(autouse=True)
def sendfile_to_sockets(loop_never_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sendfile", _SENDFILE)


@pytest.fixture(autouse=True)
def no_system_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading them costs more than the whole test, and no peer here shows a certificate of theirs."""
    monkeypatch.setattr(ssl.SSLContext, "set_default_verify_paths", lambda self: None)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every deadline of the pull path be about a second, in the same order as they are."""
    for module in (fetch, blobs, manifests, tags, referrers):
        monkeypatch.setattr(module, "CLIENT_PATIENCE", PATIENCE)
    for module in (fill, pull, through):
        monkeypatch.setattr(module, "PROGRESS_LIMIT", PROGRESS)
    monkeypatch.setattr(tags, "_KNOWN_PATIENCE", 0.4)
    monkeypatch.setattr(body, "STALL_SECONDS", 0.4)
    monkeypatch.setattr(body, "CRAWL_SECONDS", 0.5)
    monkeypatch.setattr(login, "_TOKEN_SECONDS", 0.5)
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(pauses, "_FIRST", 0.05)
    monkeypatch.setattr(endpoints.ask_in_order, "__defaults__", (0.2,))
    monkeypatch.setattr(retry.Retry, "_pause", lambda self, number, wished: 0.02 + wished)


@pytest.fixture(autouse=True)
def events() -> Iterator[list[MutableMapping[str, Any]]]:
    """Return the list of events that the mirror logs."""
    with structlog.testing.capture_logs() as said:
        yield said


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
