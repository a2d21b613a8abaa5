"""The product as users run it: `mirror serve` with a configuration file, in processes of its own."""

from __future__ import annotations

import http.client
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.tools.processes import Daemon, free_port
from tests.tools.programs import ROOT


class Mirror(Daemon):
    """One `mirror serve`. `document` is its mirror.yaml; listen, metrics and storage are added where it has none."""

    def __init__(self, folder: Path, document: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.address = f"127.0.0.1:{free_port()}"
        self.store = folder / "store"
        self.configuration = folder / "mirror.yaml"
        self.program = (sys.executable, "-m", "mirror")
        self.killed = False
        self._document: dict[str, Any] = {
            "listen": self.address,
            "metrics": {"listen": f"127.0.0.1:{free_port()}"},
            "storage": {"path": str(self.store)},
            **document,
        }
        self.metrics_address = str(self._document["metrics"]["listen"])
        self._secure = "tls" in document
        self.configure({})
        super().__init__(
            [*self.program, "serve", "--config", str(self.configuration)],
            folder / "mirror.log",
            ready=self._answers_ready,
            folder=ROOT,
        )

    @property
    def url(self) -> str:
        return f"{'https' if self._secure else 'http'}://{self.address}"

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Write mirror.yaml anew with top-level keys changed; read at the next start."""
        self._document.update(changes)
        self.configuration.write_text(yaml.safe_dump(self._document, sort_keys=False))

    def start(self, seconds: float = 20) -> None:
        self.killed = False
        super().start(seconds)

    def kill(self) -> None:
        self.killed = True
        super().kill()

    def get(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request and return status, headers by lower-case name, body."""
        return ask(self.url, path, method, headers)

    def metrics(self) -> str:
        """Return what /metrics says."""
        return ask(f"http://{self.metrics_address}", "/metrics")[2].decode()

    def _answers_ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False


def ask(
    url: str, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send one request and return status, headers by lower-case name, body. Certificates are not looked at here."""
    scheme, _, address = url.partition("://")
    connection: http.client.HTTPConnection
    if scheme == "https":
        unverified = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(address, timeout=60, context=unverified)
    else:
        connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        body = response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, body
    finally:
        connection.close()
