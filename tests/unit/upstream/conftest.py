"""What the tests of this room share: a client that does not wait long, and how a body is read."""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mirror.oci.digest import Digest
from mirror.upstream import client as client_module
from mirror.upstream.body import BlobBody
from mirror.upstream.client import UpstreamClient
from mirror.upstream.retry import Retry
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry
from tests.peers.settings import client_of

CONTENT = noise(300_000)
DIGEST = Digest.of(CONTENT)


@pytest.fixture
async def registry() -> AsyncIterator[ScriptedRegistry]:
    """An upstream with one image, and with CONTENT beside it."""
    async with ScriptedRegistry() as peer:
        peer.add_image("team/app", "v1")
        peer.add_blob("team/app", CONTENT)
        yield peer


@pytest.fixture
async def client(registry: ScriptedRegistry, impatient: list[float]) -> AsyncIterator[UpstreamClient]:
    async with client_of(registry.url) as one:
        yield one


@pytest.fixture(autouse=True)
def no_system_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading them costs more than most tests here, and no peer shows a certificate of theirs."""
    monkeypatch.setattr(ssl.SSLContext, "set_default_verify_paths", lambda self: None)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have retries wait for a hundredth; return the waits as they were meant."""
    meant: list[float] = []

    async def sleep(seconds: float) -> None:
        meant.append(seconds)
        await asyncio.sleep(seconds / 100)

    monkeypatch.setattr(client_module, "Retry", functools.partial(Retry, sleep=sleep))
    return meant


async def whole(body: BlobBody) -> bytes:
    """Return all the bytes of a body and close it."""
    content = bytearray()
    try:
        while piece := await body.read():
            content += piece
    finally:
        await body.close()
    return bytes(content)


@pytest.fixture
def read_whole() -> Callable[[BlobBody], object]:
    return whole


@pytest.fixture
def pull_secret(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a pull secret of these entries and returns its path."""

    def write(auths: dict[str, dict[str, str]]) -> Path:
        path = tmp_path / "pull-secret.json"
        path.write_text(json.dumps({"auths": auths}))
        return path

    return write
