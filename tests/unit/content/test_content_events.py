"""What webhooks are told, field by field, and that telling never fails a push."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from mirror.config.notifications import Notification
from mirror.content.events import Asked, Events, Source, asking
from mirror.metrics import Metrics
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_MANIFEST
from mirror.store import events as stored
from mirror.store.events import LARGEST
from mirror.store.layout import Layout
from mirror.store.threads import Threads

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")
LAYER = Descriptor(Digest.of(b"layer"), 7, "application/vnd.oci.image.layer.v1.tar+gzip")
PUT = Asked("6f2c91", "10.0.0.7", "mirror.lab:5000", "PUT", "skopeo/1.14", "https://mirror.lab:5000")
ALL = Notification(url="https://ci.lab/all")


class Stage:
    """Events over a store of their own."""

    def __init__(
        self, tmp_path: Path, writers: Threads, *targets: Notification, external_url: str | None = None
    ) -> None:
        self.layout = Layout(tmp_path)
        self.queues = stored.Events(self.layout)
        self.metrics = Metrics()
        source = Source("bastion.lab:5000", "1f00")
        self.events = Events(self.queues, targets, writers, self.metrics, source, external_url)

    def told(self, target: Notification = ALL) -> list[dict[str, Any]]:
        _, entries = self.queues.scan(target.key, ())
        return [json.loads(raw or b"") for raw in self.queues.read(target.key, [entry.name for entry in entries])]

    def count(self, result: str, target: str = "ci.lab") -> float:
        line = f'mirror_notifications_total{{result="{result}",target="{target}"}} '
        return sum(
            float(one[len(line) :]) for one in self.metrics.render().decode().split("\n") if one.startswith(line)
        )


@pytest.fixture
async def writers() -> AsyncIterator[Threads]:
    threads = Threads("write", 2)
    yield threads
    threads.close()


@contextlib.contextmanager
def request(asked: Asked | None = PUT) -> Iterator[None]:
    token = asking.set(asked)
    try:
        yield
    finally:
        asking.reset(token)


async def test_a_push_has_the_fields_of_distribution(tmp_path: Path, writers: Threads) -> None:
    stage = Stage(tmp_path, writers, ALL)
    before = datetime.now(UTC)
    with request():
        await stage.events.pushed("apps/web", ONE, OCI_MANIFEST, 708, ("v1",), "ci", (LAYER,))
    (event,) = stage.told()
    assert uuid.UUID(event.pop("id")).version == 4
    stamp = event.pop("timestamp")
    assert stamp.endswith("Z")
    assert before <= datetime.fromisoformat(stamp) <= datetime.now(UTC)
    assert event == {
        "action": "push",
        "target": {
            "mediaType": OCI_MANIFEST,
            "digest": str(ONE),
            "size": 708,
            "length": 708,
            "repository": "apps/web",
            "url": f"https://mirror.lab:5000/v2/apps/web/manifests/{ONE}",
            "tag": "v1",
            "references": [{"mediaType": LAYER.media_type, "digest": str(LAYER.digest), "size": 7}],
        },
        "request": {
            "id": "6f2c91",
            "addr": "10.0.0.7",
            "host": "mirror.lab:5000",
            "method": "PUT",
            "useragent": "skopeo/1.14",
        },
        "actor": {"name": "ci"},
        "source": {"addr": "bastion.lab:5000", "instanceID": "1f00"},
    }


async def test_an_event_for_each_tag(tmp_path: Path, writers: Threads) -> None:
    stage = Stage(tmp_path, writers, ALL)
    await stage.events.pushed("apps/web", ONE, OCI_MANIFEST, 708, ("v1", "latest"), "anonymous")
    await stage.events.pushed("apps/web", TWO, OCI_MANIFEST, 0, (), "")
    told = stage.told()
    assert [event["target"].get("tag") for event in told] == ["v1", "latest", None]
    assert [event["actor"] for event in told] == [{}, {}, {}]
    assert len({event["id"] for event in told}) == 3
    assert told[2]["target"] == {
        "mediaType": OCI_MANIFEST, "digest": str(TWO), "size": 0, "length": 0, "repository": "apps/web"
    }  # fmt: skip
    assert told[2]["request"] == {"id": "", "method": "", "useragent": ""}


async def test_deletions(tmp_path: Path, writers: Threads) -> None:
    stage = Stage(tmp_path, writers, ALL)
    with request():
        await stage.events.deleted("apps/web", "ci", tag="v1")
        await stage.events.deleted("apps/web", "ci", digest=ONE)
    tag, manifest = stage.told()
    assert tag["target"] == {"repository": "apps/web", "tag": "v1"}
    assert manifest["target"] == {"repository": "apps/web", "digest": str(ONE)}
    assert {event["action"] for event in (tag, manifest)} == {"delete"}
    assert tag["actor"] == {"name": "ci"}


async def test_a_tag_that_moved_upstream_is_nobodys_request(tmp_path: Path, writers: Threads) -> None:
    stage = Stage(tmp_path, writers, ALL, external_url="https://mirror.lab")
    with request():  # of a push before it on the same connection
        await stage.events.on_moved("quay.io/org/app", "latest", ONE, TWO)
        await stage.events.on_moved("quay.io/org/app", "latest", TWO, TWO)
    (event,) = stage.told()
    assert event["action"] == "push"
    assert event["target"] == {
        "digest": str(TWO),
        "repository": "quay.io/org/app",
        "url": f"https://mirror.lab/v2/quay.io/org/app/manifests/{TWO}",
        "tag": "latest",
    }
    assert event["request"] == {"id": "", "method": "", "useragent": ""}
    assert event["actor"] == {}


async def test_external_url_is_where_content_is(tmp_path: Path, writers: Threads) -> None:
    stage = Stage(tmp_path, writers, ALL, external_url="https://outside.lab")
    with request():
        await stage.events.pushed("a", ONE, OCI_MANIFEST, 1, (), "ci")
    assert stage.told()[0]["target"]["url"] == f"https://outside.lab/v2/a/manifests/{ONE}"


async def test_each_webhook_is_told_what_it_wants(tmp_path: Path, writers: Threads) -> None:
    pushes = Notification(url="https://ci.lab/pushes", events=("push",), repositories=("apps/**",))
    moves = Notification(url="https://ci.lab/moves", events=("tag",))
    nothing = Notification(url="https://ci.lab/nothing", repositories=("none",))
    stage = Stage(tmp_path, writers, ALL, pushes, moves, nothing)
    await stage.events.pushed("apps/web", ONE, OCI_MANIFEST, 1, ("v1",), "ci")
    await stage.events.pushed("tools/x", ONE, OCI_MANIFEST, 1, ("v1",), "ci")
    await stage.events.deleted("apps/web", "ci", tag="v1")
    await stage.events.on_moved("quay.io/a", "v1", ONE, TWO)
    assert [event["target"]["repository"] for event in stage.told(pushes)] == ["apps/web"]
    assert [event["target"]["repository"] for event in stage.told(moves)] == ["quay.io/a"]
    assert len(stage.told()) == 4
    assert stage.told(nothing) == []
    assert stage.told()[0] == stage.told(pushes)[0]  # the same event, so the same id


async def test_without_webhooks_nothing_is_touched(tmp_path: Path, writers: Threads) -> None:
    writers.close()
    stage = Stage(tmp_path / "none", writers)
    await stage.events.pushed("apps/web", ONE, OCI_MANIFEST, 1, ("v1",), "ci")
    assert not (tmp_path / "none").exists()


async def test_what_clients_choose_is_bounded(tmp_path: Path, writers: Threads) -> None:
    stage = Stage(tmp_path, writers, ALL)
    asked = Asked("1", "::1", "h" * 5000, "PUT", '\n"\udcff' * 5000, "https://m")
    with request(asked):
        await stage.events.pushed("a/" * 127 + "a", ONE, "x" * 9000, 2**53, ("t" * 128,), '"' * 255, [LAYER] * 5)
        await stage.events.pushed("apps/web", ONE, OCI_MANIFEST, 1, ("v1",), "ci", [LAYER] * 5000)
        await stage.events.pushed("apps/web", ONE, OCI_MANIFEST, 0, ("v1",), "ci", [LAYER] * 50)
    first, second, third = stage.told()
    assert len(first["target"]["references"]) == 5
    assert len(first["request"]["useragent"]) == 256
    assert "references" not in second["target"]
    assert second["target"]["tag"] == "v1"
    assert len(third["target"]["references"]) == 50
    _, entries = stage.queues.scan(ALL.key, ())
    assert max(entry.size for entry in entries) <= LARGEST


async def test_a_disk_that_takes_no_event_fails_no_push(
    tmp_path: Path, writers: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Notification(url="https://other.lab/")
    stage = Stage(tmp_path, writers, ALL, other)
    real = os.rename

    def full(source: str, target: str) -> None:
        if ALL.key in target:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as patch, structlog.testing.capture_logs() as said:
        patch.setattr(os, "rename", full)
        await stage.events.pushed("apps/web", ONE, OCI_MANIFEST, 1, ("v1", "v2"), "ci")
    assert [line["event"] for line in said] == ["notification_lost"]
    assert (stage.count("lost"), stage.count("lost", "other.lab")) == (2, 0)
    assert len(stage.told(other)) == 2
    assert stage.told() == []


async def test_what_is_dropped_for_want_of_room_is_counted(
    tmp_path: Path, writers: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MOST", 2)
    monkeypatch.setattr(stored, "_LOOK_EVERY", 1)
    stage = Stage(tmp_path, writers, ALL)
    with structlog.testing.capture_logs() as said:
        for number in range(6):
            await stage.events.deleted("apps/web", "ci", tag=f"v{number}")
    left = stage.told()
    assert stage.count("dropped") == 6 - len(left) > 0
    assert left[-1]["target"]["tag"] == "v5"
    assert {line["event"] for line in said} == {"notifications_dropped"}
