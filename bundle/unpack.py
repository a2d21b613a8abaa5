"""Makes the service's virtual environment from the wheels of a bundle: no pip, no network, no other package is needed.

    python3 unpack.py fits                 can this Python run it? says why not, and ends with 1
    python3 unpack.py into FOLDER PREFIX   makes the environment in FOLDER, to be moved to PREFIX

A wheel is an archive of what belongs into site-packages (PEP 427); those here put nothing anywhere else. This file is
read by whatever `python3` a host has, so it is written for 3.6.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from typing import List  # noqa: UP035 - for 3.6

HERE = os.path.dirname(os.path.abspath(__file__))
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
WHEELS = os.path.join(HERE, f"python-{VERSION}.txt")
GLIBC = (2, 28)
# What a host's Python may lack although its version fits: Debian and others split the library.
NEEDED = ("ctypes", "sqlite3", "ssl", "venv", "zlib")
# What the sandbox of the unit hides (ProtectHome=), and other users may not read.
HIDDEN = ("/home/", "/root/", "/run/user/")


def misfit() -> str:
    """Return why this Python cannot run what is in the bundle, or nothing."""
    with open(os.path.join(HERE, "VERSION")) as file:
        machine = file.read().split()[1]
    if platform.python_implementation() != "CPython":
        return f"is {platform.python_implementation()}, not CPython"
    if not os.path.exists(WHEELS):
        listed = sorted(name[7:-4] for name in os.listdir(HERE) if name.startswith("python-"))
        return f"is {VERSION}, and this bundle is for {', '.join(listed)}"
    if platform.machine() != machine:
        return f"is of {platform.machine()}, and this bundle is for {machine}"
    library, number = platform.libc_ver()
    if library != "glibc" or tuple(int(part) for part in number.split(".")[:2]) < GLIBC:
        return f"uses the C library {library} {number}, and wheels need glibc {GLIBC[0]}.{GLIBC[1]} or newer"
    program = os.path.realpath(sys.executable)
    if program.startswith(HIDDEN):
        return f"is at {program}, which the service may not read"
    for name in NEEDED:
        try:
            __import__(name)
        except ImportError:
            return f"has no module {name}: install all of Python's library"
    return ""


def wheels() -> List[str]:  # noqa: UP006 - for 3.6
    """Return the paths of the wheels for this Python, each compared with its SHA-256."""
    found = []
    with open(WHEELS) as file:
        for line in file:
            expected, name = line.split()
            path = os.path.join(HERE, name)
            hashed = hashlib.sha256()
            with open(path, "rb") as wheel:
                while True:
                    piece = wheel.read(1 << 20)
                    if not piece:
                        break
                    hashed.update(piece)
            if hashed.hexdigest() != expected:
                sys.exit(f"install: {path} is damaged: its SHA-256 is not what {WHEELS} says")
            found.append(path)
    return found


def unpack(wheel: str, packages: str) -> None:
    """Put the files of a wheel into site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            parts = name.split("/")
            if name.startswith("/") or ".." in parts or parts[0].endswith(".data"):
                sys.exit(f"install: {wheel} holds {name}, which belongs nowhere here")
        archive.extractall(packages)


def make(folder: str, prefix: str) -> None:
    """Make the environment in `folder`; it works there and, once it is moved, at `prefix`."""
    import venv

    checked = wheels()
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    packages = os.path.join(folder, "lib", f"python{VERSION}", "site-packages")
    for wheel in checked:
        unpack(wheel, packages)
    programs = os.path.join(folder, "bin")
    for name in os.listdir(programs):
        if name.lower().startswith("activate"):  # they name the folder that this will not stay in
            os.remove(os.path.join(programs, name))
    program = os.path.join(programs, "mirror")
    with open(program, "w") as file:
        # -I: neither the environment nor a user's own packages change what runs as root.
        file.write(f"#!{prefix}/bin/python3 -I\nfrom mirror.__main__ import run\n\nrun()\n")
    os.chmod(program, 0o755)
    python = os.path.join(programs, "python3")
    # Now, because the service may not write here; with the paths that will be.
    compiling = [python, "-I", "-m", "compileall", "-q", "-j", "0", "-s", folder, "-p", prefix, packages]
    if subprocess.call(compiling, stdout=subprocess.DEVNULL) != 0:
        shutil.rmtree(folder)
        sys.exit("install: compiling failed")
    # What is compiled is loaded once: a wheel of another machine or C library is found out now.
    trial = "import mirror.app, mirror.cli.crossing, bcrypt, cryptography.x509, pydantic, yaml"
    if subprocess.call([python, "-I", "-c", trial]) != 0:
        shutil.rmtree(folder)
        sys.exit(f"install: what was unpacked does not run with {sys.executable}")


if __name__ == "__main__":
    if sys.argv[1:] == ["fits"]:
        sys.exit(misfit() or 0)
    if sys.argv[1:2] == ["into"] and len(sys.argv) == 4:
        make(sys.argv[2], sys.argv[3])
    else:
        sys.exit(__doc__)
