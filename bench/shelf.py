"""Debian's registry over a storage of its own: where releases come from, and where others copy them to."""

from __future__ import annotations

import json
from pathlib import Path

from bench.peers import find
from bench.processes import Server
from tests.tools.processes import free_port


class Shelf(Server):
    """Debian's docker-registry, without a login. A context manager that stops it."""

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir()
        port = free_port()
        configuration = folder / "config.yml"
        command = [find("docker-registry"), "serve", str(configuration)]
        super().__init__(name, folder, command, port, "", "/v2/", secure=False)
        document = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "cache": {"blobdescriptor": "inmemory"},
                "filesystem": {"rootdirectory": str(folder / "storage")},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        configuration.write_text(json.dumps(document))  # YAML takes JSON as it is
