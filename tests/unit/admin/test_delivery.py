"""Delivery of events to real receivers that are away, slow, or answer what they should not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
from aiohttp import web

import mirror
from mirror.admin.backlog import Bounds
from mirror.admin.delivery import Delivery, Pace
from mirror.config.notifications import Notification
from mirror.content.events import MEDIA_TYPE
from mirror.metrics import Metrics
from mirror.store import events as stored
from mirror.store.layout import Layout
from mirror.upstream import watched
from mirror.upstream.webhook import open_webhooks
from tests.peers import settings

QUICK = Pace(first=0.02, longest=0.08, refusals=3, look=0.0, look_held=0.02)

# Forks processes of a service, as far as deliveries go: one for each line of its input. Importing takes longest.
NURSERY = """
import asyncio, os, signal, sys
from pathlib import Path
from mirror import logs, metrics
from mirror.admin.delivery import Delivery, Pace
from mirror.config import Config
from mirror.config.notifications import Notification
from mirror.metrics import NOTIFICATIONS, NOTIFICATIONS_WAITING
from mirror.store.events import Events
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.upstream.webhook import open_webhooks

async def main():
    logs.configure("error")
    layout, target = Layout(Path(sys.argv[1])), Notification(url=sys.argv[2])
    lock = FileLock(layout.housekeeping_lock)
    webhooks = open_webhooks(Config(), {}, [target])
    delivery = Delivery(Events(layout), [target], webhooks, metrics.Metrics(), Pace(first=0.02, longest=0.1, look=0.0))
    while not lock.try_acquire():
        await asyncio.sleep(0.005)
    os.write(1, f"{os.getpid()}\\n".encode())
    while True:
        await delivery.step()
        await asyncio.sleep(0.005)

children = []
for line in sys.stdin:
    children.append(os.fork())
    if not children[-1]:
        asyncio.run(main())
for child in children:
    os.kill(child, signal.SIGKILL)  # ours, and not waited for yet: the number is nobody else's
    os.waitpid(child, 0)
"""

Answer = Callable[[list[dict[str, Any]]], "int | web.Response | Awaitable[int]"]


class Receiver:
    """A webhook on loopback that keeps what it was sent, and answers as `answer` says of the events of a request."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answer: Answer = lambda _: 204
        self.posts: list[list[dict[str, Any]]] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.taken: list[dict[str, Any]] = []
        self.port = 0
        self._tls = tls
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/hook" if self._tls else f"http://127.0.0.1:{self.port}/hook"

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Receiver:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _handle(self, request: web.Request) -> web.Response:
        assert request.method == "POST"
        assert request.path == "/hook"
        assert request.headers["Content-Type"] == MEDIA_TYPE
        envelope = json.loads(await request.read())
        assert list(envelope) == ["events"]
        events = envelope["events"]
        self.posts.append(events)
        self.times.append(time.monotonic())
        self.headers.append(dict(request.headers))
        said = self.answer(events)
        if not isinstance(said, int | web.Response):
            said = await said
        answer = web.Response(status=said) if isinstance(said, int) else said
        if 200 <= answer.status < 300:
            self.taken += events
        return answer


