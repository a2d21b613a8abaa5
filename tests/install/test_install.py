"""What the bundle holds, and what install.sh makes of it below a folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bundle import build
from tests.tools.programs import ROOT

PYTHON = "/usr/bin/python3"  # the one that runs these tests may lie where no service may read

in_full = pytest.mark.skipif(not os.environ.get("MACHINES"), reason="takes long: make machines")


@pytest.fixture(scope="module")
def python():
    said = subprocess.run([PYTHON, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True)
    if said.stdout.strip() != "(3, 11)":
        pytest.skip("these tests have wheels for Debian 12's own Python")
    return PYTHON


def install(tree, destination, *arguments, code=0, **environment):
    done = subprocess.run(
        [str(tree / "install.sh"), *arguments],
        env={**os.environ, "DESTDIR": str(destination), "PYTHON": PYTHON, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def installed(destination):
    """Return what is below a folder, without the program's own files, its manual and completion."""
    found = (path.relative_to(destination) for path in destination.rglob("*") if not path.is_dir() or path.is_symlink())
    return sorted(str(path) for path in found if not str(path).startswith(("opt/mirror/", "usr/local/share/")))


UNITS = [
    "usr/local/bin/mirror",
    "usr/local/lib/systemd/system/mirror-sync@.service",
    "usr/local/lib/systemd/system/mirror-sync@.timer",
    "usr/local/lib/systemd/system/mirror.service",
    "usr/local/lib/systemd/system/mirror.socket",
    "usr/local/lib/sysusers.d/mirror.conf",
    "usr/local/lib/tmpfiles.d/mirror.conf",
]
DROP_INS = [f"etc/systemd/system/{unit}.d/store.conf" for unit in ("mirror-sync@.service", "mirror.service")]


def test_make_install_lays_everything_out_below_a_folder_and_uninstall_takes_it_away(tree, tmp_path, python):
    install(tree, tmp_path)
    assert installed(tmp_path) == UNITS
    program = tmp_path / "opt/mirror/bin/mirror"
    assert program.read_text().startswith("#!/opt/mirror/bin/python3 -I\n")
    assert (tmp_path / "usr/local/share/man/man1/mirror.1").is_file()
    assert os.readlink(tmp_path / "usr/local/bin/mirror") == "/opt/mirror/bin/mirror"
    said = subprocess.run(
        [tmp_path / "opt/mirror/bin/python3", "-I", program, "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"mirror, version {build.version()}\n"
    for path in (tmp_path / "opt").rglob("*"):
        if not path.is_symlink():
            mode = path.stat().st_mode
            assert mode & 0o044 == 0o044, path
            assert not mode & 0o022, path
            assert not stat.S_ISDIR(mode) or mode & 0o011 == 0o011, path
    # Nothing says where it was made.
    assert not any(str(tree) in text for text in (program.read_text(), (tmp_path / UNITS[3]).read_text()))
    install(tree, tmp_path, STORE="/data/mirror")  # again, over the first
    assert installed(tmp_path) == sorted([*UNITS, *DROP_INS])
    for drop_in in DROP_INS:
        lines = (tmp_path / drop_in).read_text().splitlines()
        assert "ReadWritePaths=/data/mirror" in lines
        assert "RequiresMountsFor=/data/mirror" in lines
    assert "d /data/mirror 0700 mirror mirror" in (tmp_path / UNITS[6]).read_text()
    (tmp_path / "etc/mirror/mirror.yaml").write_text("{}")
    install(tree, tmp_path, "--uninstall")
    assert installed(tmp_path) == ["etc/mirror/mirror.yaml"]
    assert not (tmp_path / "opt/mirror").exists()
    assert not [path for path in (tmp_path / "usr/local/share").rglob("*") if path.is_file()]


@in_full
def test_another_prefix_is_in_every_path(tree, tmp_path, python):
    install(tree, tmp_path, PREFIX="/srv/tools/mirror")
    text = (tmp_path / "usr/local/lib/systemd/system/mirror.service").read_text()
    assert "ExecStart=/srv/tools/mirror/bin/mirror serve" in text
    assert "/opt/mirror" not in text
    assert (tmp_path / "srv/tools/mirror/bin/mirror").read_text().startswith("#!/srv/tools/mirror/bin/python3 -I\n")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PREFIX": "opt"}, "write the whole path"),
        ({"PREFIX": "/opt/../etc"}, "write the whole path"),
        ({"PREFIX": "/"}, "folders of their own"),
        ({"STORE": "/data/my store"}, "use letters, digits"),
        ({"PYTHON": sys.executable}, "which the service may not read"),
        ({"PYTHON": "python2.7-that-is-not-there"}, "Install Python 3.11, 3.12 or 3.13"),
    ],
)
def test_what_cannot_be_installed_says_why_and_changes_nothing(tree, tmp_path, environment, said):
    if "may not read" in said and not os.path.realpath(sys.executable).startswith(("/root/", "/home/")):
        pytest.skip("this Python lies where a service may read")
    assert said in install(tree, tmp_path, code=1, **environment)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_other_things_is_left_alone(tree, tmp_path, python):
    (tmp_path / "opt/mirror").mkdir(parents=True)
    (tmp_path / "opt/mirror/precious").write_text("")
    assert "holds other things" in install(tree, tmp_path, code=1)
    assert "there is no mirror in" in install(tree, tmp_path, "--uninstall", code=1)
    assert installed(tmp_path) == []
    assert (tmp_path / "opt/mirror/precious").exists()


