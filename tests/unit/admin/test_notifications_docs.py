"""What docs/notifications.md tells its readers to write, to run and to expect."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from mirror.admin.backlog import Bounds
from mirror.admin.delivery import _FORBIDDEN, _LATER, Delivery, Pace
from mirror.config.notifications import EVENT_KINDS, Notification
from mirror.content.events import Asked, Events, Source, asking
from mirror.metrics import NOTIFICATIONS, NOTIFICATIONS_WAITING, Metrics
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.store import events as stored
from mirror.store.layout import Layout
from mirror.store.threads import Threads
from mirror.upstream import webhook
from mirror.upstream.webhook import open_webhooks
from tests.peers import settings
from tests.tools.processes import free_port
from tests.tools.programs import Programs

MANUAL = (Path(__file__).parents[3] / "docs" / "notifications.md").read_text()
FLAT = " ".join(MANUAL.split())


def block(language: str) -> str:
    """Return the only block of this language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", MANUAL, re.MULTILINE | re.DOTALL)
    return str(text)


def test_the_configuration_is_one() -> None:
    (entry,) = yaml.safe_load(block("yaml"))["notifications"]
    found = Notification.model_validate(entry)
    assert set(entry) == set(Notification.model_fields)
    assert found.events == EVENT_KINDS
    for key in Notification.model_fields:
        assert f"\n| `{key}` |" in MANUAL


async def test_the_request_is_what_is_sent(tmp_path: Path) -> None:
    shown = json.loads(block("json"))["events"][0]
    target, request = shown["target"], shown["request"]
    hook = Notification(url="http://ci.lab/")
    writers = Threads("write", 1)
    source = Source(shown["source"]["addr"], shown["source"]["instanceID"])
    queues = stored.Events(Layout(tmp_path))
    events = Events(queues, [hook], writers, Metrics(), source)
    names = [Descriptor(Digest.parse(one["digest"]), one["size"], one["mediaType"]) for one in target["references"]]
    base = target["url"].partition("/v2/")[0]
    asked = Asked(request["id"], request["addr"], request["host"], request["method"], request["useragent"], base)
    token = asking.set(asked)
    try:
        await events.pushed(
            target["repository"],
            Digest.parse(target["digest"]),
            target["mediaType"],
            target["size"],
            [target["tag"]],
            shown["actor"]["name"],
            names,
        )
    finally:
        asking.reset(token)
        writers.close()
    _, entries = queues.scan(hook.key, ())
    (raw,) = queues.read(hook.key, [entries[0].name])
    sent: dict[str, Any] = json.loads(raw or b"")
    ours = {"id": shown["id"], "timestamp": shown["timestamp"]}
    assert {**sent, **ours} == shown
    assert list(sent) == list(shown)
    assert len(sent["id"]) == len(shown["id"])
    assert len(sent["timestamp"]) == len(shown["timestamp"])


async def test_the_receiver_prints_what_it_is_told(tmp_path: Path, programs: Programs) -> None:
    programs.find("curl")
    port = free_port()
    (tmp_path / "receiver.py").write_text(block("python"))
    (tmp_path / "event.json").write_text(block("json"))
    start, post = block("bash").replace("8080", str(port)).splitlines()
    assert shlex.split(start) == ["python3", "receiver.py", str(port), "&"]
    receiver = subprocess.Popen(
        [sys.executable, "receiver.py", str(port)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    with receiver:
        try:
            assert receiver.stdout is not None
            while await asyncio.to_thread(_refuses, port):
                assert receiver.poll() is None
                await asyncio.sleep(0.02)
            for _ in range(2):  # the second is known
                posted = await asyncio.to_thread(
                    subprocess.run, shlex.split(post), cwd=tmp_path, capture_output=True, timeout=20
                )
                assert posted.returncode == 0, posted.stderr
            assert await asyncio.to_thread(receiver.stdout.readline) == block("text")
            await _deliver(tmp_path / "store", f"http://127.0.0.1:{port}/hook")
            assert await asyncio.to_thread(receiver.stdout.readline) == "push apps/db v2\n"
        finally:
            receiver.kill()


def _refuses(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return False
    return True


async def _deliver(root: Path, url: str) -> None:
    layout, hook = Layout(root), Notification(url=url)
    layout.locks.mkdir(parents=True)
    queues = stored.Events(layout)
    event = {"id": "1", "action": "push", "target": {"repository": "apps/db", "tag": "v2"}}
    queues.append(hook.key, "apps/db", [json.dumps(event).encode()])
    webhooks = open_webhooks(settings.config(), {}, [hook])
    delivery = Delivery(queues, [hook], webhooks, Metrics())
    try:
        while queues.scan(hook.key, ())[0]:
            await delivery.step()
            await asyncio.sleep(0.02)
    finally:
        await delivery.close()
        await webhooks.close()


def test_the_figures_are_those_of_the_program() -> None:
    pace, bounds = Pace(), Bounds()
    assert (pace.first, pace.longest) == (1, 60)
    assert "after 1 s, then doubling up to a minute" in FLAT
    assert pace.refusals == 8
    assert "after eight tries (about two minutes)" in FLAT
    assert sum(pace.first * 2**number for number in range(pace.refusals - 1)) in range(100, 150)
    assert (bounds.most, bounds.most_bytes) == (10_000, 32 << 20)
    assert "At most 10 000 events and 32 MiB wait" in FLAT
    assert webhook.ANSWER_SECONDS == 30
    assert "A 2xx answer within 30 seconds" in FLAT
    assert stored.STALE == 7 * 86400
    assert "removed after a week" in FLAT
    assert stored.LARGEST == 16 * 1024
    for status in (*_LATER, _FORBIDDEN):
        assert re.search(rf"\n\| .*answers .*\b{status}\b", MANUAL), status


def test_the_metrics_are_named() -> None:
    for family in (NOTIFICATIONS, NOTIFICATIONS_WAITING):
        assert f"`{family.name}{{{','.join(family.labels)}}}`" in MANUAL