class Stage:
    """A store, its queues, and deliveries out of them."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.layout.locks.mkdir(parents=True)
        self.queues = stored.Events(self.layout)
        self.metrics = Metrics()
        self._count = 0

    def append(self, target: Notification, repository: str, *ids: str) -> None:
        """Have an event of `repository` wait for each of `ids`, or one of the next number."""
        for one in ids or (str(self._count),):
            self._count += 1
            event = {"id": one, "action": "push", "target": {"repository": repository}}
            self.queues.append(target.key, repository, [json.dumps(event).encode()])

    def waiting(self, target: Notification) -> list[str]:
        _, entries = self.queues.scan(target.key, ())
        raws = self.queues.read(target.key, [entry.name for entry in entries])
        return [json.loads(raw)["id"] for raw in raws if raw]

    def count(self, result: str) -> float:
        return self._sum(f'mirror_notifications_total{{result="{result}",')

    def gauge(self) -> float:
        return self._sum("mirror_notifications_waiting{")

    def _sum(self, start: str) -> float:
        lines = self.metrics.render().decode().split("\n")
        return sum(float(line.split()[-1]) for line in lines if line.startswith(start))

    @contextlib.asynccontextmanager
    async def delivering(
        self,
        *targets: Notification,
        pace: Pace = QUICK,
        bounds: Bounds | None = None,
        steps: bool = True,
        **config: Any,
    ) -> AsyncIterator[Delivery]:
        """Deliver as housekeeping does, a step every few milliseconds."""
        webhooks = open_webhooks(settings.config(**config), {}, targets)
        delivery = Delivery(self.queues, targets, webhooks, self.metrics, pace, bounds, lambda: 1.0)

        async def keep() -> None:
            while True:
                await delivery.step()
                await asyncio.sleep(0.005)

        task = asyncio.create_task(keep()) if steps else None
        try:
            yield delivery
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await delivery.close()
            await webhooks.close()
            if task is not None and not task.cancelled() and task.exception() is not None:
                raise task.exception()  # type: ignore[misc]


@pytest.fixture(autouse=True)
def no_system_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading them costs more than most tests here."""
    monkeypatch.setattr(ssl.SSLContext, "set_default_verify_paths", lambda self: None)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "store")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as one:
        yield one


async def until(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        await asyncio.sleep(0.005)


def ids(events: Sequence[dict[str, Any]], repository: str = "") -> list[str]:
    return [event["id"] for event in events if repository in ("", event["target"]["repository"])]


def repeated(answers: Sequence[int | web.Response], then: int = 204) -> Answer:
    """Answer with one after the other, and `then` from then on."""
    left = list(answers)
    return lambda _: left.pop(0) if left else then


# -- what goes well


async def test_what_waits_is_posted_in_its_envelope(stage: Stage, receiver: Receiver) -> None:
    target = Notification(url=receiver.url)
    stage.append(target, "apps/web")
    async with stage.delivering(target):
        stage.append(target, "apps/web")
        stage.append(target, "apps/db")
        await until(lambda: stage.count("delivered") == 3)
        assert receiver.posts == [
            [{"id": "0", "action": "push", "target": {"repository": "apps/web"}}],
            [{"id": "1", "action": "push", "target": {"repository": "apps/web"}}],
            [{"id": "2", "action": "push", "target": {"repository": "apps/db"}}],
        ]
        assert stage.waiting(target) == []
        assert stage.gauge() == 0
        stage.append(target, "apps/web")
        await until(lambda: len(receiver.taken) == 4)
    assert stage.count("failed") == stage.count("lost") == 0


async def test_batches(stage: Stage, receiver: Receiver) -> None:
    target = Notification(url=receiver.url, batch=50)
    for number in range(120):
        stage.append(target, f"apps/{number % 7}")
    async with stage.delivering(target):
        await until(lambda: stage.count("delivered") == 120)
    assert [len(post) for post in receiver.posts] == [50, 50, 20]
    assert ids(receiver.taken) == [str(number) for number in range(120)]


async def test_a_request_is_no_larger_than_its_bound(stage: Stage, receiver: Receiver) -> None:
    target = Notification(url=receiver.url, batch=50)
    stage.append(target, "apps/web", *("x" * 1000 for _ in range(10)))
    async with stage.delivering(target, bounds=Bounds(request_bytes=3500)):
        await until(lambda: stage.count("delivered") == 10)
    assert [len(post) for post in receiver.posts] == [3, 3, 3, 1]


async def test_over_tls_with_a_private_authority_and_a_header(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0)
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    header = tmp_path / "headers"
    async with Receiver(context) as receiver:
        target = Notification(url=receiver.url, header_file=header)
        stage.append(target, "apps/web")
        with structlog.testing.capture_logs() as said:
            async with stage.delivering(target, ca=(tmp_path / "ca.pem",)):
                await until(lambda: stage.count("failed") > 2)
                assert receiver.posts == []  # nobody is told without the header
                header.write_text("Authorization: Bearer hunter2\n")
                await until(lambda: stage.count("delivered") == 1)
        assert receiver.headers[0]["Authorization"] == "Bearer hunter2"
    (held, again) = [line for line in said if line["event"].startswith("notifications_")]
    assert (held["event"], again["event"]) == ("notifications_held", "notifications_delivered_again")
    assert held["what"] == f"{header} cannot be read (No such file or directory)"
    assert held["target"] == f"localhost:{receiver.port}"
    assert "hunter2" not in str(said)


# -- what goes wrong


async def test_a_webhook_that_is_away_for_a_while(stage: Stage, receiver: Receiver) -> None:
    target = Notification(url=receiver.url, batch=10)
    await receiver.stop()
    with structlog.testing.capture_logs() as said:
        async with stage.delivering(target):
            for number in range(30):
                stage.append(target, f"apps/{number % 3}")
            await until(lambda: stage.count("failed") > 20)
            assert stage.gauge() == 30
            await receiver.start()
            await until(lambda: stage.count("delivered") == 30)
    assert ids(receiver.taken) == [str(number) for number in range(30)]
    assert [line["event"] for line in said] == ["notifications_held", "notifications_delivered_again"]
    assert f"http://127.0.0.1:{receiver.port} refuses connections" in said[0]["what"]
    assert "/hook" not in str(said)


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 429, 408, 425, 401, 403, 407, 307])
@pytest.mark.parametrize("batch", [1, 10])
async def test_what_is_kept_however_often_it_is_answered(
    stage: Stage, receiver: Receiver, status: int, batch: int
) -> None:
    target = Notification(url=receiver.url, batch=batch)
    receiver.answer = repeated([web.Response(status=status, headers={"Location": "/other"}) for _ in range(6)])
    stage.append(target, "apps/web", "a", "b", "c")
    async with stage.delivering(target):
        await until(lambda: stage.count("delivered") == 3)
    assert ids(receiver.taken) == ["a", "b", "c"]
    assert stage.count("refused") == 0


