"""What the tests of the way across the gap share: the world outside, and sites on either side."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.offline import world
from tests.offline.site import Site
from tests.offline.world import Authority, Releases, World
from tests.tools.programs import Programs

MakeSite = Callable[..., Site]


@pytest.fixture(scope="session")
def releases() -> Releases:
    return world.make_releases()


@pytest.fixture(scope="session")
def outside(programs: Programs, releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world outside, with full releases; made once."""
    with world.opened(programs, tmp_path_factory.mktemp("world"), releases) as opened:
        yield opened


@pytest.fixture(scope="session")
def small(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose releases have few components, for what is done many times over."""
    with world.opened(programs, tmp_path_factory.mktemp("small"), world.make_releases(24, 0.3)) as opened:
        yield opened


@pytest.fixture
def world_again(small: World) -> Iterator[World]:
    """The small world, whole again at the end, whatever a test did to it, and counting from nothing."""
    front = small.registry.front
    front.forget()
    yield small
    front.come_back()
    front.rate = front.cut_after = front.token_lifetime = front.unavailable = None
    small.graph.unavailable = None


@pytest.fixture(scope="session")
def inside_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The private CA behind the gap."""
    return world.make_authority(tmp_path_factory.mktemp("inside") / "authority")


@pytest.fixture
def make_site(tmp_path: Path) -> MakeSite:
    """Make a site: make_site(name, world or None for one behind the gap, keys of mirror.yaml)."""

    def make(name: str, reaches: World | None = None, document: dict[str, Any] | None = None) -> Site:
        reached = reaches.configuration() if reaches is not None else {}
        return Site(tmp_path / name, {**reached, **(document or {})})

    return make


@pytest.fixture
def handlers_as_before() -> Iterator[None]:
    """What a command that runs in this process does with signals ends with the test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: podman's runroot may have 50 characters, a socket's path 107."""
    with tempfile.TemporaryDirectory(prefix="m-", dir="/tmp") as folder:
        yield Path(folder)
