"""Makes the bundle: one tar with all that installs the service on a machine without a network.

`make bundle` calls it; with --tree it lays the same files out in a folder, for `make install`.
Wheels are those of requirements/runtime.txt and no others: pip compares each with the hashes there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "runtime.txt"
PROJECT = "mirror-registry (pyproject.toml)"
DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")
PYTHONS = ("3.11", "3.12", "3.13")
# The C library that wheels may ask for: that of RHEL 8, and so of everything newer.
GLIBC = range(28, 16, -1)

_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?: ; (?P<marker>.*?))? \\$")
_EPOCH = 1_000_000_000  # of every file in the tar, where the checkout has no commit


@dataclass
class Locked:
    """One entry of the lock: its requirement, its hashes, and what asked for it."""

    name: str
    version: str
    marker: str
    hashes: list[str] = field(default_factory=list)
    wanted_by: list[str] = field(default_factory=list)


def read_lock(text: str) -> list[Locked]:
    """Return the entries of a lock that uv wrote."""
    found: list[Locked] = []
    for line in text.splitlines():
        if entry := _ENTRY.match(line):
            found.append(Locked(entry["name"], entry["version"], entry["marker"] or ""))
        elif line.startswith("    --hash="):
            found[-1].hashes.append(line.strip().removesuffix("\\").strip())
        elif line.startswith("    #"):
            asker = line.removeprefix("    #").strip().removeprefix("via").strip()
            if asker:
                found[-1].wanted_by.append(asker)
    return found


def needed_to_run(entries: list[Locked]) -> list[Locked]:
    """Return what the service needs, without what only builds it."""
    names = {PROJECT}
    while True:
        more = {entry.name for entry in entries if names.intersection(entry.wanted_by)} - names
        if not more:
            return [entry for entry in entries if entry.name in names]
        names |= more


def applies(entry: Locked, python: str, machine: str) -> bool:
    """Tell whether an entry is for this version of CPython on Linux."""
    environment = {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    return not entry.marker or Marker(entry.marker).evaluate(environment)


def fetch_wheels(python: str, machine: str, into: Path) -> list[str]:
    """Put the wheels for one Python into a folder; return their names. Those that are there are not fetched again."""
    entries = [one for one in needed_to_run(read_lock(LOCK.read_text())) if applies(one, python, machine)]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC] + [f"manylinux2014_{machine}"]
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "wanted.txt"
        wanted.write_text(
            "".join(f"{one.name}=={one.version} {' '.join(one.hashes)}\n".replace("\\", "") for one in entries)
        )
        arguments = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--find-links", str(into)]
        arguments += ["--implementation", "cp", "--python-version", python]
        arguments += [f"--abi={abi}" for abi in (f"cp{python.replace('.', '')}", "abi3", "none")]
        arguments += [f"--platform={one}" for one in platforms]
        # Into a folder of its own, to know which are for this Python.
        fetched = Path(scratch) / "wheels"
        arguments += ["-d", str(fetched), "-r", str(wanted)]
        # First without asking anybody: a second bundle needs no network.
        if not _pip("download", "--no-index", *arguments, must=False):
            _pip("download", *arguments)
        names = sorted(path.name for path in fetched.iterdir())
        if len(names) != len(entries):
            raise SystemExit(f"bundle: {len(entries)} wheels were asked for, and {len(names)} came: {names}")
        for path in fetched.iterdir():
            shutil.move(path, into / path.name)
    return names


def build_own(into: Path) -> str:
    """Put the project's own wheel into a folder; return its name."""
    with tempfile.TemporaryDirectory() as scratch:
        _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", scratch, str(ROOT))
        (made,) = Path(scratch).iterdir()
        shutil.move(made, into / made.name)
        return made.name