@pytest.mark.parametrize("status", [400, 404, 410, 413, 422])
async def test_what_is_refused_is_dropped_after_some_tries(stage: Stage, receiver: Receiver, status: int) -> None:
    target = Notification(url=receiver.url)
    receiver.answer = lambda events: status if events[0]["id"] == "bad" else 200
    stage.append(target, "apps/web", "1", "bad", "2")
    stage.append(target, "apps/db", "3")
    with structlog.testing.capture_logs() as said:
        async with stage.delivering(target):
            await until(lambda: stage.count("delivered") == 3)
    assert ids(receiver.taken) == ["1", "3", "2"]
    assert Counter(event["id"] for post in receiver.posts for event in post) == {"1": 1, "bad": 3, "2": 1, "3": 1}
    assert stage.count("refused") == 1
    held, refused = said
    assert (held["event"], refused["event"]) == ("notification_held", "notification_refused")
    assert (refused["id"], refused["name"], refused["tries"]) == ("bad", "apps/web", 3)
    assert refused["what"] == f"it answers {status}"


async def test_a_refusal_counts_only_in_a_row(stage: Stage, receiver: Receiver) -> None:
    target = Notification(url=receiver.url)
    receiver.answer = repeated([400, 400, 500, 400, 400, 500, 400, 400])
    stage.append(target, "apps/web", "1")
    async with stage.delivering(target):
        await until(lambda: stage.count("delivered") == 1)
    assert stage.count("refused") == 0


async def test_each_event_has_its_own_tries(stage: Stage, receiver: Receiver) -> None:
    target = Notification(url=receiver.url, batch=8)
    receiver.answer = repeated([400, 400, 400, 200, 400, 400, 200])
    stage.append(target, "apps/web", "1", "2")
    async with stage.delivering(target):
        await until(lambda: stage.count("delivered") == 2)
    assert [ids(post) for post in receiver.posts] == [["1", "2"], ["1"], ["1"], ["1"], ["2"], ["2"], ["2"]]
    assert stage.count("refused") == 0


async def test_the_pauses_double_up_to_the_longest(stage: Stage, receiver: Receiver) -> None:
    target = Notification(url=receiver.url)
    receiver.answer = repeated([500] * 6)
    stage.append(target, "apps/web")
    async with stage.delivering(target, pace=Pace(first=0.05, longest=0.4, look=0, look_held=0.01)):
        await until(lambda: stage.count("delivered") == 1)
    pauses = [after - before for before, after in zip(receiver.times, receiver.times[1:], strict=False)]
    for pause, meant in zip(pauses, [0.05, 0.1, 0.2, 0.4, 0.4, 0.4], strict=True):
        assert meant <= pause < meant + 0.25


