"""What a name means, however it is spelled, and what a pull would do."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mirror.admin.explain import Explain, parse
from mirror.config import load
from mirror.content.answers import Target
from mirror.errors import InvalidRequest
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_MANIFEST
from mirror.store.ingest import store_bytes
from mirror.store.manifests import Manifests
from mirror.store.sets import Sets
from mirror.store.tags import Earlier, TagRecord, Tags
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room, read

DIGEST = f"sha256:{'a' * 64}"
Open = Callable[..., tuple[Explain, Room]]


@pytest.mark.parametrize(
    ("text", "name", "ns", "reference"),
    [
        ("nginx", "nginx", None, "latest"),
        ("quay.io/org/app:1.2", "quay.io/org/app", None, "1.2"),
        (f"quay.io/org/app:1@{DIGEST}", "quay.io/org/app", None, DIGEST),
        ("docker://quay.io/org/app", "quay.io/org/app", None, "latest"),
        ("reg.lab:5000/org/app:1", "reg.lab:5000/org/app", None, "1"),
        ("reg.lab:5000/org/app", "reg.lab:5000/org/app", None, "latest"),
        ("org/app:1?ns=quay.io", "org/app", "quay.io", "1"),
        ("/v2/quay.io/org/app/manifests/1", "quay.io/org/app", None, "1"),
        ("http://m:5000/v2/org/app/manifests/1?ns=quay.io", "org/app", "quay.io", "1"),
        (f"https://m/v2/org/app/blobs/{DIGEST}", "org/app", None, DIGEST),
        ("https://m/quay.io/v2/org/app/manifests/x", "quay.io/org/app", None, "x"),
        ("https://quay.io/org/app:1", "quay.io/org/app", None, "1"),
        ("/v2/org/app/tags/list", "org/app", None, "latest"),
    ],
)
def test_every_spelling_of_a_client_is_understood(text: str, name: str, ns: str | None, reference: str) -> None:
    spelled = parse(text)
    assert (spelled.name, spelled.ns, str(spelled.reference)) == (name, ns, reference)


@given(st.text(max_size=80) | st.text(alphabet="abv2/:@?=.sha56manifetblo", max_size=60))
def test_any_text_is_a_name_or_an_invalid_request(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        parse(text)


@pytest.fixture
async def explain(tmp_path: Path) -> AsyncIterator[Open]:
    rooms: list[Room] = []

    def start(**document: Any) -> tuple[Explain, Room]:
        file = tmp_path / "mirror.yaml"
        storage = {"path": str(tmp_path / "store")}
        file.write_text(yaml.safe_dump({"storage": storage, **document}))
        room = Room(load(file))
        rooms.append(room)
        return Explain(room.config, room.content, room.layout, room.clients, room.readers), room

    yield start
    for room in rooms:
        await room.close()


async def test_names_lead_where_pulls_lead(explain: Open) -> None:
    tell, _ = explain(
        listen="mirror.lab:5000",
        upstreams={"quay.io": {}, "docker.io": {}, "lab": {"endpoints": ["https://reg.lab:5000/x"]}},
        aliases={"ocp": "quay.io/openshift-release-dev/ocp-release"},
        default_upstream="docker.io",
        hosted=["apps/**"],
    )
    for text, name, words in (
        ("quay.io/org/app", "quay.io/org/app", "quay.io"),
        ("mirror.lab:5000/quay.io/org/app:1", "quay.io/org/app", "begins with the key"),
        ("nginx", "docker.io/library/nginx", "default_upstream"),
        ("index.docker.io/nginx", "docker.io/library/nginx", "'docker.io'"),
        ("reg.lab:5000/org/app:1", "lab/org/app", "'lab'"),
        ("org/app?ns=quay.io", "quay.io/org/app", "'quay.io'"),
        ("ocp", "quay.io/openshift-release-dev/ocp-release", "alias"),
        ("https://quay.io/v2/org/app/manifests/1", "quay.io/org/app", "quay.io"),
        ("http://mirror.lab:5000/v2/apps/mine/manifests/1", "apps/mine", "hosted"),
        ("apps/mine", "apps/mine", "hosted"),
    ):
        found = await tell(text)
        assert found["name"] == name, text
        assert words in found["decided_by"], text
    found = await tell("gcr.io/a/b")
    assert (found["kind"], found["pull"]["answer"]) == ("unknown", "404")
    assert "add it under upstreams" in found["pull"]["remedy"]


async def test_who_is_asked_and_as_whom_and_no_secret(explain: Open, tmp_path: Path) -> None:
    secret = tmp_path / "pull-secret.json"
    password = "hunter2-hunter2"
    login = base64.b64encode(f"me:{password}".encode()).decode()
    secret.write_text(json.dumps({"auths": {"quay.io/org": {"auth": login}, "quay.io": {"auth": login}}}))
    tell, _ = explain(
        upstreams={"quay.io": {"endpoints": ["https://near.lab", "https://quay.io"]}},
        pull_secrets=[str(secret)],
        clients={"anonymous": "pull"},
    )
    found = await tell("quay.io/org/app:1")
    near, far = found["upstream"]["endpoints"]
    assert (near["url"], near["credential"]) == ("https://near.lab/v2/org/app/", "")
    assert far["credential"] == f"{secret}, entry quay.io/org"
    assert found["pull"]["answer"] == "MISS"
    assert password not in json.dumps(found)
    assert login not in json.dumps(found)
    secret.write_text("{")
    again, _ = explain(upstreams={"quay.io": {}}, pull_secrets=[str(secret)], clients={"anonymous": "pull"})
    assert str(secret) in (await again("quay.io/org/app:1"))["upstream"]["endpoints"][0]["credential"]


async def test_which_rule_decides(explain: Open) -> None:
    tell, _ = explain(
        upstreams={"quay.io": {"repositories": {"allow": ["org/**"], "deny": ["org/secret"]}}},
        clients={
            "anonymous": "pull",
            "htpasswd": "users",
            "rules": [
                {"who": "ann", "repositories": ["quay.io/org/team/**"], "may": ["pull"]},
                {"who": "*", "repositories": ["quay.io/org/free"], "may": ["pull"]},
            ],
        },
    )
    found = await tell("quay.io/org/secret")
    assert (found["upstream"]["allowed"], found["upstream"]["rule"]) == (False, "deny: org/secret")
    assert found["pull"]["answer"] == "404"
    assert not (await tell("quay.io/other/app"))["upstream"]["allowed"]
    found = await tell("quay.io/org/team/app")
    assert found["clients"]["anonymous"] == []
    assert found["clients"]["rules"][0]["who"] == ["ann"]
    assert found["clients"]["rules"][0]["where"].rpartition(":")[2].isdigit()
    assert "none names anonymous" in found["clients"]["decided_by"]
    assert found["pull"]["answer"] == "401"
    found = await tell("quay.io/org/free")
    assert (found["clients"]["anonymous"], found["clients"]["decided_by"]) == (
        ["pull"],
        found["clients"]["rules"][0]["where"],
    )
    found = await tell("apps/mine:1")
    assert (found["kind"], found["pull"]["answer"]) == ("hosted", "404")


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        yield registry


async def test_what_is_here_and_what_a_pull_would_do(explain: Open, upstream: ScriptedRegistry) -> None:
    image = upstream.add_image("team/app", "v1", layers=[b"layer"])
    keys: dict[str, Any] = {"upstreams": {"lab": {"endpoints": [upstream.url]}}}
    tell, room = explain(**keys)
    assert (await tell("lab/team/app:v1"))["pull"]["answer"] == "MISS"
    target = Target("lab", "team/app", "lab/team/app")
    await room.content.manifest(target, "v1", False)
    found = await tell("lab/team/app:v1")
    assert (found["here"]["digest"], found["here"]["tag"]["fresh"]) == (image.digest, True)
    assert (found["here"]["contents"]["missing"], found["pull"]["answer"]) == (2, "HIT")
    answer = await room.content.blob(target, Digest.parse(found["here"]["contents"]["examples"][0]), None)
    await read(answer)
    await room.content.stop()
    assert (await tell("lab/team/app:v1"))["here"]["contents"]["missing"] == 1
    assert (await tell(f"lab/team/app@{image.digest}"))["pull"]["answer"] == "HIT"
    requests = len(upstream.requests)
    # Another repository has the bytes, so that one question decides.
    assert "asked once" in (await tell(f"lab/other/app@{image.digest}"))["pull"]["what"]
    old = TagRecord(Digest.parse(image.digest), "", 1.0, "lab", (Earlier(DIGEST, 1.0),))
    Tags(room.layout).write("lab/team/app", "v1", old, durable=False)
    found = await tell("lab/team/app:v1")
    assert (found["here"]["tag"]["fresh"], found["pull"]["answer"]) == (False, "HIT")
    assert "by HEAD" in found["pull"]["what"]
    assert len(upstream.requests) == requests
    offline, _ = explain(**keys, offline=True)
    assert "offline" in (await offline("lab/team/app:v1"))["pull"]["what"]
    assert (await offline("lab/team/app:v2"))["pull"]["answer"] == "404"


async def test_an_upstream_that_is_away(explain: Open) -> None:
    tell, room = explain(upstreams={"lab": {"endpoints": ["http://127.0.0.1:9"]}})
    for endpoint in room.clients["lab"]._endpoints:
        for _ in range(5):
            endpoint.breaker.failed()
    assert (await tell("lab/team/app:v1"))["pull"]["answer"] == "503"
    Tags(room.layout).write("lab/team/app", "v1", TagRecord(Digest.parse(DIGEST), "", 1.0), durable=False)
    assert (await tell("lab/team/app:v1"))["pull"]["answer"] == "STALE"


async def test_what_a_set_pins_and_says(explain: Open) -> None:
    tell, room = explain(upstreams={"quay.io": {}}, offline=True)
    digest = f"sha256:{'c' * 64}"
    images = [{"name": "quay.io/org/app", "image": f"quay.io/org/app@{digest}", "tags": ["v1"]}]
    plan = {"manifests": [{"digest": digest, "size": 5}], "blobs": [], "images": images}
    sets = Sets(room.layout)
    sets.write("prod", 1, json.dumps(plan).encode())
    sets.complete("prod", 1, Digest.parse(digest), "loaded")
    found = await tell("quay.io/org/app:v1")
    assert (found["here"]["digest"], found["here"]["pinned_by"]) == (digest, ["prod@1"])
    assert found["here"]["tag"]["why"] == "an image set says what it means"
    assert (found["here"]["manifest"], found["pull"]["answer"]) == (False, "404")
    assert found["pull"]["remedy"] == "prod@1 should hold it: mirror verify prod@1 says what is missing"
    found = await tell("registry.gone/team/app")
    assert found["kind"] == "unknown"
    assert "add it to an image set" in found["pull"]["remedy"]
    assert "upstreams" not in found["pull"]["remedy"]
    found = await tell("quay.io/org/other:v1")
    assert found["pull"]["answer"] == "404"
    assert "add it to an image set" in found["pull"]["remedy"]


@pytest.mark.parametrize("spelled", ["registry.gone/team/app:v1", "team/app:v1?ns=registry.gone"])
async def test_a_name_of_a_set_is_explained_as_it_is_served(explain: Open, spelled: str) -> None:
    """Nobody has pulled anything yet: the explanation is the first to ask what sets hold."""
    tell, room = explain()
    assert (await tell(spelled))["kind"] == "unknown"
    layer = Digest.of(b"layer")
    named = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": str(layer), "size": 5}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": named, "layers": [named]}
    content = json.dumps(document).encode()
    digest = Digest.of(content)
    store_bytes(room.layout, digest, content)
    store_bytes(room.layout, layer, b"layer")
    Manifests(room.layout).add_manifest("registry.gone/team/app", digest, "", len(content))
    images = [{"name": "registry.gone/team/app", "image": f"registry.gone/team/app@{digest}", "tags": ["v1"]}]
    plan = {"manifests": [{"digest": str(digest), "size": len(content)}], "blobs": [], "images": images}
    sets = Sets(room.layout)
    sets.write("prod", 1, json.dumps(plan).encode())
    sets.complete("prod", 1, digest, "loaded")
    found = await tell(spelled)
    assert (found["kind"], found["name"], found["pull"]["answer"]) == ("set", "registry.gone/team/app", "HIT")
    Path(room.layout.blob(layer)).unlink()
    assert "but 1 of the items that it names is not here, and answered 404" in (await tell(spelled))["pull"]["what"]
    lacking = await tell(spelled.replace("v1", "v2"))
    assert (lacking["pull"]["answer"], lacking["pull"]["remedy"]) == ("404", "sync or load a set that holds it")


async def test_sets_that_cannot_be_read_are_no_reason_to_call_a_name_unknown(explain: Open) -> None:
    tell, room = explain()
    sets = Sets(room.layout)
    sets.write("prod", 1, b"{}")
    sets.complete("prod", 1, Digest.parse(DIGEST), "loaded")
    Path(sets.path("prod", 1)).write_bytes(b"")
    found = await tell("registry.gone/team/app:v1")
    assert found["pull"]["answer"] == "503"


@pytest.mark.parametrize("offline", [False, True])
async def test_a_damaged_record_of_a_tag(explain: Open, upstream: ScriptedRegistry, offline: bool) -> None:
    """Where nobody else says what it means a pull gets 503, and the explanation what to do."""
    tell, room = explain(upstreams={"lab": {"endpoints": [upstream.url]}}, hosted=["apps/**"], offline=offline)
    for name in ("lab/team/app", "apps/mine"):
        Tags(room.layout).write(name, "v1", TagRecord(Digest.parse(DIGEST), "", 1.0), durable=False)
        Path(room.layout.tag(name, "v1")).write_bytes(b"")
    hosted, proxied = await tell("apps/mine:v1"), await tell("lab/team/app:v1")
    assert hosted["pull"]["answer"] == "503"
    assert "apps/mine:v1 is damaged" in hosted["pull"]["what"]
    assert "push the tag again" in hosted["pull"]["remedy"]
    assert "damaged" in proxied["here"]["damaged"]["what"]
    assert proxied["pull"]["answer"] == ("503" if offline else "MISS")
