"""Events from a push through `mirror serve` to a webhook: all of them, in order, also over kill -9."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.faults.forked import ForkedMirror
from tests.faults.wire import Got, ask
from tests.tools import images, registries
from tests.tools.processes import running, wait_until
from tests.tools.push import push
from tests.tools.registries import Registry

pytestmark = pytest.mark.timeout(90)

PUSHES, REPOSITORIES = 12, 3


class Webhook:
    """A receiver that takes what it is told, or answers 503."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []  # in the order of their first delivery
        self.refused = 0
        self.fails = False
        self.logins: set[str | None] = set()
        self._seen: set[str] = set()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                webhook.logins.add(self.headers["Authorization"])
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(webhook.take(json.loads(body)["events"]))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def take(self, events: list[dict[str, Any]]) -> int:
        """Return the status for a request with some events."""
        if self.fails:
            self.refused += 1
            return 503
        for event in events:
            if event["id"] not in self._seen:
                self._seen.add(event["id"])
                self.events.append(event)
        return 200

    def told(self, **target: str) -> list[dict[str, Any]]:
        """Return the events about a target."""
        return [one for one in self.events if target.items() <= one["target"].items()]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    opened = Webhook()
    yield opened
    opened.close()


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Registry]:
    with running(registries.hosting(tmp_path / "upstream")) as registry:
        yield registry