async def test_a_wish_to_be_left_alone_is_kept(stage: Stage, receiver: Receiver) -> None:
    target = Notification(url=receiver.url)
    receiver.answer = repeated([web.Response(status=status, headers={"Retry-After": "1"}) for status in (429, 500)])
    stage.append(target, "apps/web")
    stage.append(target, "apps/db")
    async with stage.delivering(target):
        await until(lambda: stage.count("delivered") == 2)
    first, second, third, _ = receiver.times
    assert second - first >= 1
    assert third - second >= 1


async def test_a_slow_webhook_slows_nobody(stage: Stage, receiver: Receiver) -> None:
    delivered = asyncio.Event()

    async def slowly() -> int:
        await delivered.wait()
        return 200

    async with Receiver() as other:
        slow, quick = Notification(url=receiver.url), Notification(url=other.url)
        receiver.answer = lambda _: slowly()
        for number in range(40):
            stage.append(slow, f"apps/{number}")
        async with stage.delivering(slow, quick, steps=False) as delivery:
            async with asyncio.timeout(60):
                for _ in range(40):
                    await delivery.step()
                    stage.append(quick, "apps/web")
                    await asyncio.sleep(0.01)
                while len(other.taken) < 40:
                    await delivery.step()
                    await asyncio.sleep(0.01)
            assert (len(receiver.posts), receiver.taken) == (1, [])
            delivered.set()
    assert ids(other.taken) == sorted(ids(other.taken), key=int)


