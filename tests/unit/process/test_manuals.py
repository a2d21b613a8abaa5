"""What README, docs/ and config/ name is there, and the figures that they state are those of the program."""

from __future__ import annotations

import ast
import inspect
import re

import click
import pytest

from mirror import app, listeners, logs, metrics, sink, supervisor
from mirror.admin import authority, conditions, housekeeping, refused, scrub
from mirror.admin.check import certificates
from mirror.cli import asking, main, progress
from mirror.content import beside, fill, members
from mirror.offline import keyring, layer, part_layout, release_image, signatures
from mirror.registry import bearer, htpasswd, logins, memory, robots, sending
from mirror.store import brake, gc, promises, quarantine, space, uploads
from mirror.store import scrub as scrub_files
from mirror.upstream import client, endpoints
from tests.tools.programs import ROOT
from tests.unit.config.test_shipped_configuration import KEYS

MANUALS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "config").rglob("*.yaml")),
    )
}
OPERATIONS = MANUALS["docs/operations.md"]
MIB, DAY = 1 << 20, 86400


def flat(text: str) -> str:
    return " ".join(text.split())


def first_cells(heading: str, level: str) -> str:
    """Return the first column of the tables under a heading of operations.md."""
    section = OPERATIONS.partition(f"\n{level} {heading}\n")[2].partition(f"\n{level} ")[0]
    return "\n".join(line.split(" | ")[0] for line in section.splitlines() if line.startswith("| "))


def words_of_the_program() -> set[str]:
    return {
        node.value
        for path in (ROOT / "mirror").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heading", "level"), [("Events", "###"), ("Start, stop, health", "##")])
def test_what_the_tables_of_operations_explain_is_said(heading: str, level: str) -> None:
    """Events of the log, and the reasons for which a service is degraded."""
    named = set(re.findall(r"`([a-z]+_[a-z_]+|[A-Z][a-z]+[A-Z][A-Za-z]+)`", first_cells(heading, level)))
    assert len(named) > 15
    assert sorted(named - words_of_the_program()) == []


@pytest.mark.parametrize("manual", MANUALS)
def test_metrics_are_counted(manual: str) -> None:
    known = {family.name for family in metrics.FAMILIES}
    known |= {f"{one.name}_{end}" for one in metrics.FAMILIES if one.kind == "histogram" for end in ("bucket", "sum")}
    assert set(re.findall(r"\bmirror_[a-z_]+[a-z]\b", MANUALS[manual])) <= known


def options(command: click.Command) -> set[str]:
    found = {spelled for one in command.params for spelled in one.opts} | {"--help"}
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return found.union(*(options(one) for one in inner))


@pytest.mark.parametrize("manual", [one for one in MANUALS if one.endswith(".md")])
def test_commands_have_the_options_that_they_are_typed_with(manual: str) -> None:
    typed = re.findall(r"(?<![\w./@-])mirror ([a-z]+)(?=[ `\n])((?: [^`\n#;|()&]+)?)", MANUALS[manual])
    quoted = set(re.findall(r"`mirror ([a-z]+)", MANUALS[manual]))
    assert quoted <= set(main.commands)
    for name, rest in typed:
        if name in main.commands:
            unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest)) - options(main.commands[name])
            assert not unknown, f"mirror {name}{rest}"


@pytest.mark.parametrize("manual", [one for one in MANUALS if one.endswith(".md")])
def test_keys_are_keys(manual: str) -> None:
    sections = {key.split(".")[0] for key in KEYS if "." in key} - {"upstreams"}
    named = set(re.findall(rf"`((?:{'|'.join(sections)})\.[a-z_]+)`", MANUALS[manual]))
    assert named - {"tls.crt", "tls.key"} <= set(KEYS)


@pytest.mark.parametrize("manual", [one for one in MANUALS if one.endswith(".md")])
def test_links_lead_somewhere(manual: str) -> None:
    here = ROOT / manual
    for name, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", MANUALS[manual]):
        target = here.parent / name if name else here
        assert target.exists(), name
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, name


def test_what_is_made_is_a_target_and_takes_as_long_as_make_says() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for manual, text in MANUALS.items():
        named = set(re.findall(r"(?:`|^\$? ?(?:sudo )?)make ([a-z-]+)", text, re.MULTILINE))
        assert named <= targets, manual
    words = {"six": "6", "seven": "7", "two": "2", "ninety": "90", "five": "5"}
    timed = re.findall(r"`make ([a-z-]+)[^`]*` \((\w+) (minutes|seconds)[;)]", MANUALS["docs/performance.md"])
    assert {name for name, _, _ in timed} == {"bench", "bench-sync", "bench-check"}
    for name, number, unit in timed:
        assert re.search(rf"^{name}:.*\({words[number]} {unit}\b", makefile, re.MULTILINE), (name, number, unit)


