"""Upstream registries as processes: Debian's docker-registry in each way of logging in, and one with referrers."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import bcrypt
import yaml

from tests.tools.processes import Daemon, answers, free_port
from tests.tools.programs import ROOT, Programs
from tests.tools.token_server import TokenServer

USER = "robot+puller"
PASSWORD = "not:so$secret"  # what real ones hold: a colon and a dollar

_REQUEST = re.compile(r'"((?:GET|HEAD|POST|PUT|PATCH|DELETE) \S+) HTTP/[\d.]+" (\d{3})')


class Registry(Daemon):
    """An upstream at `address` (host:port); `url` has its scheme."""

    def __init__(self, address: str, scheme: str, command: list[str], log: Path, folder: Path | None = None) -> None:
        port = int(address.rpartition(":")[2])
        super().__init__(command, log, ready=lambda: answers(port), folder=folder)
        self.address = address
        self.url = f"{scheme}://{address}"

    def requests(self) -> list[str]:
        """Return what was asked so far, as `GET /v2/… 200`, oldest first.

        A registry writes a request down after it has answered it, so this waits until its log is quiet.
        """
        seen = ""
        while (log := self.log) != seen:
            seen = log
            time.sleep(0.2)
        return [f"{line} {status}" for line, status in _REQUEST.findall(self.log)]


def docker_registry(
    programs: Programs,
    folder: Path,
    storage: Path,
    *,
    basic: bool = False,
    token: TokenServer | None = None,
    tls: tuple[Path, Path] | None = None,
) -> Registry:
    """Return Debian's docker-registry over `storage`, not started yet; several may share one storage.

    `folder` takes its configuration and log; `tls` is (certificate, key).
    """
    address = f"127.0.0.1:{free_port()}"
    http: dict[str, Any] = {"addr": address, "secret": "shared by all on this storage"}
    document: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": http,
    }
    folder.mkdir(parents=True, exist_ok=True)
    if tls is not None:
        http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    if basic:
        htpasswd = folder / "htpasswd"
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        htpasswd.write_text(f"{USER}:{hashed}\n")
        document["auth"] = {"htpasswd": {"realm": "lab", "path": str(htpasswd)}}
    if token is not None:
        document["auth"] = {
            "token": {
                "realm": token.realm,
                "service": token.service,
                "issuer": token.issuer,
                "rootcertbundle": str(token.certificate),
            }
        }
    configuration = folder / "config.yml"
    configuration.write_text(yaml.safe_dump(document))
    command = [programs.find("docker-registry"), "serve", str(configuration)]
    return Registry(address, "https" if tls else "http", command, folder / "registry.log")


def hosting(folder: Path) -> Registry:
    """Return a registry in memory that has all of the specification, referrers too; not started yet."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.tools.hosting", str(port)]
    return Registry(f"127.0.0.1:{port}", "http", command, folder / "hosting.log", ROOT)
