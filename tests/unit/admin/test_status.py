"""What a service says of itself: each trouble has a reason and a remedy, and the three conditions follow from facts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
import yaml
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from mirror.admin import refused
from mirror.admin import status as status_module
from mirror.admin.conditions import Trouble, conditions, find_troubles
from mirror.admin.health import Health
from mirror.admin.page import AdminPage
from mirror.admin.reload import Prepared, digest_of
from mirror.admin.status import Status
from mirror.config import load
from mirror.errors import NameInvalid, StoreError
from mirror.metrics import NOTIFICATIONS_WAITING
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.index import Index
from mirror.store.ingest import Part, PartNote
from mirror.store.lock import FileLock
from mirror.store.sets import Sets
from mirror.workers import Board
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room

ROOT = Path(__file__).parents[3]


def facts(**changes: Any) -> dict[str, Any]:
    """Return the facts of a service that is well."""
    well: dict[str, Any] = {
        "phase": "serving",
        "listen": ["127.0.0.1:5000"],
        "workers": {"configured": 2, "ready": 2, "leaving": 0, "restarts": 0},
        "reload": None,
        "configuration": {"path": "/etc/mirror/mirror.yaml", "read": 0.0, "changed": False},
        "store": {
            "path": "/s", "cache_size": None, "total_bytes": 1 << 40, "free_bytes": 1 << 39, "keep_free_bytes": 1 << 30,
            "room_bytes": 1 << 38, "evictable_bytes": 0, "index_rebuilding": False, "would_free": [],
            "faults": [], "read_only": False, "stopped": {}, "in_vain": False,
            "total_inodes": 1000, "free_inodes": 900, "lacking_inodes": 0,
        },
        "sets": [],
        "busy_sets": [],
        "damaged_record": None,
        "scrub": {"bad": 0},
        "upstreams": [{"name": "lab", "state": "reachable", "credential": "ok", "endpoints": []}],
        "certificate": {"path": "tls.crt", "expires": time.time() + 90 * 86400},
        "housekeeping": True,
        "notifications": {"ci.lab": 3},
        "refused": [],
        "memory": {"held_bytes": 0, "short": None},
    }  # fmt: skip
    for key, value in changes.items():
        known = well[key]
        well[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    return well


def upstream(state: str, credential: str, error: str = "") -> list[dict[str, Any]]:
    return [{"name": "lab", "state": state, "credential": credential, "endpoints": [{"last_error": error}]}]


KEY = {"what": "tls.key is encrypted", "where": "mirror.yaml:3", "remedy": "decrypt it"}
PROD = {"set": "prod", "generation": 5, "state": "incomplete", "missing": 3, "lacking": 0}
FAULT = {
    "operation": "read", "errno": "EIO", "error": "Input/output error", "path": "/s/blobs/sha256/0", "paths": 3,
    "count": 9, "since": 0.0, "remedy": "look at the disk (dmesg, SMART)",
}  # fmt: skip
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"store": {"room_bytes": 0, "would_free": [("prod@1", 1 << 30)]}}, "StoreFull", "prod@1 1.0 GiB"),
    ({"store": {"room_bytes": 0}}, "StoreFull", "mirror gc"),
    ({"store": {"free_bytes": None}}, "StoreUnusable", "disk"),
    ({"store": {"lacking_inodes": 7, "free_inodes": 3}}, "StoreFull", "du --inodes"),
    ({"store": {"in_vain": True}}, "StoreFull", "what else fills"),
    ({"store": {"faults": [FAULT]}}, "StoreUnreadable", "dmesg"),
    ({"store": {"faults": [{**FAULT, "operation": "write"}]}}, "StoreUnwritable", "dmesg"),
    ({"store": {"read_only": True}}, "StoreUnwritable", "mount it writable"),
    ({"store": {"stopped": {"gc": "would take 40 contents of 100"}}}, "CollectionStopped", "--yes"),
    ({"scrub": {"bad": 2}}, "ContentCorrupt", "mirror scrub"),
    ({"scrub": {"bad": ["sha256:a"]}}, "ContentCorrupt", "mirror scrub"),
    ({"sets": [PROD]}, "SetIncomplete", "verify prod@5"),
    ({"sets": [{**PROD, "missing": 0, "lacking": 2}]}, "SetIncomplete", "verify prod@5"),
    ({"damaged_record": {"what": "/s/sets/current", "remedy": "remove it"}}, "RecordDamaged", "remove"),
    ({"upstreams": upstream("reachable", "refused")}, "LoginRefused", "renew"),
    ({"upstreams": upstream("away", "ok", "no route")}, "UpstreamAway", "online"),
    ({"certificate": {"expires": time.time() - 5}}, "CertificateExpired", "reread"),
    ({"certificate": {"expires": time.time() + 86400}}, "CertificateExpires", "reread"),
    ({"refused": [KEY]}, "FileRefused", "decrypt it"),
    ({"reload": {"ok": False, "why": "mirror.yaml:3: no such key"}}, "ReloadRefused", "systemctl reload"),
    ({"workers": {"ready": 1}}, "WorkersMissing", "worker_ended"),
    # The rows are made long before they are looked at.
    ({"memory": {"short": time.time() + 86400}}, "MemoryShort", "connections_per_client"),
    ({"housekeeping": False}, "HousekeepingIdle", "duty_failed"),
    ({"notifications": {"ci.lab": 101}}, "NotificationsWaiting", "notifications_held"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason", "remedy"), BAD)
def test_each_trouble_has_a_reason_and_a_remedy_and_is_in_the_manual(
    change: dict[str, Any], reason: str, remedy: str
) -> None:
    found = facts(**change)
    (trouble,) = find_troubles(found)
    assert trouble.reason == reason
    assert remedy in trouble.remedy
    degraded = conditions(found, [trouble], "")[2]
    assert (degraded.status, degraded.reason, degraded.message) == (True, reason, trouble.what)
    assert f"`{reason}`" in ROOT.joinpath("docs/operations.md").read_text()


def test_a_small_disk_is_told_how_room_is_taken() -> None:
    small = {"total_bytes": 40 << 20, "free_bytes": 40 << 20, "keep_free_bytes": 2 << 20, "room_bytes": 38 << 20}
    (trouble,) = find_troubles(facts(store=small))
    assert trouble.what.endswith("2.0 MiB are to stay free, and room is taken 64.0 MiB at a time")


def test_a_service_that_is_well() -> None:
    found = facts()
    assert find_troubles(found) == []
    assert [(one.status, one.reason) for one in conditions(found, [], "")] == [
        (True, "AsExpected"),
        (False, "AsExpected"),
        (False, "AsExpected"),
    ]
    unfinished = {"set": "prod", "generation": 4, "state": "left", "missing": 3}
    running = {"set": "prod", "generation": 6, "state": "running", "missing": 3}
    assert find_troubles(facts(sets=[unfinished, running], scrub=None, certificate=None)) == []
    assert find_troubles(facts(scrub={"bad": "?"}, housekeeping=None)) == []
    assert find_troubles(facts(store={"room_bytes": None, "evictable_bytes": None})) == []


@pytest.mark.parametrize(
    ("change", "number", "status", "reason"),
    [
        ({"phase": "reloading"}, 1, True, "Reloading"),
        ({"phase": "starting"}, 1, True, "Starting"),
        ({"workers": {"leaving": 2}}, 1, True, "Replacing"),
        ({"busy_sets": ["prod"]}, 1, True, "Syncing"),
        ({"store": {"index_rebuilding": True}}, 1, True, "Indexing"),
        ({"phase": "stopping"}, 0, False, "Stopping"),
        ({"workers": {"ready": 0}}, 0, False, "NoWorker"),
    ],
)
def test_available_and_progressing(change: dict[str, Any], number: int, status: bool, reason: str) -> None:
    found = conditions(facts(**change), [], "")[number]
    assert (found.status, found.reason) == (status, reason)


def test_a_store_that_does_not_answer_and_several_troubles() -> None:
    assert conditions(facts(), [], "the store is gone")[0].reason == "StoreUnusable"
    troubles = [Trouble("StoreFull", "a"), Trouble("UpstreamAway", "b"), Trouble("StoreFull", "c")]
    several = conditions(facts(), troubles, "")[2]
    assert (several.reason, several.message) == ("Multiple", "a; b; c")
    assert Trouble("StoreFull", "x").as_dict()["code"] == "store_full"


# -- the report over a real store ----------------------------------------------------------------------------------


@pytest.fixture
async def status(tmp_path: Path) -> AsyncIterator[Callable[..., tuple[Status, Room, Board]]]:
    rooms: list[Room] = []

    def start(**document: Any) -> tuple[Status, Room, Board]:
        file = tmp_path / "mirror.yaml"
        file.write_text(yaml.safe_dump({"storage": {"path": str(tmp_path / "store")}, **document}))
        room = Room(load(file))
        rooms.append(room)
        board = Board(2)
        worker = {"index": 0, "pid": 1, "ready": True, "age": 1.0}
        board.post_service(
            {"pid": 7, "phase": "serving", "began": time.time() - 60, "workers": [worker], "leaving": []}
        )
        prepared = Prepared(room.config, None, None, time.time(), digest_of(file))
        health = Health(board, 0, room.clients)
        return Status(prepared, "i", room.content, room.space, room.index, health, room.metrics), room, board

    yield start
    for room in rooms:
        await room.close()


async def test_the_report_holds_what_the_store_and_the_workers_know(
    status: Callable[..., tuple[Status, Room, Board]], tmp_path: Path
) -> None:
    tell, room, board = status(upstreams={"quay.io": {}, "docker.io": {}})
    layout = room.layout
    found = await tell()
    assert json.loads(json.dumps(found)) == found | {"store": json.loads(json.dumps(found["store"]))}
    assert (found["pid"], found["workers"]["ready"], found["uptime"] >= 60) == (7, 1, True)
    assert {one["name"]: one["state"] for one in found["upstreams"]} == {
        "quay.io": "not asked yet",
        "docker.io": "not asked yet",
    }
    assert found["housekeeping"] in (False, None)
    # A sibling has asked quay.io last, and it failed; its word counts.
    seen = {"endpoint": "https://quay.io", "breaker": "open", "asked_again": 3.0, "last_error": "no route",
            "credential": "unknown", "judged": time.monotonic()}  # fmt: skip
    board.post(1, {"upstreams": {"quay.io": [seen]}})
    workers = [{"index": index, "pid": 1, "ready": True, "age": 1.0} for index in (0, 1)]
    board.post_service({"pid": 7, "phase": "serving", "began": time.time(), "workers": workers, "leaving": []})
    room.metrics.set(NOTIFICATIONS_WAITING, "ci.lab", to=4)
    digest = Digest.parse(f"sha256:{'a' * 64}")
    part = Part.open(layout, digest, create=True)
    assert part is not None
    part.write_note(PartNote(100, "quay.io", "org/app", "boot", 0, "me"))
    files.write_all(part.fd, b"12345")
    assert (await tell())["fetches"] == []  # which nobody holds
    assert part.try_lock()
    with FileLock(layout.housekeeping_lock):
        found = await tell()
    part.close()
    assert found["housekeeping"] is True
    assert found["notifications"] == {"ci.lab": 4}
    assert found["fetches"] == [
        {"digest": str(digest), "upstream": "quay.io", "repository": "org/app", "size": 100, "received": 5}
    ]
    # What a sibling says that knows an endpoint no more counts for nothing.
    board.post(1, {"upstreams": {"quay.io": [seen, {**seen, "endpoint": "https://old.lab"}], "gone": [seen]}})
    assert [len(one["endpoints"]) for one in (await tell())["upstreams"]] == [1, 1]
    away = {one["name"]: one for one in found["upstreams"]}["quay.io"]
    assert (away["state"], away["endpoints"][0]["last_error"]) == ("away", "no route")
    assert [one["code"] for one in found["problems"]] == ["upstream_away"]
    (tmp_path / "mirror.yaml").write_text("offline: true\n")
    assert (await tell())["configuration"]["changed"]


async def test_a_slow_store_does_not_keep_the_answer(
    status: Callable[..., tuple[Status, Room, Board]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at a time; meanwhile it is told what the last one found, and when that was."""
    tell, room, _ = status()
    first = await tell()
    assert first["uploads"] == 0
    Path(room.layout.upload("one")).touch()
    goes_on, looks = threading.Event(), []
    real = tell._look

    def slow() -> dict[str, Any]:
        looks.append(1)
        assert goes_on.wait(30)
        return real()

    monkeypatch.setattr(tell, "_look", slow)
    monkeypatch.setattr(status_module, "_PATIENCE", 0.01)
    try:
        for _ in range(3):
            again = await tell()
            assert (again["looked"], again["uploads"], again["store"]) == (first["looked"], 0, first["store"])
        assert len(looks) == 1
    finally:
        goes_on.set()
    assert tell._looking is not None
    await tell._looking
    monkeypatch.setattr(status_module, "_PATIENCE", 30)
    last = await tell()
    assert last["looked"] > first["looked"]
    assert last["uploads"] == 1


