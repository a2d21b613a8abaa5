"""The bundle as `make bundle` lays it out, and machines that it is installed on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundle import build
from tests.install.machine import Machine, MachineError, debian
from tests.tools.programs import Programs


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle for Debian's Python, laid out in a folder."""
    folder = tmp_path_factory.mktemp("bundle") / "mirror"
    build.main(["--tree", str(folder), "--python", "3.11"])
    return folder


@pytest.fixture(scope="module")
def machines(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Machine]]:
    """Boot machines that have nothing of ours yet."""
    if os.geteuid() != 0:
        pytest.skip("only root makes containers that boot")
    image = debian(programs)
    made: list[Machine] = []

    def boot() -> Machine:
        made.append(Machine(programs, image, tmp_path_factory.mktemp("machine") / f"root{len(made)}"))
        try:
            made[-1].boot()
        except (MachineError, TimeoutError) as error:
            if os.environ.get("REQUIRE_TOOLS"):
                raise
            pytest.skip(f"systemd does not boot in namespaces here: {error}")
        return made[-1]

    yield boot
    for machine in made:
        machine.halt()
