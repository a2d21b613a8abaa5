"""A store of release signatures: a folder `sha256=<hex>/signature-<N>`, read as files or over HTTP."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from tests.tools.openpgp import claim
from tests.tools.release import Release


class Signer(Protocol):
    """What signs claims as messages of OpenPGP, in signature packets of version 3 or 4."""

    def sign(self, claim: bytes, version: int = 4) -> bytes: ...


class SignatureStore:
    """Serves a folder over HTTP, and writes signatures into it. A context manager; files need none.

    `asked` holds the path of each request.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/signatures"

    def __enter__(self) -> SignatureStore:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def sign(self, release: Release, key: Signer) -> None:
        """Sign a release as it is done today, and as it was done: `signature-1` is v4, `signature-2` v3."""
        signed = claim(release.digest, release.reference)
        self.put(release.digest, 1, key.sign(signed, version=4))
        self.put(release.digest, 2, key.sign(signed, version=3))

    def put(self, digest: str, number: int, content: bytes) -> None:
        """Keep bytes as signature `number` of `digest`."""
        path = self.folder / digest.replace(":", "=") / f"signature-{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                store.asked.append(self.path)
                path = store.folder / self.path.removeprefix("/signatures/")
                found = path.is_file() and ".." not in self.path
                body = path.read_bytes() if found else b"not found"
                self.send_response(200 if found else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: Any) -> None:
                """Say nothing: `asked` holds what tests want to know."""

        return Handler
