"""A registry as releases come from: Debian's docker-registry behind token authentication and TLS, all of it counted."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.tools.front import Front
from tests.tools.processes import running
from tests.tools.programs import Programs
from tests.tools.registries import PASSWORD, USER, docker_registry
from tests.tools.release import Placed
from tests.tools.stocking import Stockist
from tests.tools.token_server import TokenServer


class TokenRegistry:
    """Serves what it is stocked with to who logs in. A context manager.

    `tls` is (certificate, key) of both the registry's face and its token server; tokens say that they live `lifetime`
    seconds. `front` counts and breaks; see there.
    """

    def __init__(self, programs: Programs, folder: Path, tls: tuple[Path, Path], lifetime: int = 300) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self.issuer = TokenServer(folder / "issuer", USER, PASSWORD, tls, lifetime)
        storage = folder / "storage"
        self._open_door = docker_registry(programs, folder / "open", storage)
        self._behind = docker_registry(programs, folder / "behind", storage, token=self.issuer)
        self.front = Front(self._behind.url, tls)
        self._stockist = Stockist(self._open_door.url)

    @property
    def address(self) -> str:
        return self.front.address

    @property
    def url(self) -> str:
        return self.front.url

    @property
    def upstream(self) -> dict[str, Any]:
        """What mirror.yaml says of it under `upstreams`."""
        return {"endpoints": [self.url], "auth_realms": [self.issuer.address]}

    def __enter__(self) -> TokenRegistry:
        self._stack.enter_context(self.issuer)
        self._stack.enter_context(running(self._behind))
        self._stack.enter_context(self.front)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def stock(self, placed: Iterable[Placed]) -> None:
        """Put manifests with all under them, and their tags, onto the shelves."""
        placed = list(placed)
        with running(self._open_door):
            self._stockist.push(placed)
        for one in placed:
            document = json.loads(one.manifest.body)
            if "subject" in document:
                described = one.manifest.descriptor(artifactType=document["artifactType"])
                known = self.front.referrers.get(document["subject"]["digest"], ())
                self.front.referrers[document["subject"]["digest"]] = [*known, described]

    def pull_secret(self, path: Path, password: str = PASSWORD) -> Path:
        """Write a pull secret for this registry and return its path."""
        path.write_text(json.dumps({"auths": {self.address: {"auth": _login(password)}}}))
        path.chmod(0o600)
        return path


def _login(password: str) -> str:
    return base64.b64encode(f"{USER}:{password}".encode()).decode()


def upstreams(registry: TokenRegistry, hosts: Iterable[str]) -> Mapping[str, Any]:
    """Return `upstreams` of mirror.yaml in which each host is really this registry."""
    return {host: dict(registry.upstream) for host in hosts}
