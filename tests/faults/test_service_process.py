"""A handful of the matrix through `mirror serve` itself: what its clients get, and what its log and metrics say."""

from __future__ import annotations

import asyncio
import http.client
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.store.layout import Layout
from tests.faults.invariants import broken, contents, leftovers
from tests.faults.wire import Got, ask
from tests.peers.images import digest_of, noise
from tests.peers.process import RunningRegistry, running
from tests.tools.mirror import Mirror
from tests.tools.processes import wait_until
from tests.tools.programs import Programs

pytestmark = pytest.mark.timeout(60)

SIZE = 500_000
IMAGES = [f"team/app{number}:v1" for number in range(8)]
NAMES = iter(IMAGES)


@pytest.fixture(scope="module")
def upstream() -> Iterator[RunningRegistry]:
    more = [argument for image in IMAGES[1:] for argument in ("--image", image)]
    with running(IMAGES[0], SIZE, *more) as registry:
        yield registry


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, upstream: RunningRegistry) -> Iterator[Mirror]:
    document = {
        "workers": 2,
        "upstreams": {"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "0s"}}},
    }
    mirror = Mirror(tmp_path_factory.mktemp("service"), document)
    mirror.start()
    yield mirror
    mirror.kill()


@pytest.fixture
def name(upstream: RunningRegistry) -> str:
    """Return an image that no test has asked for yet."""
    upstream.heal()
    upstream.forget()
    return next(NAMES)


def pull(service: Mirror, target: str) -> Got:
    host, _, port = service.address.partition(":")
    return asyncio.run(ask((host, int(port)), f"/v2/lab/{target}"))


def blob(upstream: RunningRegistry, name: str) -> tuple[str, bytes]:
    digest = upstream.images[name]["layers"][0]
    return f"{name.partition(':')[0]}/blobs/{digest}", noise(SIZE, seed=IMAGES.index(name) * 100)


def manifest(name: str) -> str:
    return name.replace(":", "/manifests/")


def metric(service: Mirror, start: str) -> float:
    """Return the sum of the metrics whose lines begin so, over all workers."""
    host, _, port = service.metrics_address.partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


def logged(service: Mirror, text: str) -> None:
    wait_until(lambda: text in service.log, text, 5)


def test_wrong_bytes(service: Mirror, upstream: RunningRegistry, name: str) -> None:
    target, content = blob(upstream, name)
    before = metric(service, 'mirror_faults_total{kind="digest_mismatch"')
    upstream.fail("blob", "FlipBit", {"at": 5}, times=1)
    got = pull(service, target)
    assert (got.status, got.clean) == (200, False)
    assert len(got.body) <= SIZE - 65_536
    logged(service, "event=digest_mismatch")
    assert digest_of(content) in service.log
    wait_until(lambda: metric(service, 'mirror_faults_total{kind="digest_mismatch"') == before + 1, "the metric", 5)
    got = pull(service, target)
    assert (got.status, got.clean, got.body == content) == (200, True, True)


def test_a_login_page(service: Mirror, upstream: RunningRegistry, name: str) -> None:
    upstream.fail("any", "Html")
    for target in (manifest(name), blob(upstream, name)[0]):
        got = pull(service, target)
        assert (got.status, got.code) == (502, "UNKNOWN")
    upstream.heal()
    assert pull(service, manifest(name)).status == 200


def test_broken_off_and_resumed(service: Mirror, upstream: RunningRegistry, name: str) -> None:
    target, content = blob(upstream, name)
    upstream.fail("blob", "Truncate", {"at": 200_000, "rst": True}, times=1)
    got = pull(service, target)
    assert (got.status, got.clean, got.body == content) == (200, True, True)
    assert sum(one["sent"] for one in upstream.requests("blob")) == SIZE
    logged(service, "event=download_interrupted")


def test_a_sick_disk_under_a_worker(service: Mirror, upstream: RunningRegistry, name: str, programs: Programs) -> None:
    """EIO from every fsync of both workers: all is served, nothing is kept, and all is well afterwards."""
    strace = programs.find("strace")
    workers = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    assert len(workers) == 2
    attach = [argument for pid in workers for argument in ("-p", pid)]
    target, content = blob(upstream, name)
    layout = Layout(service.store)
    kept = contents(layout)
    with subprocess.Popen(
        [strace, "-f", "-qq", *attach, "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO"],
        stderr=subprocess.DEVNULL,
    ) as tracer:
        try:
            wait_until(lambda: all(_traced(int(pid)) for pid in workers), "strace", 5)
            for _ in range(2):
                got = pull(service, target)
                assert (got.status, got.clean, got.body == content) == (200, True, True)
                got = pull(service, manifest(name))
                assert (got.status, got.cache) == (200, "BYPASS")
            logged(service, "event=commit_failed")
            wait_until(lambda: not leftovers(layout), "ingest to be empty", 5)
            assert contents(layout) == kept
        finally:
            tracer.send_signal(signal.SIGINT)
    assert pull(service, manifest(name)).cache == "MISS"
    assert pull(service, target).body == content
    wait_until(lambda: digest_of(content) in contents(layout), "the blob to be kept", 5)
    assert pull(service, target).cache == "HIT"


def _traced(pid: int) -> bool:
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)


def test_killed_and_started_again(service: Mirror, upstream: RunningRegistry, name: str) -> None:
    """The whole service at once, as by a power cut: the next one goes on, and serves what was here at once."""
    target, content = blob(upstream, name)
    assert pull(service, manifest(name)).cache == "MISS"
    upstream.fail("blob", "Stall", {"at": 300_000, "seconds": 30}, times=1)
    layout = Layout(service.store)

    async def cut() -> Got:
        host, _, port = service.address.partition(":")
        pulling = asyncio.create_task(ask((host, int(port)), f"/v2/lab/{target}"))
        while not [part for part in layout.ingest.glob("*.part") if part.stat().st_size >= 300_000]:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(service.kill)
        return await pulling

    got = asyncio.run(cut())
    assert not got.clean
    assert content.startswith(got.body)
    assert broken(layout, {digest_of(content): content}.get) == []
    service.start()
    assert pull(service, manifest(name)).status == 200
    got = pull(service, target)
    assert (got.status, got.clean, got.body == content) == (200, True, True)
    assert sum(one["sent"] for one in upstream.requests("blob")) == SIZE
    wait_until(lambda: not leftovers(layout), "ingest to be empty", 5)
    assert broken(layout) == []
    assert "request_failed" not in service.log


def test_too_many_requests(service: Mirror, upstream: RunningRegistry, name: str) -> None:
    """Never a 429 to a client: what is known is stale, else it comes again. The last, for it lets upstream rest."""
    assert pull(service, manifest(name)).cache == "MISS"
    upstream.fail("any", "TooMany", {"retry_after": 30}, times=2)
    got = pull(service, manifest(name))
    assert (got.status, got.cache) == (200, "STALE")
    assert "warning" in got.headers
    got = pull(service, blob(upstream, name)[0])
    assert got.status in (200, 503)
    assert got.status == 200 or int(got.headers["retry-after"]) > 0
    logged(service, "event=tag_stale")