def test_dependencies_are_those_of_the_locks() -> None:
    locks = "".join((ROOT / "requirements" / name).read_text() for name in ("runtime.txt", "dev.txt"))
    locked = {name.lower(): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", locks, re.MULTILINE)}
    table = MANUALS["docs/dependencies.md"].partition("## What runs\n")[2].partition("\n## ")[0]
    rows = {line.split(" ")[1].lower(): line for line in table.splitlines()[3:] if line.startswith("| ")}
    project = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2].partition("]")[0]
    assert set(rows) == set(re.findall(r'"([\w-]+)', project.lower()))
    for name, row in rows.items():
        stated = re.findall(r"\(([0-9]+\.[0-9.]+)\)", row)[:1]
        assert stated == [locked[name]] or name == "publicsuffixlist", name
    (floor,) = re.findall(r'"aiohttp>=([0-9.]+),', (ROOT / "pyproject.toml").read_text())
    assert f"{floor} is the floor because of CVE" in rows["aiohttp"]


# -- what is never done ----------------------------------------------------------------------------------------------


def test_nothing_reads_pickles() -> None:
    """docs/threat-model.md, The service."""
    assert "There is no pickle anywhere" in flat(MANUALS["docs/threat-model.md"])
    for path in (ROOT / "mirror").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                named = {one.name for one in node.names} | {getattr(node, "module", None)}
                assert not named & {"pickle", "marshal", "shelve", "dill"}, path


def test_no_certificate_goes_unverified() -> None:
    """docs/threat-model.md, Who is trusted with what. One file looks at a refused certificate, to say whose it is."""
    assert "TLS is verified always; there is no option to turn that off" in MANUALS["docs/threat-model.md"]
    assert not [key for key in KEYS if re.search(r"verify|insecure|skip|trust_all", key)]
    unverified = re.compile(r"CERT_NONE|check_hostname = False|_unverified_context|\bssl=False|\bverify=False")
    found = [path for path in (ROOT / "mirror").rglob("*.py") if unverified.search(path.read_text())]
    assert found == [ROOT / "mirror" / "upstream" / "certificates.py"]


# -- figures ---------------------------------------------------------------------------------------------------------


def default(of: type | object, name: str) -> object:
    return inspect.signature(of).parameters[name].default  # type: ignore[arg-type]


