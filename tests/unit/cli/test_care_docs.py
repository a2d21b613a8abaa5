"""docs/store.md: what it tells to type works, and prints what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.offline import documented
from tests.offline.documented import Session
from tests.peers.images import make_image, noise
from tests.tools.programs import ROOT
from tests.unit.cli.care_bed import MIRROR, Site, Upstream
from tests.unit.content.hosted_bed import Shelf

DOCUMENT = ROOT / "docs" / "store.md"
BASE = noise(30_000, 77)
IMAGES = {
    ("team/app", "v1"): make_image(BASE, noise(9000, 1), seed=1),
    ("team/app", "v2"): make_image(BASE, noise(8000, 2), seed=2),
    ("team/tool", "v1"): make_image(noise(4000, 3), seed=3),
}
_SHORTENED = re.compile(r"(sha256:[0-9a-f]+)…")
_LOGGED = re.compile(r"^time=.*\n?", re.MULTILINE)


@pytest.fixture(autouse=True)
def loop_never_blocks() -> None:
    """A command serves nobody beside what it does, so its loop may wait for the disk."""


def prepare(site: Site, side: str) -> None:
    """Let the store be what the document says of it before a block."""
    where, *befallen = side.split(", ")
    assert where == "the mirror"
    assert set(befallen) <= {"offline", "after its disk has lost a bit"}
    site.configure(offline="offline" in befallen)
    if "after its disk has lost a bit" in befallen:
        site.flip(BASE)


def whole(site: Site, beginning: str) -> str:
    """Return the digest that is here and begins as the document says."""
    (found,) = (digest for digest in site.stored() if digest.startswith(beginning))
    return found


def run(site: Site, session: Session) -> str:
    printed = ""
    for command in session.commands:
        words = _SHORTENED.sub(lambda found: whole(site, found[1]), command.text).split()
        assert words[0] == "mirror"
        done = CliRunner().invoke(MIRROR, [words[1], "--config", str(site.folder / "mirror.yaml"), *words[2:]])
        assert done.exit_code == command.code, f"line {session.line}: {command.text}\n{done.output}"
        printed += _LOGGED.sub("", done.output)
    return printed


def test_the_document_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Upstream(IMAGES) as upstream:
        site = Site(tmp_path, upstream, "quay.io")
        site.configure()

        async def push(shelf: Shelf) -> None:
            await shelf.image(5, "v1")
            await shelf.image(6, "v1")
            await shelf.blob(noise(2000, 9))
            shelf.age(2 * 86400)

        site.with_shelf(push)
        followed = 0
        for step in documented.read(DOCUMENT.read_text()):
            assert isinstance(step, Session)
            prepare(site, step.side)
            printed = run(site, step)
            assert step.output is not None
            shown = documented.shows(step.output, printed)
            assert shown, f"{DOCUMENT.name}:{step.line} shows\n{step.output}\nand what is printed is\n{printed}"
            followed += 1
        assert followed == 9
