"""docs/disconnected.md and docs/openshift.md: what they tell to type works, and prints what they show."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mirror.cli.offline import COMMANDS
from tests.offline import documented, world
from tests.offline.conftest import MakeSite
from tests.offline.documented import Session, WrittenFile
from tests.offline.reader import Reader, reading
from tests.offline.world import World
from tests.tools import images
from tests.tools.processes import running
from tests.tools.programs import ROOT, Programs
from tests.tools.push import push
from tests.tools.registries import docker_registry
from tests.unit.offline import foreign_bed

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(300)]

DISCONNECTED = ROOT / "docs" / "disconnected.md"
OPENSHIFT = ROOT / "docs" / "openshift.md"
SMALL_DISK = 5 * 2**19  # bytes: more than one part of a release here, less than two
CATALOG = "registry.redhat.io/redhat/redhat-operator-index:v4.16"


@pytest.fixture(scope="module")
def tiny(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world of its own: the documents say how many images its releases have."""
    with world.opened(programs, tmp_path_factory.mktemp("tiny"), world.make_releases(12, 0.3)) as opened:
        yield opened


@pytest.fixture
def reader(tiny: World, programs: Programs, tmp_path: Path) -> Iterator[Reader]:
    with reading(tmp_path, tiny, programs) as found:
        yield found


def follow(reader: Reader, document: Path) -> None:
    """Do what a document says, and compare what it shows."""
    for step in documented.read(document.read_text()):
        if isinstance(step, WrittenFile):
            reader.write(step)
            continue
        printed = reader.run(step)
        if step.output is not None:
            shown = documented.shows(step.output, printed)
            assert shown, f"{document.name}:{step.line} shows\n{step.output}\nand what is printed is\n{printed}"


def put_archives(media: Path) -> None:
    """Put what disconnected.md finds on disks that somebody else wrote: an image, and operators from oc-mirror."""
    (media / "stick").mkdir()
    foreign_bed.pack(media / "stick" / "tool.tar", foreign_bed.oci_layout(foreign_bed.app("tool")))
    bundle, catalog = foreign_bed.app("bundle"), foreign_bed.app("catalog")
    listed = {"relatedImages": [{"name": "", "image": f"registry.redhat.io/acm/bundle@{bundle.digest}"}]}
    asked = f"""\
kind: ImageSetConfiguration
apiVersion: mirror.openshift.io/v2alpha1
mirror: {{operators: [{{catalog: "{CATALOG}"}}]}}
"""
    repositories = {
        "acm/bundle": [(bundle, f"sha256-{bundle.digest[7:]}")],
        "redhat/redhat-operator-index": [(catalog, "v4.16")],
    }
    (media / "oc-mirror").mkdir()
    foreign_bed.pack(
        media / "oc-mirror" / "mirror_000001.tar",
        {
            **foreign_bed.storage(repositories),
            "working-dir/operator-catalogs/redhat-operator-index/0/catalog-config/acm/catalog.json": (
                json.dumps({"schema": "olm.bundle", **listed}).encode()
            ),
            "isc_2026-01-01T00:00:00Z": asked.encode(),
        },
    )


def test_the_walk_across_the_gap_goes_as_it_is_shown(reader: Reader) -> None:
    put_archives(reader.media)
    reader.disks = {reader.media / "disk1": SMALL_DISK}
    (reader.media / "disk1").mkdir()
    follow(reader, DISCONNECTED)


def test_the_recipes_for_openshift_work(reader: Reader) -> None:
    reader.alternatives = frozenset({"--have"})
    follow(reader, OPENSHIFT)