# The sentence, what the program has, and what the sentence says.
FIGURES = {
    "docs/disconnected.md": [
        ("elsewhere a line of JSON every five seconds", progress._EVERY, 5),
        ("plain tar files of at most 4000 MiB, which FAT32 takes", part_layout.PART_SIZE, 4000 * MIB),
        ("Red Hat's release key, `567E347AD0044ADE55BA8A5F199E2F91FD431D51`", keyring.RED_HAT,
         "567E347AD0044ADE55BA8A5F199E2F91FD431D51"),
    ],
    "docs/operations.md": [
        ("answers under way have 30 seconds to finish", app.DRAIN, 30),
        ("A port in use is tried for 5 seconds", default(listeners.bind, "patience"), 5),
        ("has not answered within 15 seconds", asking._PATIENCE, 15),
        ("beyond `keep_free` and what is promised less than 64 MiB is left", promises.UNIT, 64 * MIB),
        ("would have taken more than a tenth of the store", brake.SHARE, 10),
        ("this ends within 5 seconds of the file being well", refused._REMEMBERED, 5),
        ("expires in less than two weeks", conditions.EXPIRES_SOON, 14 * DAY),
        ("within the last ten minutes clients held more memory", conditions._LATELY, 600),
        ("more than a hundred events wait", conditions._MANY_WAIT, 100),
        ("up to an hour; a third reload within it hurries the oldest",
         (default(supervisor.Supervisor, "patience"), supervisor._GENERATIONS_LEAVING), (3600, 2)),
        ("by the old rules, within ten seconds or so", app._REST, 10),
        ("`quarantine/` holds at most 100 files and 1 GiB", (quarantine.FILES, quarantine.BYTES), (100, 1 << 30)),
        ("or a hundredth of the disk where that is less", quarantine._SHARE, 100),
        ("is put back, by each scrub and once an hour", housekeeping.Periods().quarantine, 3600),
        ("lines wait in memory (16 384 a worker)", default(sink.Sink, "capacity"), 16384),
        ("Of identical warnings and errors fifty a minute", (logs._SAME_A_MINUTE, logs._MINUTE), (50, 60)),
        ("of more than 1024 different ones fifty of each event", logs._KINDS, 1024),
        ("is shortened to 256 characters", logs._LONGEST, 256),
        ("a worker was silent for 30 seconds", default(supervisor.Supervisor, "heartbeat"), 30),
        ("failed five times in half a minute", (endpoints.FAILURES, endpoints.WINDOW_SECONDS), (5, 30)),
        ("the rest of the cache is left alone for ten minutes", space._REST, 600),
        ("was not found within two seconds", members._PATIENCE, 2),
        ("(`most` is 512)", uploads._SHARE, 512),
    ],
    "docs/hosting.md": [
        ("What was pushed within the last day stays", gc.GRACE, DAY),
        ("is removed by `mirror gc` after a week", uploads.AGE, 7 * DAY),
        ("with 2048 uploads open, those without a byte", uploads._CROWD, 2048),
        ("may go after ten minutes", uploads._CROWDED_EMPTY_AGE, 600),
        ("with 4096, the most there can be, those with bytes after an hour", uploads._MOST, 4096),
        ("those with bytes after an hour", uploads._CROWDED_AGE, 3600),
        ("and 512 of them were begun by you", uploads._SHARE, 512),
        ("more than a tenth of the store, and ten contents or 1 GiB or more", (brake.FEW, brake.LITTLE), (10, 1 << 30)),
    ],
    "docs/store.md": [
        ("a pass a week at most", scrub.EVERY, 7 * DAY),
        ("changed within the last ten minutes is let be", scrub_files.YOUNG, 600),
        ("`gc` takes what was pushed a day ago or earlier", gc.GRACE, DAY),
    ],
    "docs/access.md": [
        ("bcrypt, which takes at most 72 bytes", htpasswd.MOST_PASSWORD_BYTES, 72),
        ("a running service takes a change within a second", htpasswd._LOOK, 1),
        ("Last use is written down within half a minute", robots._FLUSH, 30),
        ("Tokens live five minutes", bearer.LIFETIME, 300),
        ("401, at the end of a second", logins.DELAY, 1),
        ("more than fifty times a minute", logs._SAME_A_MINUTE, 50),
    ],
    "docs/install.md": [
        ("The certificate holds for 825 days, the CA for ten years",
         (authority._SERVER_DAYS, authority._AUTHORITY_DAYS), (825, 3650)),
        ("`mirror check` warns 30 days before", certificates._SOON.days, 30),
    ],
    "docs/configuration.md": [
        ("One that is silent for 6 seconds", endpoints.HEDGE_SECONDS, 6),
        ("of blobs of up to 64 KiB, configurations mostly, as many come beside them, 8 at most",
         (client.SMALL_BLOB, client._SMALL_REQUESTS), (64 << 10, 8)),
        ("128 MiB for itself, the rest for its connections", memory.OWN, 128 * MIB),
        ("it expires in less than 30 days", certificates._SOON.days, 30),
    ],
    "docs/performance.md": [
        ("leaves by `sendfile` in windows of 2 MiB", sending.WINDOW, 2 * MIB),
    ],
    "docs/threat-model.md": [
        ("the last 64 KiB of an answer", fill.HOLD_BACK, 64 << 10),
        ("is at most two ranges at once", beside._PLACES, 2),
        ("takes more than a tenth of the store without being told to", brake.SHARE, 10),
        ("checked in two threads with a bounded line", htpasswd._THREADS, 2),
        ("a wrong one is answered at the end of a second", logins.DELAY, 1),
        ("is keyed by a hash with a key of this process, for a minute", logins._BELIEVED, 60),
        ("one algorithm and one key, live five minutes", bearer.LIFETIME, 300),
        ("and go after a week", uploads.AGE, 7 * DAY),
        ("A top layer is looked at up to 256 MiB, the fifteen below it up to 64 MiB each",
         (release_image.LAYER_LIMIT, release_image.LAYERS_LIMIT - 1, release_image.LOWER_LAYER_LIMIT),
         (256 * MIB, 15, 64 * MIB)),
        ("unpack to at most 512 MiB, as a stream, of which files of at most 4 MiB are read",
         (layer.OUTPUT_LIMIT, layer.FILE_LIMIT), (512 * MIB, 4 * MIB)),
        ("A signature unpacks to at most 64 KiB, in at most two steps",
         (signatures.SIZE_LIMIT, signatures._DEPTH), (64 << 10, 2)),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("manual", "sentence", "is_so", "said"), [(manual, *row) for manual, rows in FIGURES.items() for row in rows]
)
def test_figures_are_those_of_the_program(manual: str, sentence: str, is_so: object, said: object) -> None:
    assert sentence in flat(MANUALS[manual])
    assert is_so == said
