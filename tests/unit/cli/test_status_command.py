"""`mirror status` tells a service that is busy from one that is not there."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirror.admin.socket import connect
from mirror.cli import asking
from mirror.cli.status import _work_lines, status
from mirror.config import Config
from mirror.errors import ConfigurationError, Problem

BROKEN = ConfigurationError([Problem("unknown-key", "no such key", "mirror.yaml:3", "remove it")])
Open = Callable[[Path], list[socket.socket]]


def nothing(_path: Path) -> list[socket.socket]:
    return []


def left(path: Path) -> list[socket.socket]:
    """A socket's name, after whoever listened was killed."""
    listens(path)[0].close()
    return []


def listens(path: Path) -> list[socket.socket]:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.bind(str(path))
    found.listen(8)
    return [found]


def full(path: Path) -> list[socket.socket]:
    """More wait at the socket than may: a further connection is not even taken."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.bind(str(path))
    found.listen(0)
    return [found, connect(path, 1)]


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    found: list[socket.socket] = []
    yield found
    for one in found:
        one.close()


ROWS = [
    pytest.param(nothing, None, 75, "no_service", "", id="none is there"),
    pytest.param(left, None, 75, "no_service", "", id="one was killed"),
    pytest.param(listens, None, 75, "service_busy", f"process {os.getpid()}", id="it takes the question and is silent"),
    pytest.param(full, None, 75, "service_busy", "it is busy", id="it takes no question"),
    pytest.param(listens, BROKEN, 75, "service_busy", "process", id="busy, and its file is broken by now"),
    pytest.param(nothing, BROKEN, None, "", "", id="none is there: what is wrong with the file is all there is to say"),
]


@pytest.mark.parametrize(("there", "wrong", "code", "problem", "what"), ROWS)
def test_busy_is_not_absent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    opened: list[socket.socket],
    there: Open,
    wrong: ConfigurationError | None,
    code: int | None,
    problem: str,
    what: str,
) -> None:
    monkeypatch.setattr(asking, "_PATIENCE", 0.2)
    (tmp_path / "run").mkdir()
    config = Config.model_validate({"storage": {"path": str(tmp_path)}})
    opened += there(config.admin_socket)
    assert status(config, wrong, as_json=True, quiet=False) == code
    if code is None:
        return
    said = json.loads(capsys.readouterr().out)
    assert said["exit"] == code
    assert said["problems"][0]["code"] == problem
    assert what in said["problems"][0]["what"]
    assert [one["code"] for one in said["problems"][1:]] == (["unknown-key"] if wrong is not None else [])


@pytest.mark.parametrize(
    ("fetch", "said"),
    [
        ({"upstream": "lab", "repository": "a/b", "size": 3 << 20, "received": 1 << 20},
         f"lab/a/b sha256:{'a' * 12}… 1.0 MiB of 3.0 MiB"),
        ({"upstream": "lab", "repository": "a/b", "size": None, "received": 1 << 20},
         f"lab/a/b sha256:{'a' * 12}… 1.0 MiB so far, of a size that upstream does not say"),
        ({"upstream": "", "repository": "", "size": None, "received": 0},
         f"sha256:{'a' * 12}… upstream has not answered yet"),
    ],
)  # fmt: skip
def test_what_is_not_known_of_a_download_is_said_in_words(fetch: dict[str, object], said: str) -> None:
    fetches = [{"digest": f"sha256:{'a' * 64}", **fetch}]
    facts = {"fetches": fetches, "uploads": 0, "notifications": {}, "housekeeping": True, "scrub": None}
    assert [line.strip() for line in _work_lines(facts)][1] == said