def test_a_registry_that_runs_gives_what_it_has(programs: Programs, make_site: MakeSite, tmp_path: Path) -> None:
    """As the document says it: its registry as the endpoint, its list, its command; what came is served without it."""
    section = DISCONNECTED.read_text().partition("## From a registry that runs\n")[2].partition("\n## ")[0]
    configuration, listed = re.findall(r"^```(?:yaml|text)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^\$ mirror (.*)$", section, re.MULTILINE)
    tool = images.image([images.layer(images.tree({"tool": b"1.4"}))])
    with running(docker_registry(programs, tmp_path / "registry", tmp_path / "storage")) as registry:
        push(registry.address, "team/tool", tool, "1.4")
        upstreams = yaml.safe_load(configuration.replace("https://registry.lab:8443", registry.url))
        site = make_site("inside", None, upstreams)
        (site.folder / "tools.txt").write_text(listed)
        site.mirror(*command.split())
    site.configure({"upstreams": {}, "offline": True})
    with running(site.serving()) as mirror:
        assert mirror.get("/v2/quay.io/team/tool/manifests/1.4")[2] == tool.body


# -- what can be seen without running it -----------------------------------------------------------------------------


def test_the_walk_uses_every_command_and_shows_what_it_prints() -> None:
    steps = [one for one in documented.read(DISCONNECTED.read_text()) if isinstance(one, Session)]
    used = {command.words[1] for one in steps for command in one.commands if command.words[0] == "mirror"}
    assert {command.name for command in COMMANDS} <= used
    assert {3, 4, 5, 78} <= {command.code for one in steps for command in one.commands}
    assert len([one for one in steps if one.output is not None]) > 30


@pytest.mark.parametrize("document", [DISCONNECTED, OPENSHIFT], ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([a-z.]*)(?:#([^)]*))?\)", document.read_text())
    assert links
    for name, anchor in links:
        target = document.parent / name if name else document
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, f"{name}#{anchor}"


def sentences() -> set[str]:
    """Return every text that the program may print, with `…` for what it fills in."""
    found = set()
    for path in (ROOT / "mirror").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values)
                found.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def quoted(manual: str, heading: str, rows: str) -> list[str]:
    """Return what the first cells of a table quote, of rows that begin with `rows`."""
    table = (ROOT / "docs" / manual).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines() if re.match(rf"\| {rows}", line)]
    return [text.strip() for cell in cells for text in re.findall(r"`([^`]*)`", cell)]


@pytest.mark.parametrize(
    ("manual", "heading", "rows", "least"),
    [
        ("disconnected.md", "What it says, and what to do", "`", 20),
        ("openshift.md", "What goes wrong, and where to look", "… and ", 2),
        ("operations.md", "Symptoms", "404 `", 1),
    ],
)
def test_what_it_is_said_to_say_is_what_it_says(manual: str, heading: str, rows: str, least: int) -> None:
    found = quoted(manual, heading, rows)
    assert len(found) >= least
    everything = sentences()
    for text in found:
        wanted = re.compile(".*".join(map(re.escape, text.split("…"))), re.DOTALL)
        assert any(wanted.search(one) for one in everything), text


# -- whether it would be noticed -------------------------------------------------------------------------------------

PRINTED = """\
mirror sync: 25 of 27 images read
prod@1   12 images   3.1 MiB  sha256:4e30763d5495c90b899e271a0fd7999f617195af843f71c8065296da90567778

to fetch 0 B: fits
{"event": "progress", "command": "sync", "bytes": 1}
set prod@1 is complete
"""
SHOWN = """\
prod@1  12 images  20.4 GiB  sha256:0123abcd…
to fetch 0 B: fits
set prod@1 is complete
"""


@pytest.mark.parametrize(
    ("shown", "right"),
    [
        (SHOWN, True),
        (SHOWN.replace("12", "13"), False),
        (SHOWN.replace("0 B", "3 B"), False),
        (SHOWN.replace("is complete", "is not complete"), False),
        (SHOWN.replace("to fetch 0 B: fits\n", ""), False),
        (SHOWN.replace("to fetch 0 B: fits\n", "…\n"), True),
        (SHOWN.replace("12 images  20.4 GiB", "12…"), True),
        ("…\nset prod@1 is complete\n", True),
        ("…\nset prod@1 is whole\n", False),
        (SHOWN + "and more\n", False),
        (SHOWN + "…\n", True),
    ],
)
def test_another_text_than_what_is_printed_is_noticed(shown: str, right: bool) -> None:
    assert documented.shows(shown, PRINTED) is right
