"""Folders that are not there: mistyped, or on a disk that is not mounted. Nobody asked for them, and none is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mirror.cli import main
from mirror.offline.resources.paths import NODES
from mirror.store import probe
from tests.unit.offline import foreign_bed

Run = Callable[..., Result]

DIGEST = f"sha256:{'a' * 64}"
_LOOKING = (
    ("ls",),
    ("ls", "prod"),
    ("du",),
    ("verify",),
    ("verify", "prod"),
    ("explain", "quay.io/org/app"),
    ("resources", "prod", "--registry", "mirror.lab:5000"),
    ("inventory",),
    ("save", "prod", "--to", "."),
    ("pin", f"quay.io/org/app@{DIGEST}"),
    ("unpin", "prod@1"),
    ("purge", "quay.io/org/app"),
    ("scrub",),
    ("gc",),
    ("history", "apps/mine:1"),
    ("plan", "nosuch"),
    ("sync", "nosuch"),
    ("load", "nosuch.tar"),
    ("token", "list"),
    ("token", "revoke", "ci"),
)


@pytest.fixture(autouse=True)
def loop_never_blocks() -> None:
    """A command serves nobody beside what it does, so its loop may wait for the disk."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in a folder of its own, on a store at `disk/store`."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    configuration = tmp_path / "mirror.yaml"
    configuration.write_text(f"{{storage: {{path: {tmp_path}/disk/store}}, upstreams: {{quay.io: {{}}}}}}\n")

    def call(*words: str | Path, code: int = 0) -> Result:
        line = [*map(str, words), "--config", str(configuration)]
        done = CliRunner().invoke(main, line, catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done

    return call


def everything(folder: Path) -> set[str]:
    """Return the paths of all that is below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("words", _LOOKING, ids=" ".join)
@pytest.mark.parametrize("there", ["", "disk", "disk/store"])
def test_a_store_that_is_not_there(run: Run, tmp_path: Path, words: tuple[str, ...], there: str) -> None:
    """The disk of a store that is not mounted leaves an empty folder, or none."""
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    before = everything(tmp_path)
    done = run(*words, code=78)
    assert f"there is no store in {tmp_path}/disk/store" in done.stderr
    assert "storage.path" in done.stderr
    assert everything(tmp_path) == before


def test_a_load_makes_the_store_that_the_remedy_speaks_of(run: Run, tmp_path: Path) -> None:
    assert "load make a new store" in run("ls", code=78).stderr
    foreign_bed.pack(tmp_path / "tool.tar", foreign_bed.oci_layout(foreign_bed.app("tool")))
    run("load", tmp_path / "tool.tar", "--as", "quay.io/org/tool:1")
    assert "tool" in run("ls").output


def test_a_pull_through_site_is_described_without_a_store(run: Run, tmp_path: Path) -> None:
    run("resources", "--registry", "mirror.lab:5000")
    assert "mirror.lab:5000/quay.io" in (tmp_path / "home/mirror-resources" / NODES).read_text()
    assert not (tmp_path / "disk").exists()


def test_resources_make_their_folder_and_none_above_it(run: Run, tmp_path: Path) -> None:
    away = tmp_path / "unmounted" / "out"
    done = run("resources", "--registry", "mirror.lab:5000", "-o", away, code=78)
    assert f"there is no folder {away.parent}" in done.stderr
    assert not away.parent.exists()
    away.parent.mkdir()
    run("resources", "--registry", "mirror.lab:5000", "-o", away)
    assert (away / "README.md").exists()


@pytest.mark.parametrize("below", ["", "new"])
def test_resources_are_not_written_to_a_file(run: Run, tmp_path: Path, below: str) -> None:
    taken = tmp_path / "out"
    taken.write_text("mine")
    done = run("resources", "--registry", "mirror.lab:5000", "-o", taken / below, code=78)
    assert f"{taken} is a file, and these are written to a folder: name a folder" in done.stderr
    assert taken.read_text() == "mine"


def test_a_file_is_not_written_to_a_folder_that_is_not_there(run: Run, tmp_path: Path) -> None:
    foreign_bed.pack(tmp_path / "tool.tar", foreign_bed.oci_layout(foreign_bed.app("tool")))
    run("load", tmp_path / "tool.tar", "--as", "quay.io/org/tool:1")
    away = tmp_path / "unmounted" / "inventory.txt"
    done = run("inventory", "-o", away, code=78)
    assert f"there is no folder {away.parent}: make it, or mount its disk" in done.stderr
    assert not away.parent.exists()
    away.parent.mkdir()
    run("inventory", "-o", away)
    assert away.exists()


def test_a_save_goes_to_a_folder_that_is_there_and_says_which_file_system_that_is(run: Run, tmp_path: Path) -> None:
    foreign_bed.pack(tmp_path / "tool.tar", foreign_bed.oci_layout(foreign_bed.app("tool")))
    run("load", tmp_path / "tool.tar", "--as", "quay.io/org/tool:1", "--set", "tools")
    done = run("save", "tools", "--to", tmp_path / "unmounted", code=78)
    assert f"there is no folder {tmp_path}/unmounted: make it, or mount its disk" in done.stderr
    assert not (tmp_path / "unmounted").exists()
    (tmp_path / "unmounted").mkdir()
    report = json.loads(run("save", "tools", "--to", tmp_path / "unmounted", "--json", "-q").stdout)
    mount = report["file_system"]
    assert (tmp_path / "unmounted").is_relative_to(mount["point"])
    again = tmp_path / "again"
    again.mkdir()
    assert f" on {mount['point']} ({mount['type']}, {mount['source']})" in run("save", "tools", "--to", again).output


@pytest.mark.parametrize("there", ["", "disk", "disk/store"])
def test_a_check_makes_no_store(run: Run, tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir(parents=True, exist_ok=True, mode=0o700)
    before = everything(tmp_path)
    assert "`mirror serve` makes it" in run("check").output
    assert everything(tmp_path) == before


def test_a_check_tries_the_file_system_before_there_is_a_store(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_keeps_case", lambda _folder: False)
    (tmp_path / "disk/store").mkdir(parents=True, mode=0o700)
    before = everything(tmp_path)
    assert "names that differ by case" in run("check", code=78).output
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ("save", "prod", "--to", ""),
        ("resources", "--registry", "mirror.lab:5000", "-o", ""),
        ("inventory", "-o", ""),
        ("verify", "-o", ""),
        ("scrub", "--missing", ""),
        ("load", ""),
        ("plan", "prod.yaml", "-o", ""),
    ],
    ids=" ".join,
)
def test_a_variable_of_the_shell_that_is_not_set_names_no_folder(
    run: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    before = everything(tmp_path)
    assert "an empty path: is a variable not set?" in run(*words, code=2).stderr
    assert everything(tmp_path) == before


def test_a_folder_is_no_file_to_write(run: Run, tmp_path: Path) -> None:
    foreign_bed.pack(tmp_path / "tool.tar", foreign_bed.oci_layout(foreign_bed.app("tool")))
    run("load", tmp_path / "tool.tar", "--as", "quay.io/org/tool:1")
    assert "is a folder: name a file" in run("inventory", "-o", ".", code=78).stderr
