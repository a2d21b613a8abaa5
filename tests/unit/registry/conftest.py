"""What the tests of the face share: a content that serves what it is given, and the face on a free port."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import trustme

from tests.unit.registry.stage import Face, FakeContent, serve_face

# Saved before the blocking-call detector replaces it: to a socket that never waits it does not block.
_SENDFILE = os.sendfile

Open = Callable[..., Awaitable[Face]]


@pytest.fixture(autouse=True)
def sendfile_to_sockets(loop_never_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sendfile", _SENDFILE)


@pytest.fixture
def content(tmp_path) -> Iterator[FakeContent]:
    fake = FakeContent(tmp_path)
    yield fake
    assert fake.open_files() == [], "an answer's file was left open"
    assert fake.open_chunks() == [], "a passed-through body was left open"


@pytest.fixture
async def open_face(content) -> AsyncIterator[Open]:
    """Return a function that serves `content`; keyword arguments go to the dispatcher, `tls` is a context."""
    faces: list[Face] = []

    async def open_one(**arguments) -> Face:
        face = await serve_face(content, **arguments)
        faces.append(face)
        return face

    yield open_one
    for face in faces:
        await face.close()


@pytest.fixture
async def face(open_face) -> Face:
    return await open_face()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