async def test_an_index_that_nobody_can_rebuild_is_not_said_to_be_rebuilt(
    status: Callable[..., tuple[Status, Room, Board]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, room, _ = status()
    with FileLock(room.layout.housekeeping_lock):
        assert (await tell())["conditions"][1]["reason"] == "Indexing", "it is new"
    with FileLock(room.layout.lock("another")):  # one that is held, so that it is seen which are not
        found = await tell()
    assert [one["reason"] for one in found["conditions"][1:]] == ["AsExpected", "HousekeepingIdle"]

    def away(_: Index) -> int:
        raise StoreError("the index cannot be used now")

    with monkeypatch.context() as patched:
        patched.setattr(files, "is_read_only", lambda _: True)
        with FileLock(room.layout.housekeeping_lock):
            found = await tell()
        assert [(one["status"], one["reason"]) for one in found["conditions"][1:]] == [
            (False, "AsExpected"),
            (True, "StoreUnwritable"),
        ]
    monkeypatch.setattr(Index, "total", away)
    with FileLock(room.layout.housekeeping_lock):
        assert not (await tell())["conditions"][1]["status"]


async def test_what_one_worker_told_its_siblings_know(
    status: Callable[..., tuple[Status, Room, Board]],
) -> None:
    """Or two looks in a row, at two workers, would contradict each other for a second."""
    async with ScriptedRegistry() as registry:
        tell, room, board = status(upstreams={"lab": {"endpoints": [registry.url]}})
        registry.add_image("team/app", "v1")
        await room.clients["lab"].get_manifest("team/app", "v1")
    assert board.read(0) == {}
    assert (await tell())["upstreams"][0]["state"] == "reachable"
    (seen,) = board.read(0)["upstreams"]["lab"]
    assert seen["judged"] > 0


async def test_sets_are_complete_incomplete_on_their_way_or_left(
    status: Callable[..., tuple[Status, Room, Board]],
) -> None:
    tell, room, _ = status()
    sets = Sets(room.layout)
    digest = f"sha256:{'b' * 64}"
    plan = json.dumps({"manifests": [], "blobs": [{"digest": digest, "size": 10}], "images": []}).encode()
    whole = json.dumps({"manifests": [], "blobs": [], "images": []}).encode()
    lacking = json.dumps({"manifests": [], "blobs": [], "images": [], "lacking": ["quay.io/a is not there"]}).encode()
    for number, raw in ((1, plan), (2, whole), (3, whole), (4, plan)):
        sets.write("prod", number, raw)
    sets.write("tools", 1, lacking)
    for name, number in (("prod", 2), ("prod", 3), ("tools", 1)):
        sets.complete(name, number, Digest.parse(digest), "synced")
    found = (await tell())["sets"]
    states = {one["generation"]: (one["state"], one["missing"]) for one in found if one["set"] == "prod"}
    assert states == {1: ("left", 1), 2: ("complete", 0), 3: ("complete", 0), 4: ("incomplete", 1)}
    tools = [(one["state"], one["missing"], one["lacking"]) for one in found if one["set"] == "tools"]
    assert tools == [("incomplete", 0, 1)], "what its plan lacks was asked for too"
    sets.remove("tools", 1)
    busy = sets.try_busy("prod")
    assert busy is not None
    found = await tell()
    busy.release()
    assert {one["generation"]: one["state"] for one in found["sets"]}[4] == "running"
    assert found["conditions"][1]["reason"] == "Syncing"


@pytest.mark.parametrize("name", ["current", "prod/1.json"])
async def test_a_damaged_record_of_sets_is_named(status: Callable[..., tuple[Status, Room, Board]], name: str) -> None:
    tell, room, _ = status()
    path = room.layout.sets / name
    Sets(room.layout).write("prod", 1, b'{"manifests": [], "blobs": [], "images": []}')
    path.write_bytes(b"\0garbage")
    (problem,) = [one for one in (await tell())["problems"] if one["code"] == "record_damaged"]
    assert str(path) in problem["what"]
    assert "sync or load" in problem["remedy"]


async def test_what_would_free_how_much_and_what_a_scrub_noted(
    status: Callable[..., tuple[Status, Room, Board]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, room, _ = status(storage={"path": "store", "keep_free": "99%"})
    sets = Sets(room.layout)
    for number, size in ((1, 10), (2, 20), (3, 30)):
        blobs = [{"digest": f"sha256:{str(number) * 64}", "size": size}, {"digest": f"sha256:{'f' * 64}", "size": 99}]
        sets.write("prod", number, json.dumps({"manifests": [], "blobs": blobs, "images": []}).encode())
    room.layout.run.joinpath("scrub.json").write_text('{"bad": 1, "bytes": 5}')
    monkeypatch.setattr(Index, "total", lambda _: 123)
    found = await tell()
    assert found["store"]["would_free"] == [("prod@2", 20), ("prod@1", 10)]
    assert found["store"]["content_bytes"] == 123
    assert found["scrub"] == {"bad": 1, "bytes": 5}
    assert {"store_full", "content_corrupt"} <= {one["code"] for one in found["problems"]}
    room.layout.run.joinpath("scrub.json").write_text("half")
    assert (await tell())["scrub"] is None


async def test_files_that_the_next_start_would_refuse_are_told_as_long_as_they_are_so(
    status: Callable[..., tuple[Status, Room, Board]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused, "_REMEMBERED", 0.0)
    names = ("htpasswd", "pull-secret.json", "tls.crt", "tls.key")
    users, secret, certificate, key = (tmp_path / name for name in names)

    def write(name: str, content: bytes) -> None:
        tmp_path.joinpath(name).write_bytes(content)
        tmp_path.joinpath(name).chmod(0o644)  # open to others: which the service can live with

    sound = {"htpasswd": b"", "pull-secret.json": b'{"auths": {"other.lab": {"auth": "broken"}}}'}
    authority = trustme.CA()
    pair, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    sound |= {"tls.crt": pair.cert_chain_pems[0].bytes(), "tls.key": pair.private_key_pem.bytes()}
    for name, content in sound.items():
        write(name, content)
    tell, _, _ = status(
        upstreams={"lab": {}},
        clients={"htpasswd": str(users)},
        pull_secrets=[str(secret)],
        tls={"certificate": str(certificate), "key": str(key)},
    )
    assert (await tell())["refused"] == []
    for name, content, what in (
        ("htpasswd", b"# ours\nann\n", f"{users}:2: this line has no colon"),
        ("pull-secret.json", b'{"auths": {', f"{secret} is not JSON"),
        ("pull-secret.json", b"", f"{secret} is empty"),
        ("tls.key", other.private_key_pem.bytes(), f"{key} is not the key of"),
        ("tls.crt", b"half", f"{certificate} holds no certificate"),
    ):
        write(name, content)
        found = await tell()
        (problem,) = [one for one in found["problems"] if one["code"] == "file_refused"]
        assert what in problem["what"]
        assert problem["remedy"]
        assert "mirror.yaml" in problem["where"]
        assert problem["what"] in found["conditions"][2]["message"]
        write(name, sound[name])
    secret.unlink()
    assert [f"there is no file {secret}"] == [one["what"] for one in (await tell())["refused"]]
    write("pull-secret.json", sound["pull-secret.json"])
    assert (await tell())["refused"] == []
    # Whoever asks in a loop asks the files only now and then.
    monkeypatch.setattr(refused, "_REMEMBERED", 3600.0)
    secret.unlink()
    assert (await tell())["refused"] == []


# -- the page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status_code"),
    [
        ("GET", "/status", 500),
        ("GET", "/explain?name=a", 200),
        ("GET", "/explain?name=BAD", 400),
        ("POST", "/reload", 202),
        ("GET", "/reload", 404),
        ("POST", "/status", 404),
        ("GET", "/", 404),
    ],
)
async def test_the_page_answers_three_questions_and_survives_its_faults(
    method: str, path: str, status_code: int
) -> None:
    reloads: list[int] = []

    async def fail() -> dict[str, Any]:
        raise ZeroDivisionError

    async def explain(name: str) -> dict[str, Any]:
        if name == "BAD":
            raise NameInvalid("no name", "write one")
        return {"name": name}

    page = AdminPage(fail, explain, lambda: reloads.append(1))
    with structlog.testing.capture_logs():
        answer = await page(make_mocked_request(method, path))
    assert isinstance(answer, web.Response)
    assert answer.status == status_code
    assert isinstance(answer.body, bytes)
    told = json.loads(answer.body)
    assert told.get("name", "a") == "a"
    assert len(reloads) == (status_code == 202)