def test_a_damaged_wheel_and_one_for_another_machine_leave_the_old_release(tree, tmp_path, python):
    damaged = tmp_path / "bundle"
    shutil.copytree(tree, damaged)
    destination = tmp_path / "root"
    (destination / "opt/mirror/share/mirror").mkdir(parents=True)
    (destination / "opt/mirror/share/mirror/installed").write_text("0.0.1 x86_64\n")
    wheel = next(damaged.glob("wheels/yarl-*.whl"))
    good = wheel.read_bytes()
    wheel.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    assert f"{wheel} is damaged" in install(damaged, destination, code=1)
    wheel.write_bytes(good)
    (damaged / "VERSION").write_text("0.1.0 sparc64\n")
    assert "this bundle is for sparc64" in install(damaged, destination, code=1)
    (damaged / "VERSION").write_text((tree / "VERSION").read_text())
    (damaged / "python-3.11.txt").rename(damaged / "python-3.14.txt")
    assert "is 3.11, and this bundle is for 3.14" in install(damaged, destination, code=1)
    assert [str(path.relative_to(destination)) for path in destination.rglob("*") if path.is_file()] == [
        "opt/mirror/share/mirror/installed"
    ]


def test_the_bundle_says_what_it_is_and_its_sums_hold(tree):
    done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = {line.split(maxsplit=1)[1] for line in (tree / "SHA256SUMS").read_text().splitlines()}
    assert listed == {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()} - {"SHA256SUMS"}
    for name in ("docs/install.md", "systemd/mirror.service", "config/mirror.yaml", "install.sh", "README.txt"):
        assert name in listed


def dead_ends(tree, root=None):
    """Return what the documents below a folder link or name that is not there, as `document: target`.

    A name such as `config/alerts.yaml` is one from the top of that folder, /opt/mirror/… a path on the host whose / is
    `root`.
    """
    found = []
    for document in sorted((*tree.glob("*.md"), *tree.glob("docs/*.md"))):
        text = document.read_text()
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
            target = document.parent / path if path else document
            if not target.exists() or (anchor and anchor not in anchors(target)):
                found.append(f"{document.name}: {path}#{anchor}")
        for name in re.findall(r"(?<![\w./-])(?:config|systemd|docs)/[\w./@-]*\w", text):
            if not (tree / name).exists():
                found.append(f"{document.name}: {name}")
        for name in re.findall(r"/opt/mirror/[\w./@-]*\w", text):
            if root is not None and not os.path.lexists(root / name.lstrip("/")):
                found.append(f"{document.name}: {name}")
    return found


def anchors(document):
    """Return what the headings of a document are linked by."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


def test_what_documents_link_and_name_is_beside_them_wherever_they_lie(tree, tmp_path, python):
    assert dead_ends(ROOT) == []
    assert dead_ends(tree) == []
    install(tree, tmp_path)
    documents = tmp_path / "opt/mirror/share/doc/mirror"
    assert dead_ends(documents, tmp_path) == []
    assert {path.name for path in documents.glob("docs/*.md")} == {path.name for path in ROOT.glob("docs/*.md")}
    for folder in (tree, documents):
        assert "[Container]" in (folder / "systemd/mirror.container").read_text()
        assert "[Volume]" in (folder / "systemd/mirror.volume").read_text()
    for unit in UNITS[1:5]:
        for path in re.findall(r" file:(\S+)", (tmp_path / unit).read_text()):
            assert (tmp_path / path.lstrip("/")).is_file(), unit


def test_the_tar_is_the_same_whenever_it_is_made(tree, tmp_path):
    first = build.pack(tree, "mirror-1", tmp_path / "first")
    again = tmp_path / "copy"
    shutil.copytree(tree, again)
    second = build.pack(again, "mirror-1", tmp_path / "second")
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()
    with tarfile.open(first) as tar:
        assert {(entry.uid, entry.gid) for entry in tar} == {(0, 0)}
        assert tar.getmember("mirror-1/install.sh").mode == 0o755
        assert all(entry.name.split("/")[0] == "mirror-1" for entry in tar)


def test_only_what_runs_is_taken_along_with_the_hashes_of_the_lock():
    locked = build.read_lock(build.LOCK.read_text())
    names = {one.name for one in build.needed_to_run(locked)}
    assert {"aiohttp", "cffi", "cryptography", "pydantic-core", "typing-extensions"} <= names
    assert not {"hatchling", "editables", "pathspec"} & names
    assert all(one.hashes for one in locked)
    assert sum(text.startswith("    --hash=") for text in build.LOCK.read_text().splitlines()) == sum(
        len(one.hashes) for one in locked
    )


def test_a_marker_is_judged_for_the_python_that_is_aimed_at():
    marked = build.Locked("a", "1", "python_full_version < '3.13' and platform_python_implementation != 'PyPy'")
    assert build.applies(marked, "3.12", "x86_64")
    assert not build.applies(marked, "3.13", "x86_64")
    assert build.applies(build.Locked("a", "1", ""), "3.13", "x86_64")


@in_full
@pytest.mark.timeout(600)
def test_make_bundle_has_wheels_for_each_python(tmp_path):
    build.main(["--output", str(tmp_path)])
    (made,) = tmp_path.glob("mirror-*.tar")
    with tarfile.open(made) as tar:
        names = [Path(name).name for name in tar.getnames()]
    for version in ("311", "312", "313"):
        assert any(name.startswith("aiohttp-") and f"-cp{version}-" in name for name in names)
        assert any(name == f"python-{version[0]}.{version[1:]}.txt" for name in names)


def test_make_knows_the_targets():
    said = subprocess.run(["make", "-n", "uninstall"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "install.sh --uninstall" in said