async def test_a_webhook_that_never_answers(stage: Stage, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> int:
        await asyncio.sleep(3600)
        return 200

    monkeypatch.setattr("mirror.upstream.webhook.ANSWER_SECONDS", 0.1)
    target = Notification(url=receiver.url)
    receiver.answer = lambda _: never() if len(receiver.posts) < 3 else 200
    stage.append(target, "apps/web", "1", "2")
    async with stage.delivering(target):
        await until(lambda: stage.count("delivered") == 2)
    assert [ids(post) for post in receiver.posts] == [["1"], ["1"], ["1"], ["2"]]


# -- order


@pytest.mark.parametrize("batch", [1, 4, 100])
async def test_a_failing_event_holds_back_its_repository_alone(stage: Stage, receiver: Receiver, batch: int) -> None:
    target = Notification(url=receiver.url, batch=batch)
    broken = True
    receiver.answer = lambda events: 500 if broken and "a1" in ids(events) else 200
    stage.append(target, "apps/a", "a0", "a1", "a2")
    stage.append(target, "apps/b", "b0", "b1")
    stage.append(target, "apps/a", "a3")
    stage.append(target, "apps/b", "b2")
    async with stage.delivering(target):
        await until(lambda: ids(receiver.taken, "apps/b") == ["b0", "b1", "b2"])
        await until(lambda: ids(receiver.taken, "apps/a") == ["a0"])
        stage.append(target, "apps/a", "a4")
        stage.append(target, "apps/b", "b3")
        await until(lambda: ids(receiver.taken, "apps/b") == ["b0", "b1", "b2", "b3"])
        assert ids(receiver.taken, "apps/a") == ["a0"]
        broken = False
        await until(lambda: ids(receiver.taken, "apps/a") == ["a0", "a1", "a2", "a3", "a4"])
    assert len(receiver.taken) == 9


async def test_the_one_bad_event_of_a_batch_is_found(stage: Stage, receiver: Receiver) -> None:
    target = Notification(url=receiver.url, batch=64)
    receiver.answer = lambda events: 422 if "77" in ids(events) else 200
    for number in range(100):
        stage.append(target, "apps/big" if number < 90 else f"apps/{number}", str(number))
    async with stage.delivering(target):
        await until(lambda: stage.count("delivered") == 99)
    assert sorted(map(int, ids(receiver.taken))) == [number for number in range(100) if number != 77]
    assert ids(receiver.taken, "apps/big") == [str(number) for number in range(90) if number != 77]
    assert stage.count("refused") == 1
    assert len(receiver.posts) < 40


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_answered_order_holds_and_nothing_is_lost(
    stage: Stage, receiver: Receiver, seed: int
) -> None:
    luck = random.Random(seed)
    target = Notification(url=receiver.url, batch=luck.choice([1, 3, 20]))
    moody = True
    receiver.answer = lambda _: luck.choice([200, 200, 204, 500, 503, 403, 429, 302]) if moody else 200
    written: dict[str, list[str]] = defaultdict(list)
    async with stage.delivering(target, pace=Pace(first=0.001, longest=0.01, look=0, look_held=0.005)):
        for number in range(120):
            name = f"apps/{luck.randrange(5)}"
            written[name].append(str(number))
            stage.append(target, name, str(number))
            if number % 10 == 0:
                await asyncio.sleep(0.01)
        moody = False
        await until(lambda: stage.count("delivered") == 120)
    for name, expected in written.items():
        assert ids(receiver.taken, name) == expected
    assert stage.waiting(target) == []


# -- bounds and damage


async def test_the_oldest_go_when_too_many_wait(stage: Stage, receiver: Receiver) -> None:
    target = Notification(url=receiver.url, batch=10)
    receiver.answer = lambda _: 503
    with structlog.testing.capture_logs() as said:
        async with stage.delivering(target, bounds=Bounds(most=10)):
            for _ in range(30):
                stage.append(target, "apps/web")
                await asyncio.sleep(0.01)
            await until(lambda: stage.count("dropped") == 20)
            assert stage.gauge() == 10
            receiver.answer = lambda _: 200
            await until(lambda: stage.count("delivered") == 10)
    assert ids(receiver.taken) == [str(number) for number in range(20, 30)]
    assert [line["event"] for line in said].count("notifications_dropped") == 1


async def test_the_oldest_go_when_they_are_too_large(stage: Stage, receiver: Receiver) -> None:
    target = Notification(url=receiver.url)
    stage.append(target, "apps/web", "1" * 3000, "2" * 3000, "3" * 3000, "4" * 1000)
    async with stage.delivering(target, bounds=Bounds(most_bytes=7500)):
        await until(lambda: stage.count("delivered") == 3)
    assert [one[0] for one in ids(receiver.taken)] == ["2", "3", "4"]
    assert stage.count("dropped") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"target": 1}', b"[" * 9000, b"\xff", b"x" * 20000])
async def test_a_damaged_event_is_dropped(stage: Stage, receiver: Receiver, content: bytes) -> None:
    target = Notification(url=receiver.url, batch=10)
    stage.append(target, "apps/web", "1", "2", "3")
    folder = stage.layout.root / "events" / target.key
    sorted(folder.glob("*.json"))[1].write_bytes(content)
    async with stage.delivering(target):
        await until(lambda: stage.count("delivered") == 2)
    assert ids(receiver.taken) == ["1", "3"]
    assert stage.count("lost") == 1


async def test_events_that_somebody_deletes_are_forgotten(stage: Stage, receiver: Receiver) -> None:
    target = Notification(url=receiver.url)
    receiver.answer = lambda _: 503
    stage.append(target, "apps/web", "1", "2", "3")
    folder = stage.layout.root / "events" / target.key
    async with stage.delivering(target):
        await until(lambda: stage.count("failed") > 1)
        for path in sorted(folder.glob("*.json"))[:2]:
            path.unlink()
        receiver.answer = lambda _: 200
        await until(lambda: "3" in ids(receiver.taken))
        assert set(ids(receiver.taken)) <= {"1", "3"}  # one may have been read just before
    assert stage.count("lost") == 0


