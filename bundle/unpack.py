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

HERE = os.path.dirname(os.path.abspath(__file__))
NEWER_GLIBC = (2, 28)
# What a host's Python may lack although its version fits: Debian and others split the library.
NEEDED = ("ctypes", "sqlite3", "ssl", "venv", "zlib")
# What the sandbox of the unit hides (ProtectHome=), and other users may not read.
HIDDEN = ("/home/", "/root/", "/run/user/")


def lists():
    """Return the version of this Python, as 3.12, and the file that lists its wheels."""
    version = "%d.%d" % sys.version_info[:2]
    return version, os.path.join(HERE, "python-%s.txt" % version)


def misfit():
    """Return why this Python cannot run what is in the bundle, or nothing."""
    with open(os.path.join(HERE, "VERSION")) as file:
        machine = file.read().split()[1]
    version, listed = lists()
    if platform.python_implementation() != "CPython":
        return "is %s, not CPython" % platform.python_implementation()
    if not os.path.exists(listed):
        there = sorted(name[7:-4] for name in os.listdir(HERE) if name.startswith("python-"))
        return "is %s, and this bundle is for %s" % (version, ", ".join(there))
    if platform.machine() != machine:
        return "is of %s, and this bundle is for %s" % (platform.machine(), machine)
    library, number = platform.libc_ver()
    if library != "glibc" or tuple(int(part) for part in number.split(".")[:2]) < NEWER_GLIBC:
        return "uses the C library %s %s, and wheels need glibc %d.%d or newer" % ((library, number) + NEWER_GLIBC)
    program = os.path.realpath(sys.executable)
    if program.startswith(HIDDEN):
        return "is at %s, which the service may not read" % program
    for name in NEEDED:
        try:
            __import__(name)
        except ImportError:
            return "has no module %s: install all of Python's library" % name
    return ""


def wheels():
    """Return the paths of the wheels for this Python, each compared with its SHA-256."""
    found = []
    with open(lists()[1]) as file:
        for line in file:
            expected, name = line.split()
            path = os.path.join(HERE, name)
            hashed = hashlib.sha256()
            with open(path, "rb") as wheel:
                for piece in iter(lambda wheel=wheel: wheel.read(1 << 20), b""):
                    hashed.update(piece)
            if hashed.hexdigest() != expected:
                sys.exit("install: %s is damaged: its SHA-256 is not what %s says" % (path, lists()[1]))
            found.append(path)
    return found


def unpack(wheel, packages):
    """Put the files of a wheel into site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            parts = name.split("/")
            if name.startswith("/") or ".." in parts or parts[0].endswith(".data"):
                sys.exit("install: %s holds %s, which belongs nowhere here" % (wheel, name))
        archive.extractall(packages)


def make(folder, prefix):
    """Make the environment in `folder`; it works there and, once it is moved, at `prefix`."""
    import venv

    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    packages = os.path.join(folder, "lib", "python" + lists()[0], "site-packages")
    for wheel in wheels():
        unpack(wheel, packages)
    bin_folder = os.path.join(folder, "bin")
    for name in os.listdir(bin_folder):
        if name.lower().startswith("activate"):  # they name the folder that this will not stay in
            os.remove(os.path.join(bin_folder, name))
    program = os.path.join(bin_folder, "mirror")
    with open(program, "w") as file:
        # -I: neither the environment nor the user's own packages change what runs as root.
        file.write("#!%s/bin/python3 -I\n" % prefix)
        file.write("from mirror.__main__ import run\n\nrun()\n")
    os.chmod(program, 0o755)
    python = os.path.join(bin_folder, "python3")
    # Now, because the service may not write here; by paths that stay.
    quiet = [python, "-I", "-m", "compileall", "-q", "-s", folder, "-p", prefix, packages]
    if subprocess.call(quiet, stdout=subprocess.DEVNULL) != 0:
        sys.exit("install: compiling failed")
    # Every wheel that is compiled is loaded once here: one of another machine or C library is found out now.
    trial = "import mirror.app, mirror.cli.crossing, yaml, pydantic, cryptography.x509, bcrypt; print(mirror.__version__)"
    if subprocess.call([python, "-I", "-c", trial], stdout=subprocess.DEVNULL) != 0:
        shutil.rmtree(folder)
        sys.exit("install: what was unpacked does not run with %s" % sys.executable)


if __name__ == "__main__":
    if sys.argv[1:] == ["fits"]:
        sys.exit(misfit() or 0)
    if sys.argv[1:2] == ["into"] and len(sys.argv) == 4:
        make(sys.argv[2], sys.argv[3])
    else:
        sys.exit(__doc__)
