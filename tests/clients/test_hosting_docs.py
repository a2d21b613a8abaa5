"""docs/hosting.md as its readers follow it, from its first line to its last, against the service that it configures."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clients.conftest import Authority
from tests.offline.documented import Session, WrittenFile, normalised, read, shows
from tests.tools import images
from tests.tools.desks import Desk
from tests.tools.layouts import write_layout
from tests.tools.mirror import Mirror
from tests.tools.programs import ROOT, Programs

pytestmark = pytest.mark.clients

PAGE = (ROOT / "docs" / "hosting.md").read_text()
STEPS = read(PAGE)
HOST = "mirror.lab:5000"
FIRST = re.compile(r"sha256:3b[0-9a-f]+")  # what the page calls the first image of apps/web
CLIENTS = ("skopeo", "oras", "regctl", "crane", "curl")


@pytest.fixture
def site(
    programs: Programs, short: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Mirror, Desk]]:
    """The registry of the page, and a desk with the files that its commands name."""
    (written,) = [step for step in STEPS if isinstance(step, WrittenFile)]
    document: dict[str, Any] = yaml.safe_load(written.text)
    del document["listen"]
    document["tls"] = {"certificate": str(authority.certificate), "key": str(authority.key)}
    document["storage"]["path"] = str(short / "mirror" / "store")
    mirror = Mirror(short / "mirror", document)
    desk = Desk(programs, short / "desk", authority.ca)
    desk.environment["CURL_CA_BUNDLE"] = str(authority.ca)
    desk.environment["MIRROR_CONFIG"] = str(mirror.configuration)
    # Each program under its own name, with what a machine of one's own has in /etc.
    folder = desk.folder / "bin"
    folder.mkdir()
    policy = ["--policy", str(desk.policy)]
    lines = {name: [programs.find(name), *(policy if name == "skopeo" else [])] for name in CLIENTS}
    lines["mirror"] = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "mirror"]
    for name, words in lines.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (folder / name).chmod(0o755)
    desk.environment["PATH"] = f"{folder}:{os.environ['PATH']}"
    (desk.folder / "alice.txt").write_text("correct horse\n")
    (desk.folder / "sbom.json").write_text("{}")
    chance = random.Random(7)
    (desk.folder / "layer.tar").write_bytes(chance.randbytes(600_000))
    sizes = {"first": 200_000, "second": 300_000, "large": 3_000_000}
    layouts = []
    for name, size in sizes.items():
        layer = images.layer(images.tree({"srv/data": chance.randbytes(size)}))
        layouts.append(write_layout(desk.folder / name, images.image([layer]), name))
    merge(layouts, desk.folder / "build")
    mirror.configure({"clients": {**document["clients"], "htpasswd": str(desk.folder / "htpasswd")}})
    yield mirror, desk
    mirror.stop()
    print(mirror.log)
    assert "Traceback" not in mirror.log


def merge(layouts: list[Path], target: Path) -> None:
    """Make one OCI image layout of several."""
    blobs = target / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (target / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    listed = []
    for layout in layouts:
        listed += json.loads((layout / "index.json").read_text())["manifests"]
        for blob in (layout / "blobs" / "sha256").iterdir():
            blob.rename(blobs / blob.name)
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": listed}))


def test_the_page_is_followed_from_top_to_bottom(site: tuple[Mirror, Desk]) -> None:
    mirror, desk = site
    digest = json.loads((desk.folder / "first" / "index.json").read_text())["manifests"][0]["digest"]
    for session in (step for step in STEPS if isinstance(step, Session)):
        assert session.side in ("mirror", "client")
        if session.side == "client" and not mirror.running:
            mirror.start()
        text = "\n".join(command.text for command in session.commands)
        if "mirror gc" in text:
            age(mirror)
        # One shell for all of a block, which remembers what was set, and says how each command ended.
        script = "\n".join(f"{command.text}\necho ended-with-$?" for command in session.commands)
        script = FIRST.sub(digest[:20], script.replace(HOST, mirror.address))
        done = subprocess.run(
            ["sh"],
            input=script,
            cwd=desk.folder,
            env={**os.environ, **desk.environment},
            stdout=subprocess.PIPE,
            # What clients complain of is theirs, and differs with their versions.
            stderr=subprocess.STDOUT if session.side == "mirror" else subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        codes = [int(line[11:]) for line in done.stdout.splitlines() if line.startswith("ended-with-")]
        assert codes == [command.code for command in session.commands], (session.line, done.stdout, done.stderr)
        told = [line for line in done.stdout.splitlines() if not line.startswith("ended-with-")]
        printed = "\n".join(told).replace(mirror.address, HOST)
        if session.output is not None:
            assert shows("\n".join(normalised(session.output)), "\n".join(normalised(printed))), (
                f"line {session.line}:\n{printed}\n{done.stderr}"
            )


def age(mirror: Mirror) -> None:
    """Let all that was pushed be two days old."""
    for marker in (mirror.store / "hosted").rglob("sha256/*"):
        os.utime(marker, (0, 0))


def test_each_command_of_hosting_is_shown() -> None:
    commands = [command.text for step in STEPS if isinstance(step, Session) for command in step.commands]
    for name in ("mirror gc", "mirror history", "mirror rollback"):
        assert any(command.startswith(name) for command in commands)