def _pip(*arguments: str, must: bool = True) -> bool:
    """Run pip and tell whether it worked; one that `must` ends this program where it does not."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(_time())}
    ended = subprocess.run(command, env=environment, capture_output=not must)
    if must and ended.returncode != 0:
        raise SystemExit(f"bundle: pip {arguments[0]} failed")
    return ended.returncode == 0


def lay_out(tree: Path, pythons: list[str], machine: str, cache: Path, image: Path | None) -> None:
    """Write all files of the bundle into an empty folder."""
    wheels = tree / "wheels"
    wheels.mkdir(parents=True)
    cache.mkdir(parents=True, exist_ok=True)
    own = build_own(wheels)
    for python in pythons:
        names = fetch_wheels(python, machine, cache)
        for name in names:
            shutil.copyfile(cache / name, wheels / name)
        # What unpack.py goes by; `sha256sum -c` reads it as well.
        lines = [f"{_hash(wheels / name)}  wheels/{name}\n" for name in sorted((*names, own))]
        (tree / f"python-{python}.txt").write_text("".join(lines))
    for name in ("install.sh", "unpack.py", "README.txt"):
        shutil.copy(ROOT / "bundle" / name, tree / name)
    for folder in ("systemd", "config", "docs"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("quickstart-store", ".*"))
    # As in the checkout, so that what they link and name lies where they say.
    for name in DOCUMENTS:
        shutil.copy(ROOT / name, tree / name)
    manual = [sys.executable, str(ROOT / "bundle" / "manual.py"), str(tree / "share")]
    subprocess.run(manual, env={**os.environ, "SOURCE_DATE_EPOCH": str(_time())}, stdout=subprocess.DEVNULL, check=True)
    if image is not None:
        (tree / "image").mkdir()
        shutil.copyfile(image, tree / "image" / "mirror.oci.tar")
    (tree / "VERSION").write_text(f"{version()} {machine}\n")
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    sums = "".join(f"{_hash(path)}  {path.relative_to(tree)}\n" for path in files)
    (tree / "SHA256SUMS").write_text(sums)


def pack(tree: Path, name: str, output: Path) -> Path:
    """Write the tar of a laid out bundle, the same bytes for the same files; return its path."""
    output.mkdir(parents=True, exist_ok=True)
    target = output / f"{name}.tar"
    temporary = target.with_name(f".{target.name}~")
    # Not compressed: wheels and layers are.
    with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in (tree, *sorted(tree.rglob("*"))):
            entry = tar.gettarinfo(path, f"{name}/{path.relative_to(tree)}".removesuffix("/."))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            entry.mtime = _time()
            entry.mode = 0o755 if entry.isdir() or path.suffix == ".sh" else 0o644
            with path.open("rb") if entry.isreg() else open(os.devnull, "rb") as content:
                tar.addfile(entry, content if entry.isreg() else None)
    temporary.rename(target)
    return target


def version() -> str:
    """Return the version of the checkout."""
    found = re.search(r'__version__ = "([^"]+)"', (ROOT / "mirror" / "__init__.py").read_text())
    assert found is not None
    return found[1]


def _time() -> int:
    if stated := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(stated)
    try:
        said = subprocess.run(
            ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return _EPOCH
    return int(said)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> None:
    """Make what the command line asks for, and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tree", type=Path, help="lay the files out in this folder, made anew, and make no tar")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="where the tar goes")
    parser.add_argument(
        "--python", action="append", metavar="3.12", help="only for this Python; several times for more"
    )
    parser.add_argument("--machine", default=platform.machine(), help="x86_64 or aarch64")
    parser.add_argument("--image", type=Path, help="an oci-archive of the container image, to be taken along")
    parser.add_argument("--cache", type=Path, default=ROOT / ".tools" / "wheels", help="where wheels are kept")
    given = parser.parse_args(arguments)
    pythons = given.python or list(PYTHONS)
    if given.tree is not None:
        shutil.rmtree(given.tree, ignore_errors=True)
        lay_out(given.tree, pythons, given.machine, given.cache, given.image)
        return
    name = f"mirror-{version()}-{given.machine}"
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / name
        lay_out(tree, pythons, given.machine, given.cache, given.image)
        target = pack(tree, name, given.output)
    print(f"{_hash(target)}  {target}")


if __name__ == "__main__":
    main()
