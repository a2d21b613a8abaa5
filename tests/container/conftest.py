"""One image for all tests: built on a base made from Debian's packages, without a network, as `make image` does."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.container.engine import Engine, storage_options
from tests.tools.clients import run
from tests.tools.programs import ROOT, Programs

NAME = "localhost/mirror:latest"
# Unpacked and not configured: what Python runs from, in a tenth of the time that a whole Debian takes.
_PACKAGES = "coreutils,dash,python3,python3-venv"
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/lib/*/gconv/*")
# Wheels for the base's Python, not for the one that runs the tests.
_FITTING = (
    *("--implementation", "cp", "--python-version", "3.11", "--abi", "cp311", "--abi", "abi3", "--abi", "none"),
    *("--platform", f"manylinux_2_28_{os.uname().machine}", "--platform", f"manylinux_2_17_{os.uname().machine}"),
    *("--platform", f"manylinux2014_{os.uname().machine}"),
)


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A folder with a short name, for podman."""
    with tempfile.TemporaryDirectory(prefix="m-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def archive(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as `make image` leaves it, an oci-archive: one for all processes that test at the same time."""
    if os.geteuid() != 0:
        pytest.skip("only root makes a base of Debian's packages")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        out = shared / "image" / "out"
        if not out.exists():
            _build(programs, shared / "image", out)
    (made_here,) = out.iterdir()
    return made_here


def _build(programs: Programs, folder: Path, out: Path) -> None:
    maker, buildah, make = (programs.find(name) for name in ("mmdebstrap", "buildah", "make"))
    base, wheels = folder / "base", folder / "wheels"
    shutil.rmtree(folder, ignore_errors=True)  # of a build that failed
    base.mkdir(parents=True)
    (base / "Containerfile").write_text("FROM scratch\nADD root.tar /\n")
    storage = [buildah, *storage_options(programs, folder)]
    lean = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    options = ["--quiet", "--variant=extract", *lean, f"--include={_PACKAGES}"]
    download = [sys.executable, "-m", "pip", "-q", "download", "--require-hashes", "--only-binary", ":all:", *_FITTING]

    def make_base() -> None:
        run([maker, *options, "bookworm", str(base / "root.tar")], timeout=300)
        run([*storage, "build", "-q", "-t", "localhost/base", str(base)], timeout=300)

    with ThreadPoolExecutor(1) as beside:
        made = beside.submit(make_base)
        run([*download, "-d", str(wheels), "-r", str(ROOT / "requirements" / "runtime.txt")], timeout=300)
        made.result()
    told = [f"BUILDAH={' '.join(storage)}", "BUILD_FLAGS=-q --isolation chroot", "BASE=localhost/base"]
    run([make, "-C", str(ROOT), "image", *told, f"WHEELS={wheels}", f"OUT={folder / 'made'}"], timeout=300)
    (folder / "made").rename(out)
    shutil.rmtree(folder / "root")  # pytest keeps what is left of three sessions


@pytest.fixture(scope="session")
def engine(programs: Programs, home: Path, archive: Path) -> Engine:
    """podman, which has the image under NAME and can run it."""
    engine = Engine(programs, home)
    engine.load(archive, NAME)
    if why := engine.cannot_run(NAME):
        pytest.skip(f"no container runs here: {why}")
    return engine
