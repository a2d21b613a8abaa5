"""docs/openshift.md speaks of files that are there, and its commands do what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from mirror.offline.resources import Site, check_ca
from tests.tools.programs import ROOT, Programs
from tests.unit.offline.resources_bed import CONNECTED, REGISTRY, Authority, configuration, image, made, release_plan

TEXT = (ROOT / "docs" / "openshift.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_files_that_it_names_are_written(tmp_path: Path) -> None:
    site = Site((REGISTRY,), configuration(tmp_path, CONNECTED), ca=Authority().pem)
    tagged = image("image", "registry.redhat.io/ubi9/ubi", tags=["latest"])
    written = set(made(site, release_plan("prod", "4.16.15", tagged)).files)
    named = set(re.findall(r"\b(?:cluster|cluster-tags|install|update|nodes)/[a-z0-9./-]*[a-z]", TEXT))
    assert {"cluster/idms.yaml", "update/update.txt", "cluster-tags/itms.yaml"} <= named
    assert named <= written


def test_a_newer_release_leaves_the_mirror_entries_as_they_are(tmp_path: Path) -> None:
    site = Site((REGISTRY,), configuration(tmp_path, CONNECTED))
    before, after = made(site, release_plan("prod", "4.16.15")).files, made(site, release_plan("prod", "4.16.20")).files
    assert set(before) == set(after)
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {"README.md", "mapping.txt", "cluster/release-signatures.yaml", "update/update.txt"}


def test_its_certificate_is_one_that_clients_take(programs: Programs, tmp_path: Path) -> None:
    programs.find("openssl")
    commands = [block for block in blocks("console") if "openssl" in block]
    assert len(commands) == 1
    for command in commands[0].replace("\\\n", " ").splitlines():
        words = shlex.split(command.removeprefix("$ "))
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    served = (tmp_path / "tls.crt").read_bytes()
    assert check_ca((tmp_path / "ca.crt").read_bytes(), served, ["mirror.example"]) == []


def test_its_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]*)\)", TEXT)
    assert links
    assert set(links) <= anchors
