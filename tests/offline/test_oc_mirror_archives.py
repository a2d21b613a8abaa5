"""What oc-mirror archived is pulled here by the names that its cluster resources and its image sets have for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from mirror.oci.media_types import MANIFESTS
from tests.offline.conftest import MakeSite
from tests.offline.here import Here, codes
from tests.offline.site import mounted
from tests.tools import images
from tests.tools.images import Content, Manifest
from tests.tools.mirror import Mirror
from tests.unit.offline import foreign_bed as bed

SAMPLES = Path(__file__).parent.parent / "unit/offline/samples"
APP, OTHER, THIRD = bed.app("app"), bed.app("other"), bed.many("third")
WHOLE, FILTERED, ANOTHER = bed.many("catalog"), bed.many("filtered"), bed.many("filtered in another way")
FILTER, STALE = hashlib.md5(b"any").hexdigest(), hashlib.md5(b"another").hexdigest()
QUAY = "quay.io/demo/catalog"


@pytest.fixture
def loop_never_blocks() -> None:
    """A command has the loop to itself, and opens its rooms on it."""


@pytest.fixture(autouse=True)
def _as_before(handlers_as_before: None) -> None:
    """Commands run in this process."""


@pytest.fixture
def here(make_site: MakeSite) -> Here:
    """Return a site behind the gap that knows one registry by a key of its own."""
    lab = {"endpoints": ["https://lab.example:5000"]}
    return Here(make_site("inside", None, {"offline": True, "upstreams": {"lab": lab}}))


@contextmanager
def served(here: Here) -> Iterator[Mirror]:
    mirror = here.site.serving({"workers": 1})
    mirror.start()
    try:
        yield mirror
    finally:
        mirror.stop()


def pulled(mirror: Mirror, name: str, reference: str) -> str | int:
    """Pull an image as a client does, all of it; return its digest, or the status that refuses it."""
    accept = {"Accept": ", ".join(sorted(MANIFESTS))}
    status, headers, body = mirror.get(f"/v2/{name}/manifests/{reference}", headers=accept)
    if status != 200:
        return status
    found = json.loads(body)
    for child in found.get("manifests", ()):
        assert pulled(mirror, name, child["digest"]) == child["digest"]
    for blob in (found["config"], *found["layers"]) if "config" in found else ():
        assert mirror.get(f"/v2/{name}/blobs/{blob['digest']}")[0] == 200
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert headers["docker-content-digest"] == digest
    return digest


# -- archives of the real program ------------------------------------------------------------------------------------

DEMO = {
    "catalog:v4.16": "sha256:5fc16eebf06221a6c7c335bd4507814aefd21a2558bbf1d1231a96820337046e",
    "catalog@": "sha256:fcbe501e7586c3c6a515127c7a40175f0a98e745f4a6c6066599d0da01de29fa",  # as it was
    "bundle-2@": "sha256:dc6126bbccc1c9f7a257e49f5a867ee4998153fd0725430d96ba57c11ea79c39",
    "operator-2@": "sha256:594b01727252626c427fb2f7eaa3ba7d88a1481d9cd241b798f5674f225a8316",
    "app:v1": "sha256:35ddc7870ec6445fdb24eb980634dbe0fc6309f977ec507930a717149d60131a",
    "tool:v1": "sha256:20ad2f302b93cfafd4c32ac97cdf9bb53122d6ed85433ae9087009b361331ce6",
}
OCP = "openshift-release-dev"
RELEASE = {
    "ocp-release:4.16.3-x86_64": "sha256:8eb9722c242f8816ca82387bce4a2209f806cd782d88a37539cdd807107a6446",
    "ocp-v4.0-art-dev@": "sha256:38e52801f40d30b1b9813ad0e9a43d4935db781fa0eef61fc8cb3c15e7c5c506",
}


@pytest.mark.parametrize(
    ("sample", "namespace", "expected", "options"),
    [
        ("oc-mirror-operators", "quay.io/demo", DEMO, {}),
        # This one was named back before: it must stay so.
        ("oc-mirror", f"quay.io/{OCP}", RELEASE, {"releases": {"require_signature": False}}),
    ],
)
def test_all_that_the_cluster_resources_lead_to_is_pulled(
    here: Here, sample: str, namespace: str, expected: Mapping[str, str], options: dict[str, object]
) -> None:
    here.site.configure(options)
    assert here.report("load", SAMPLES / sample, "--set", "ops")["complete"]
    with served(here) as mirror:
        for reference, digest in expected.items():
            name, tag = (reference.replace("@", ":").split(":"))[:2]
            assert pulled(mirror, f"{namespace}/{name}", tag or digest) == digest
            assert pulled(mirror, f"{namespace}/{name}", digest) == digest
        tags = json.loads(mirror.get(f"/v2/{namespace}/{min(expected).split(':')[0].split('@')[0]}/tags/list")[2])
        assert not [tag for tag in tags["tags"] if len(tag) == 32], "hashes of filters are nobody's tags"


# -- of the same layout, by what an image set asks for ---------------------------------------------------------------


def log(*copied: str) -> dict[str, bytes]:
    """Return the log of a run, as it is written where there is no terminal."""
    lines = "".join(f"2026/11/28 16:49:56 [INFO]   : Success copying {one} ➡️ cache\n" for one in copied)
    return {"working-dir/logs/oc-mirror-20261128_164956.log": lines.encode()}


def filtered(*filters: str, of: Manifest = WHOLE, name: str = "catalog") -> dict[str, bytes]:
    """Return the files that say how a catalog was filtered."""
    folder = f"working-dir/operator-catalogs/{name}/{of.digest[7:]}"
    return {f"{folder}/filtered-catalogs/{one}/digest": FILTERED.digest[7:].encode() for one in filters}


def filter_of(entry: str) -> str:
    """Return what oc-mirror calls a filter, by the JSON that its program writes of the entry."""
    return hashlib.md5(entry.encode()).hexdigest()


SELECTED = filter_of(
    '{"packages":[{"name":"a","channels":[{"name":"stable","minVersion":"1.0.0"}],"defaultChannel":"stable"},'
    f'{{"name":"b","maxVersion":"\\u003e2"}}],"catalog":"{QUAY}@{WHOLE.digest}"}}'
)
SELECTION = (
    '[{name: a, defaultChannel: stable, channels: [{name: stable, minVersion: 1.0.0}]}, {name: b, maxVersion: ">2"}]'
)
FULL = filter_of(f'{{"packages":[{{"name":"a"}}],"catalog":"{QUAY}:v1","full":true}}')
SIGNATURE = images.artifact("application/vnd.dev.cosign.simplesigning.v1+json", Content("text/plain", b"signed"))


class Case(NamedTuple):
    """An archive: its repositories, what was asked for under `mirror:`, files beside; what is pulled then, and not."""

    repositories: Mapping[str, Sequence[tuple[Manifest, str]]]
    asked: str
    beside: Mapping[str, bytes]
    pulled: Mapping[str, Manifest]
    absent: Sequence[str] = ()


def fallback(image: Manifest) -> str:
    return f"sha256-{image.digest[7:]}"


CATALOG = {"demo/catalog": [(WHOLE, "v1"), (FILTERED, FILTER)]}
CASES = {
    "a filtered catalog": Case(
        CATALOG, f"operators: [{{catalog: '{QUAY}:v1'}}]", filtered(FILTER),
        {f"{QUAY}:v1": FILTERED, f"{QUAY}@": WHOLE}, [f"{QUAY}:{FILTER}"],
    ),
    "a filtered catalog, by a transport": Case(
        CATALOG, f"operators: [{{catalog: 'docker://{QUAY}:v1'}}]", filtered(FILTER), {f"{QUAY}:v1": FILTERED},
    ),
    "filtered in two ways, and one is asked for": Case(
        {"demo/catalog": [(WHOLE, "v1"), (ANOTHER, STALE), (FILTERED, SELECTED)]},
        f"operators: [{{catalog: '{QUAY}:v1', packages: {SELECTION}}}]", filtered(STALE, SELECTED),
        {f"{QUAY}:v1": FILTERED, f"{QUAY}@": ANOTHER},
    ),
    "filtered in two ways, as earlier versions called that": Case(
        {"demo/catalog": [(WHOLE, "v1"), (ANOTHER, STALE), (FILTERED, FULL)]},
        f"operators: [{{catalog: '{QUAY}:v1', full: true, packages: [{{name: a}}]}}]", filtered(STALE, FULL),
        {f"{QUAY}:v1": FILTERED},
    ),
    "filtered in two ways, and nothing says which is meant": Case(
        {"demo/catalog": [(WHOLE, "v1"), (ANOTHER, STALE), (FILTERED, FILTER)]},
        f"operators: [{{catalog: '{QUAY}:v1'}}]", filtered(STALE, FILTER),
        {f"{QUAY}@": FILTERED}, [f"{QUAY}:v1"],
    ),
    # It was right before, and a filter of an earlier run must not take its tag now.
    "whole now, and filtered in an earlier run": Case(
        CATALOG, f"operators: [{{catalog: '{QUAY}:v1', full: true}}]", filtered(FILTER), {f"{QUAY}:v1": WHOLE},
    ),
    "one catalog filtered for two tags": Case(
        {"demo/catalog": [(WHOLE, "a"), (WHOLE, "b"), (FILTERED, SELECTED), (ANOTHER, STALE)]},
        f"""operators:
  - {{catalog: '{QUAY}:v1', targetTag: a, packages: {SELECTION}}}
  - {{catalog: '{QUAY}:v1', targetTag: b, full: true}}""",
        filtered(STALE, SELECTED), {f"{QUAY}:a": FILTERED, f"{QUAY}:b": WHOLE},
    ),
    "a catalog by its digest": Case(
        {"demo/catalog": [(WHOLE, fallback(WHOLE)), (FILTERED, FILTER)]},
        f"operators: [{{catalog: '{QUAY}@{WHOLE.digest}'}}]", filtered(FILTER),
        {f"{QUAY}:{fallback(FILTERED)}": FILTERED, f"{QUAY}@": WHOLE}, [f"{QUAY}:{fallback(WHOLE)}"],
    ),
    "a catalog by its digest, and a targetTag": Case(
        CATALOG, f"operators: [{{catalog: '{QUAY}@{WHOLE.digest}', targetTag: v1}}]", filtered(FILTER),
        {f"{QUAY}:v1": FILTERED},
    ),
    "a catalog on disk": Case(
        {"mine": [(WHOLE, "latest"), (FILTERED, FILTER)]}, "operators: [{catalog: 'oci:///var/catalogs/mine'}]",
        filtered(FILTER, name="mine"), {"mine:latest": FILTERED},
    ),
    "targetTag of a catalog": Case(
        {"demo/catalog": [(WHOLE, "slim"), (FILTERED, FILTER)]},
        f"operators: [{{catalog: '{QUAY}:v1', targetTag: slim}}]", filtered(FILTER),
        {f"{QUAY}:slim": FILTERED, f"{QUAY}:v1": FILTERED},
    ),
    "targetCatalog": Case(
        {"my/index": [(WHOLE, "v1"), (FILTERED, FILTER)]},
        f"operators: [{{catalog: '{QUAY}:v1', targetCatalog: my/index}}]",
        {**filtered(FILTER), **log(f"docker://{QUAY}@{WHOLE.digest}")},
        {"my/index:v1": FILTERED, f"{QUAY}:v1": FILTERED},
    ),
    "targetTag": Case(
        {"ubi9/ubi": [(APP, "9")]}, "additionalImages: [{name: 'registry.redhat.io/ubi9/ubi:latest', targetTag: '9'}]",
        {}, {"registry.redhat.io/ubi9/ubi:9": APP, "registry.redhat.io/ubi9/ubi:latest": APP},
    ),
    # It has one tag, which is the chosen one, and had it before.
    "targetTag of what has a digest alone": Case(
        {"ubi9/ubi": [(APP, "9")]}, f"additionalImages: [{{name: 'quay.io/ubi9/ubi@{APP.digest}', targetTag: '9'}}]",
        {}, {"quay.io/ubi9/ubi:9": APP},
    ),
    "targetTag of what has a tag and a digest": Case(
        {"ubi9/ubi": [(APP, "9")]}, f"additionalImages: [{{name: 'quay.io/ubi9/ubi:v1@{APP.digest}', targetTag: '9'}}]",
        {}, {"quay.io/ubi9/ubi:9": APP, "quay.io/ubi9/ubi:v1": APP},
    ),
    "two targetTags": Case(
        {"ubi9/ubi": [(APP, "9"), (APP, "nine"), (OTHER, "8")]},
        """additionalImages:
  - {name: 'quay.io/ubi9/ubi:latest', targetTag: '9'}
  - {name: 'quay.io/ubi9/ubi:latest', targetTag: nine}
  - {name: 'quay.io/ubi9/ubi:old', targetTag: '8'}""",
        {}, {"quay.io/ubi9/ubi:9": APP, "quay.io/ubi9/ubi:nine": APP, "quay.io/ubi9/ubi:latest": APP,
             "quay.io/ubi9/ubi:8": OTHER, "quay.io/ubi9/ubi:old": OTHER},
    ),
    # Guards against too much: what the archive itself tags so keeps the tag.
    "a targetTag beside the tag itself": Case(
        {"ubi9/ubi": [(APP, "9"), (OTHER, "latest")]},
        "additionalImages: [{name: 'quay.io/ubi9/ubi:latest', targetTag: '9'}]",
        {}, {"quay.io/ubi9/ubi:9": APP, "quay.io/ubi9/ubi:latest": OTHER},
    ),
    "targetRepo": Case(
        {"base/ubi": [(APP, "latest"), (SIGNATURE, f"{fallback(APP)}.sig")]},
        "additionalImages: [{name: 'registry.redhat.io/ubi9/ubi:latest', targetRepo: base/ubi}]",
        log("registry.redhat.io/ubi9/ubi:latest"),
        {"base/ubi:latest": APP, "registry.redhat.io/ubi9/ubi:latest": APP, f"base/ubi:{fallback(APP)}.sig": SIGNATURE,
         f"registry.redhat.io/ubi9/ubi:{fallback(APP)}.sig": SIGNATURE},
    ),
    "targetRepo and targetTag": Case(
        {"base/ubi": [(APP, "9")]},
        "additionalImages: [{name: 'registry.redhat.io/ubi9/ubi:latest', targetRepo: base/ubi, targetTag: '9'}]", {},
        {"base/ubi:9": APP, "registry.redhat.io/ubi9/ubi:9": APP, "registry.redhat.io/ubi9/ubi:latest": APP},
    ),
    "targetRepo that is another's path": Case(
        {"base/ubi": [(APP, "v1")], "team/app": [(OTHER, "v1")]},
        """additionalImages:
  - {name: 'quay.io/team/app:v1', targetRepo: base/ubi}
  - {name: 'registry.example/team/app:v1'}""",
        log("quay.io/team/app:v1", "registry.example/team/app:v1"),
        {"base/ubi:v1": APP, "quay.io/team/app:v1": APP, "registry.example/team/app:v1": OTHER},
    ),
    "images of charts": Case(
        {"demo/app": [(APP, "v1")], "nginx": [(OTHER, "1.27")], "redis": [(THIRD, "7")]},
        "helm: {local: [{name: demo, path: /srv/demo-1.0.0.tgz}]}",
        log("docker://quay.io/demo/app:v1", "docker://nginx:1.27", "docker://bitnami/redis:7"),
        {"quay.io/demo/app:v1": APP, "docker.io/library/nginx:1.27": OTHER, "docker.io/bitnami/redis:7": THIRD},
    ),
    # It was so before, and is what is promised where nothing says more.
    "images of charts that no log names": Case(
        {"demo/app": [(APP, "v1")]}, "helm: {local: [{name: demo, path: /srv/demo-1.0.0.tgz}]}", {},
        {"demo/app:v1": APP},
    ),
    "short names": Case(
        {"nginx": [(OTHER, "1.27")], "redis": [(THIRD, "7")]},
        "additionalImages: [{name: 'nginx:1.27'}, {name: 'bitnami/redis:7'}]", {},
        {"docker.io/library/nginx:1.27": OTHER, "docker.io/bitnami/redis:7": THIRD},
    ),
    "registries with a port": Case(
        {"team/app": [(APP, "v1")], "six/app": [(OTHER, "v2")], "known/app": [(THIRD, "v3")]},
        """additionalImages:
  - {name: 'reg.lab:5000/team/app:v1'}
  - {name: '[fd00::1]:5000/six/app:v2'}
  - {name: 'lab.example:5000/known/app:v3'}""",
        {}, {"team/app:v1": APP, "six/app:v2": OTHER, "lab/known/app:v3": THIRD},
    ),
    "a registry with a port that a catalog names": Case(
        {"team/app": [(APP, fallback(APP))], "six/app": [(OTHER, fallback(OTHER))]}, "operators: []",
        {"working-dir/operator-catalogs/c/0/catalog-config/c.json":
            f'{{"image": "reg.lab:5000/team/app@{APP.digest}"}} [[fd00::1]:5000/six/app@{OTHER.digest}]'.encode()},
        {"team/app@": APP, "six/app@": OTHER},
    ),
    "two registries of one path": Case(
        {"team/app": [(APP, "v1"), (OTHER, "v2"), (SIGNATURE, f"{fallback(APP)}.sig")]},
        "additionalImages: [{name: 'quay.io/team/app:v1'}, {name: 'reg.lab:5000/team/app:v2'}]", {},
        {"quay.io/team/app:v1": APP, "team/app:v2": OTHER, f"quay.io/team/app:{fallback(APP)}.sig": SIGNATURE},
        ["team/app:v1", "quay.io/team/app:v2", f"team/app:{fallback(APP)}.sig"],
    ),
    "two registries of one path, one of them a chart's": Case(
        {"team/app": [(APP, "v1"), (OTHER, "v2")]}, "additionalImages: [{name: 'quay.io/team/app:v1'}]",
        log("quay.io/team/app:v1", "docker://registry.example/team/app:v2"),
        {"quay.io/team/app:v1": APP, "registry.example/team/app:v2": OTHER},
    ),
    # Guards against too much: what is asked for now counts more.
    "a log of an earlier run, when that was another registry's": Case(
        {"team/app": [(APP, "v1")]}, "additionalImages: [{name: 'quay.io/team/app:v1'}]",
        log("registry.example/team/app:v1"), {"quay.io/team/app:v1": APP},
    ),
    # Guards against too much: the log names the registry of oc-mirror's own cache, which is nobody's.
    "the graph image": Case(
        {"openshift/graph-image": [(APP, "latest")]}, "platform: {graph: true}",
        log("docker://localhost:55000/openshift/graph-image:latest"), {"openshift/graph-image:latest": APP},
    ),
    "targetRepo of a registry with a port": Case(
        {"base/app": [(APP, "v1")]}, "additionalImages: [{name: 'reg.lab:5000/team/app:v1', targetRepo: base/app}]", {},
        {"base/app:v1": APP, "team/app:v1": APP},
    ),
}  # fmt: skip


def archived(case: Case) -> dict[str, bytes]:
    """Return the files of an archive, in oc-mirror's own order."""
    asked = f"kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\nmirror:\n  {case.asked}\n"
    return {**bed.storage(case.repositories), **case.beside, "isc_2026-11-28T16:49:56Z": asked.encode()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_images_are_pulled_by_their_names(here: Here, tmp_path: Path, case: Case) -> None:
    here.run("load", bed.pack(tmp_path / "mirror_000001.tar", archived(case)), "--set", "ops")
    with served(here) as mirror:
        for name, image in case.pulled.items():
            repository, _, tag = name.removesuffix("@").partition(":")
            assert pulled(mirror, repository, tag or image.digest) == image.digest, name
            assert pulled(mirror, repository, image.digest) == image.digest, name
        for name in case.absent:
            repository, _, tag = name.partition(":")
            assert pulled(mirror, repository, tag) == 404, name
    here.run("resources", "ops", "--registry", "http://mirror.example:5000", "-o", tmp_path / "to")


def test_clients_are_led_to_the_path_of_an_image_from_a_registry_with_a_port(here: Here, tmp_path: Path) -> None:
    case = CASES["registries with a port"]
    said = here.run("load", bed.pack(tmp_path / "mirror_000001.tar", archived(case)), "--set", "ops").stdout
    assert "  team/app came from reg.lab:5000/team/app\n" in said
    assert "  team/app: no name here can hold reg.lab:5000, so it is kept under this name\n" in said
    here.run("resources", "ops", "--registry", "mirror.example:5000", "-o", tmp_path / "to")
    idms = yaml.safe_load((tmp_path / "to/cluster/idms.yaml").read_text())
    led = {one["source"]: one["mirrors"] for one in idms["spec"]["imageDigestMirrors"]}
    assert led["reg.lab:5000"] == ["mirror.example:5000"]
    assert '[host."https://mirror.example:5000/v2"]' in (
        (tmp_path / "to/nodes/containerd/certs.d/reg.lab:5000/hosts.toml").read_text()
    )


def test_a_path_that_an_upstream_has_here_is_not_taken(here: Here, tmp_path: Path) -> None:
    """With an upstream for bare names, `my/index` is one of its repositories to whoever has never heard of ours."""
    here.site.configure({"upstreams": {"docker.io": {}}, "default_upstream": "docker.io"})
    path = bed.pack(tmp_path / "mirror_000001.tar", archived(CASES["targetCatalog"]))
    done = here.run("load", path, "--set", "ops")
    assert "is not kept under my/index as well" in done.stderr
    assert {one["name"] for one in here.report("ls", "ops@1")["images"]} == {QUAY}
    path = bed.pack(tmp_path / "mirror_000002.tar", archived(CASES["two registries of one path"]))
    (problem,) = here.report("load", path, "--set", "more", code=3)["problems"]
    assert problem["what"].startswith(
        f"reg.lab:5000/team/app@{OTHER.digest}: no name here can spell where it came from"
    )


# -- several runs ----------------------------------------------------------------------------------------------------


def run(number: int, image: Manifest, before: Sequence[Manifest] = ()) -> dict[str, bytes]:
    """Return the archive of a run: all repositories, and the blobs that no earlier one had."""
    repositories = {"team/app": [*((one, "") for one in before), (image, "v1")]}
    asked = "mirror: {additionalImages: [{name: 'quay.io/team/app:v1'}]}\n"
    return {
        **bed.storage(repositories, leave=bed.contents(*before)),
        f"isc_2026-11-2{number}T00:00:00Z": asked.encode(),
    }


@pytest.mark.parametrize(
    "loads",
    [
        [("new", "old")],
        # These were right before, and must stay so.
        [("old", "new")],
        [("old",), ("new",)],
    ],
)
def test_the_latest_run_has_the_tag(here: Here, tmp_path: Path, loads: Sequence[Sequence[str]]) -> None:
    """Its archive counts on what those before brought, so it is whole with them and after them."""
    runs = {"old": run(1, APP), "new": run(2, OTHER, before=[APP])}
    for name, files in runs.items():
        (tmp_path / name).mkdir()
        bed.pack(tmp_path / name / "mirror_000001.tar", files)
    for names in loads:
        here.run("load", *(tmp_path / name for name in names), "--set", "ops")
    with served(here) as mirror:
        assert pulled(mirror, "quay.io/team/app", "v1") == OTHER.digest
        assert pulled(mirror, "quay.io/team/app", APP.digest) == APP.digest


@pytest.mark.parametrize("given", ["folder", "file"])
def test_an_archive_of_oc_mirror_v1_is_called_so(here: Here, tmp_path: Path, given: str) -> None:
    path = bed.pack(tmp_path / "mirror_seq1_000000.tar", {"publish/.metadata.json": b"{}"})
    (problem,) = here.report("load", tmp_path if given == "folder" else path, code=1)["problems"]
    assert (problem["code"], problem["remedy"]) == ("format_unsupported", "mirror it again with `oc-mirror --v2`")


# -- what is incomplete is called so ---------------------------------------------------------------------------------


def lacking(folder: Path) -> Path:
    """Write an archive that lacks a layer of one of its two images."""
    repositories = {"team/app": [(APP, "v1")], "team/other": [(OTHER, "v1")]}
    files = bed.storage(repositories, leave=[OTHER.blobs[-1].digest])
    return bed.pack(folder / "mirror_000001.tar", {**files, **log("quay.io/team/app:v1", "quay.io/team/other:v1")})


def damaged(folder: Path) -> Path:
    """Write an archive in which a manifest has other bytes."""
    files = bed.storage({"team/app": [(APP, "v1")], "team/other": [(OTHER, "v1")]})
    files[f"{bed.V2}/blobs/sha256/{OTHER.digest[7:9]}/{OTHER.digest[7:]}/data"] = OTHER.body.replace(b"{", b"[", 1)
    return bed.pack(folder / "mirror_000001.tar", {**files, **log("quay.io/team/app:v1", "quay.io/team/other:v1")})


@pytest.mark.parametrize(("archive", "code"), [(lacking, 3), (damaged, 4)])
def test_one_word_for_a_set_that_is_incomplete(
    here: Here, make_site: MakeSite, tmp_path: Path, archive: Callable[[Path], Path], code: int
) -> None:
    path = archive(tmp_path)
    for words, report in (
        (("load", path, "--set", "ops"), lambda told: not told["complete"]),
        (("load", path, "--set", "ops"), lambda told: not told["complete"]),  # again: nothing has changed
        (("ls",), lambda told: told["sets"][0]["state"] == "incomplete"),
        (("ls", "ops"), lambda told: told["sets"][0]["state"] == "incomplete"),
        (("verify", "ops"), lambda told: told["sets"][0]["state"] == "incomplete" and not told["sets"][0]["complete"]),
    ):
        ends = {"load": code, "verify": 3}.get(str(words[0]), 0)
        said = here.run(*words, code=ends).output
        assert " incomplete" in said
        assert " complete" not in said
        assert report(here.report(*words, code=ends))
    with served(here) as mirror:
        assert pulled(mirror, "quay.io/team/app", "v1") == APP.digest, "what is whole is served"
        assert pulled(mirror, "quay.io/team/other", "v1") == 404
        done = here.report("status", code=1)
    assert [(one["generation"], one["state"], one["lacking"]) for one in done["sets"]] == [(1, "incomplete", 1)]
    assert "SetIncomplete" in {one["reason"] for one in done["conditions"]}
    # Parts of it carry what is here, and say over there what was said here.
    assert "is incomplete, and is saved without" in here.run("save", "ops", "--to", mounted(tmp_path / "disk")).stderr
    there = Here(make_site("there", None, {"offline": True}))
    report = there.report("load", tmp_path / "disk", code=3)
    assert (codes(report), report["sets"][0]["complete"]) == (["lacking"], False)
    assert there.report("ls")["sets"][0]["state"] == "incomplete"
    assert " complete" not in there.run("load", tmp_path / "disk", code=3).output


def test_what_was_lacking_completes_the_set(here: Here, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    here.run("load", lacking(tmp_path / "first"), "--set", "ops", code=3)
    files = bed.storage({"team/app": [(APP, "v1")], "team/other": [(OTHER, "v1")]})
    path = bed.pack(tmp_path / "mirror_000001.tar", {**files, **log("quay.io/team/app:v1", "quay.io/team/other:v1")})
    assert here.report("load", path, "--set", "ops")["complete"]
    assert [one["state"] for one in here.report("ls")["sets"]] == ["incomplete", "complete"]
    with served(here) as mirror:
        assert pulled(mirror, "quay.io/team/other", "v1") == OTHER.digest
        # A generation that a later one follows may stay incomplete for good.
        assert [one["state"] for one in here.report("status")["sets"]] == ["left", "complete"]