@pytest.fixture
def service(tmp_path: Path, webhook: Webhook, upstream: Registry) -> Iterator[ForkedMirror]:
    (tmp_path / "headers").write_text("Authorization: Bearer hook-secret\n")
    (tmp_path / "headers").chmod(0o600)
    document = {
        "workers": 2,
        "clients": {"anonymous": "push"},
        "upstreams": {"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "0s"}}},
        "notifications": [
            {"url": webhook.url, "header_file": str(tmp_path / "headers"), "repositories": ["apps/**", "lab/**"]}
        ],
    }
    mirror = ForkedMirror(tmp_path / "mirror", document)
    mirror.start()
    yield mirror
    mirror.kill()
    print(mirror.log)
    assert "Traceback" not in mirror.log
    assert "hook-secret" not in mirror.log


def image(text: str) -> images.Manifest:
    return images.image([images.layer(images.tree({"etc/motd": text.encode()}))])


async def send(service: ForkedMirror, method: str, path: str, body: bytes = b"", kind: str = "") -> Got:
    host, _, port = service.address.partition(":")
    fields = {"Content-Type": kind, "User-Agent": "drill/1"} if kind else {}
    return await ask((host, int(port)), path, method, fields, body)


async def push_image(service: ForkedMirror, repository: str, tag: str, made: images.Manifest) -> None:
    for blob in made.blobs:
        path = f"/v2/{repository}/blobs/uploads/?digest={blob.digest}"
        assert (await send(service, "POST", path, blob.body)).status == 201
    path = f"/v2/{repository}/manifests/{tag}"
    assert (await send(service, "PUT", path, made.body, made.media_type)).status == 201


async def test_what_is_pushed_tagged_and_deleted_is_told(service: ForkedMirror, webhook: Webhook) -> None:
    made = image("told")
    await push_image(service, "apps/web", "v1", made)
    await push_image(service, "other/web", "v1", made)  # nobody asked to be told of that
    assert (await send(service, "DELETE", "/v2/apps/web/manifests/v1")).status == 202
    assert (await send(service, "DELETE", f"/v2/apps/web/manifests/{made.digest}")).status == 202
    await asyncio.to_thread(wait_until, lambda: len(webhook.events) >= 3, "three events", 10)
    pushed, untagged, deleted = webhook.events
    assert (pushed["action"], pushed["target"]["tag"], pushed["target"]["digest"]) == ("push", "v1", made.digest)
    assert pushed["target"]["size"] == len(made.body)
    assert pushed["target"]["url"] == f"{service.url}/v2/apps/web/manifests/{made.digest}"
    assert {one["digest"] for one in pushed["target"]["references"]} == set(made.all_blobs())
    assert pushed["request"]["method"] == "PUT"
    assert pushed["request"]["useragent"] == "drill/1"
    assert (untagged["action"], untagged["target"]["tag"]) == ("delete", "v1")
    assert (deleted["action"], deleted["target"]["digest"]) == ("delete", made.digest)
    assert {one["target"]["repository"] for one in webhook.events} == {"apps/web"}
    assert webhook.logins == {"Bearer hook-secret"}


async def test_nothing_acknowledged_is_lost_by_a_kill(service: ForkedMirror, webhook: Webhook) -> None:
    """Pushes while the webhook is away, the service killed with all that waits, and started again."""
    webhook.fails = True
    made = {f"apps/r{number}": [image(f"{number} {one}") for one in range(PUSHES)] for number in range(REPOSITORIES)}

    async def fill(repository: str) -> None:
        for number, one in enumerate(made[repository]):
            await push_image(service, repository, f"t{number % 3}", one)

    await asyncio.gather(*map(fill, made))
    await asyncio.to_thread(wait_until, lambda: webhook.refused > 0, "a delivery that failed", 10)
    await asyncio.to_thread(service.kill)
    assert webhook.events == []
    await asyncio.to_thread(service.start)
    webhook.fails = False
    total = PUSHES * REPOSITORIES
    await asyncio.to_thread(wait_until, lambda: len(webhook.events) >= total, "all events", 30)
    assert len(webhook.events) == total
    for repository, pushed in made.items():
        told = [(one["target"]["digest"], one["target"]["tag"]) for one in webhook.told(repository=repository)]
        assert told == [(one.digest, f"t{number % 3}") for number, one in enumerate(pushed)]


async def test_killed_while_events_are_on_their_way(service: ForkedMirror, webhook: Webhook) -> None:
    """Again and again, in the middle of both: each push that was acknowledged is told, each repository in order."""
    acknowledged: list[str] = []
    for turn in range(4):

        async def fill(turn: int = turn) -> None:
            for number in range(1000):
                made = image(f"{turn} {number}")
                try:
                    await push_image(service, "apps/web", "latest", made)
                except (OSError, AssertionError):
                    return  # the service is gone
                acknowledged.append(made.digest)

        filling = asyncio.create_task(fill())
        async with asyncio.timeout(20):
            while len(acknowledged) < 4 * (turn + 1):
                await asyncio.sleep(0.003)
        await asyncio.to_thread(service.kill)
        await filling
        await asyncio.to_thread(service.start)

    def told() -> list[str]:
        return [one["target"]["digest"] for one in webhook.told(repository="apps/web")]

    await asyncio.to_thread(wait_until, lambda: set(acknowledged) <= set(told()), "all events", 30)
    assert [one for one in told() if one in set(acknowledged)] == acknowledged


async def test_a_proxied_tag_that_moved_is_told(service: ForkedMirror, webhook: Webhook, upstream: Registry) -> None:
    first, second = image("first"), image("second")
    await asyncio.to_thread(push, upstream.address, "team/app", first, "v1")
    assert (await send(service, "GET", "/v2/lab/team/app/manifests/v1")).status == 200
    assert (await send(service, "GET", "/v2/lab/team/app/manifests/v1")).status == 200
    await asyncio.to_thread(push, upstream.address, "team/app", second, "v1")
    got = await send(service, "GET", "/v2/lab/team/app/manifests/v1")
    assert got.body == second.body
    await asyncio.to_thread(wait_until, lambda: len(webhook.events) >= 1, "the event", 10)
    (event,) = webhook.events  # what is seen for the first time has not moved
    assert event["action"] == "push"
    target = event["target"]
    assert (target["repository"], target["tag"], target["digest"]) == ("lab/team/app", "v1", second.digest)
    assert event["actor"] in ({}, {"name": ""})