async def test_a_queue_that_nothing_can_be_taken_out_of(
    stage: Stage, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only disk, say: what was taken must not be posted again and again."""
    target = Notification(url=receiver.url)
    stage.append(target, "apps/web", "1", "2")

    def refuse(_queue: str, _names: Sequence[str]) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(stage.queues, "remove", refuse)
        async with stage.delivering(target, steps=False, pace=Pace(longest=0.3)) as delivery:
            await delivery.step()
            await until(lambda: len(receiver.posts) == 1)
            with pytest.raises(OSError, match="Read-only"):
                await _steps(delivery, lambda: False)
            await _steps(delivery, lambda: False, 0.15)
            assert len(receiver.posts) == 1
            patch.undo()
            await _steps(delivery, lambda: not stage.waiting(target))
    assert [ids(post) for post in receiver.posts] == [["1"], ["1"], ["2"]]


async def _steps(delivery: Delivery, done: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        await delivery.step()
        await asyncio.sleep(0.01)


async def test_queues_of_webhooks_that_are_gone_are_forgotten(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "STALE", -1)
    gone, target = Notification(url="http://127.0.0.1:9/gone"), Notification(url="http://127.0.0.1:9/")
    stage.append(gone, "apps/web", "1", "2")
    stage.append(target, "apps/web", "3")
    with structlog.testing.capture_logs() as said:
        async with stage.delivering(target):
            await until(lambda: any(one["event"] == "notifications_forgotten" for one in said))
    assert stage.waiting(gone) == []
    assert stage.waiting(target) == ["3"]
    (line,) = [one for one in said if one["event"] == "notifications_forgotten"]
    assert (line["queue"], line["count"]) == (gone.key, 2)


# -- processes


async def test_what_was_not_answered_is_posted_again_by_who_goes_on(stage: Stage, receiver: Receiver) -> None:
    async def hangs() -> int:
        await asyncio.sleep(3600)
        return 200

    target = Notification(url=receiver.url)
    receiver.answer = lambda _: hangs()
    stage.append(target, "apps/web", "1")
    async with stage.delivering(target):
        await until(lambda: len(receiver.posts) == 1)
    assert stage.waiting(target) == ["1"]
    receiver.answer = lambda _: 200
    async with stage.delivering(target):
        await until(lambda: stage.count("delivered") == 1)
    assert [ids(post) for post in receiver.posts] == [["1"], ["1"]]


async def test_one_process_delivers_and_another_goes_on_when_it_is_killed(stage: Stage, receiver: Receiver) -> None:
    """kill -9 at a different moment each time: nothing is lost, and only what was not acknowledged comes twice."""
    target = Notification(url=receiver.url)
    luck = random.Random(3)
    written: dict[str, list[str]] = defaultdict(list)

    async def moody() -> int:
        await asyncio.sleep(luck.random() * 0.02)
        return luck.choice([200, 200, 200, 500])

    receiver.answer = lambda _: moody()

    def write(count: int) -> None:
        for _ in range(count):
            name = f"apps/{luck.randrange(4)}"
            number = str(sum(map(len, written.values())))
            written[name].append(number)
            stage.append(target, name, number)

    kills = 6
    with nursery(stage, target) as (start, keeper):
        start()
        start()
        for number in range(kills):
            write(10)
            keeps = await asyncio.to_thread(keeper)
            posts = len(receiver.posts) + luck.randrange(2, 7)
            await until(lambda posts=posts: len(receiver.posts) >= posts)  # type: ignore[misc]
            await asyncio.sleep(luck.random() * 0.02)
            os.kill(keeps, signal.SIGKILL)
            if number < kills - 1:
                start()
        write(5)
        receiver.answer = lambda _: 200
        await until(lambda: not stage.waiting(target))
    twice = 0
    for name, expected in written.items():
        seen = ids(receiver.taken, name)
        assert list(dict.fromkeys(seen)) == expected
        twice += len(seen) - len(expected)
    assert twice <= kills  # the one under way at each


@contextlib.contextmanager
def nursery(stage: Stage, target: Notification) -> Iterator[tuple[Callable[[], None], Callable[[], int]]]:
    """Yield what starts a process, and what waits for the next one that keeps house and returns its number."""
    program = [sys.executable, "-c", NURSERY, str(stage.layout.root), target.url]
    root = Path(mirror.__file__).parents[1]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        stdin, stdout = parent.stdin, parent.stdout

        def start() -> None:
            stdin.write("start\n")
            stdin.flush()

        try:
            yield start, lambda: int(stdout.readline())
        finally:
            stdin.close()
            assert parent.wait(20) == 0
