"""What the operating system refuses ends a command with one line and a code, never with a traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from mirror.cli import desk, main
from mirror.cli.outcome import Outcome
from mirror.config import load
from mirror.store.layout import Layout
from mirror.store.probe import prepare
from tests.tools.programs import ROOT

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the owner of a store")


@pytest.mark.parametrize(("number", "code"), [(errno.EACCES, 78), (errno.EPERM, 78), (errno.EROFS, 78), (errno.EIO, 1)])
def test_in_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, code: int) -> None:
    (tmp_path / "mirror.yaml").write_text(f"storage: {{path: {tmp_path}/store}}\n")

    async def fail(_: desk.Desk) -> None:
        raise OSError(number, os.strerror(number), "/the/store/blobs")

    assert desk.run(load(tmp_path / "mirror.yaml"), Outcome("du", as_json=False), fail, begins=True) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mirror du: /the/store/blobs")
    assert os.strerror(number) in line


def test_anywhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/etc/mirror")

    monkeypatch.setattr("mirror.cli.options.read_config", fail)
    done = CliRunner().invoke(main, ["check"])
    assert done.exit_code == 78
    assert done.stderr == "mirror check: /etc/mirror: this is refused (Permission denied): look at its owner and mode\n"


@pytest.mark.parametrize("words", [["ls"], ["user", "list"], ["token", "list"], ["explain", "nginx"], ["check"]])
def test_a_closed_configuration_names_the_line_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    path = tmp_path / "mirror.yaml"

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mirror", *words])
    monkeypatch.setenv("MIRROR_CONFIG", str(path))
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 78
    line = " ".join(["sudo", "env", f"MIRROR_CONFIG={path}", "mirror", *words])
    service = "let the service's user read it, or " if words == ["check"] else ""
    command = " ".join(word for word in words if word != "nginx")
    assert done.stderr == f"mirror {command}: {path}: cannot be read: Permission denied: {service}run: {line}\n"


@pytest.mark.parametrize("owner", [os.geteuid(), pytest.param(12345, marks=as_root)])
@pytest.mark.parametrize(
    "words", [["ls"], ["ls", "--json"], ["verify", "--json"], ["token", "list"], ["du"], ["check"], ["gc", "--json"]]
)
def test_who_stops_reading_is_told_nothing(words: list[str], owner: int) -> None:
    with tempfile.TemporaryDirectory() as made:  # unlike pytest's, one that every user may look into
        os.chmod(made, 0o755)
        folder = Path(made)
        (folder / "mirror.yaml").write_text(f"storage: {{path: {made}/store}}\n")
        prepare(Layout(folder / "store"))
        if owner != os.geteuid():
            subprocess.run(["chown", "-R", str(owner), folder / "store"], check=True)
        reads, writes = os.pipe()
        os.close(reads)
        with os.fdopen(writes, "wb") as nobody:
            done = subprocess.run(
                [sys.executable, "-m", "mirror", *words],
                cwd=ROOT,
                env={**os.environ, "MIRROR_CONFIG": f"{made}/mirror.yaml"},
                stdout=nobody,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert (done.returncode, done.stderr) == (1, "")
