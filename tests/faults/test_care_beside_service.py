"""The store's keeper beside a running service: clients pull on, and what a disk spoils is found and put right."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout
from tests.faults.invariants import sealed_files_hash_to_their_names
from tests.peers.images import digest_of, make_image, noise
from tests.tools.mirror import Mirror, ask
from tests.unit.cli.care_bed import Upstream

pytestmark = pytest.mark.slow

BASE = noise(400_000, 77)
FIRST, SECOND = make_image(BASE, noise(1000, 1), seed=1), make_image(BASE, noise(90_000, 2), seed=2)
IMAGES = {("team/a", "v1"): FIRST, ("team/b", "v1"): SECOND}


class Site:
    """A service, and a node that pulls from it."""

    def __init__(self, folder: Path, upstream: Upstream, **document: Any) -> None:
        endpoints = {"lab": {"endpoints": [upstream.registry.url]}}
        self.mirror = Mirror(folder, {"upstreams": endpoints, "workers": 2, **document})
        self.layout = Layout(self.mirror.store)

    @contextmanager
    def running(self) -> Iterator[None]:
        self.mirror.start()
        try:
            yield
        finally:
            self.mirror.stop()

    def pull(self) -> None:
        """Pull everything; every byte must come and be right."""
        for (name, tag), image in IMAGES.items():
            status, _, body = self.mirror.get(f"/v2/lab/{name}/manifests/{tag}")
            assert (status, body == image.manifest) == (200, True), body[:200]
            for blob in (image.config, *image.layers):
                status, _, body = self.mirror.get(f"/v2/lab/{name}/blobs/{digest_of(blob)}")
                assert (status, body == blob) == (200, True), body[:200]

    def run(self, *words: str, code: int = 0) -> dict[str, Any]:
        command = [*self.mirror.program, *words, "--config", str(self.mirror.configuration), "--json", "-q"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def flip(self, content: bytes) -> None:
        path = Path(self.layout.blob(Digest.of(content)))
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.write(bytes([content[0] ^ 1]))
        path.chmod(0o440)
        os.utime(path, (1, files.seal_time(len(content))))

    def metric(self, name: str) -> float:
        text = ask(f"http://{self.mirror.metrics_address}", "/metrics")[2].decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(IMAGES) as opened:
        yield opened


def test_clients_pull_on_whatever_the_keeper_does(tmp_path: Path, upstream: Upstream) -> None:
    site = Site(tmp_path, upstream, storage={"path": str(tmp_path / "store"), "keep_free": "0%", "scrub_rate": 0})
    over = threading.Event()
    failures: list[BaseException] = []
    pulls = 0

    def node() -> None:
        nonlocal pulls
        while not over.is_set():
            try:
                site.pull()
                pulls += 1
                time.sleep(0.02)  # the commands need some of the processor too
            except BaseException as error:
                failures.append(error)
                return

    with site.running():
        site.pull()
        pinned = f"lab/team/a@{FIRST.digest}"
        site.run("pin", pinned)
        nodes = [threading.Thread(target=node) for _ in range(2)]
        for one in nodes:
            one.start()
        try:
            for words in (
                ("purge", "lab/team/b"), ("scrub",), ("gc",), ("unpin", pinned, "--now"), ("purge", "lab/team/a"),
            ):  # fmt: skip
                site.run(*words)
        finally:
            over.set()
            for one in nodes:
                one.join()
        assert not failures, failures
        assert pulls > 2
        site.pull()
        assert site.run("scrub")["bad"] == []
    assert sealed_files_hash_to_their_names(site.layout) == []


def test_the_service_finds_what_the_disk_has_spoilt(tmp_path: Path, upstream: Upstream) -> None:
    storage = {"path": str(tmp_path / "store"), "keep_free": "0%", "scrub_rate": "100MiB"}
    site = Site(tmp_path, upstream, storage={**storage, "scrub_rate": 0})
    with site.running():
        site.pull()
    site.flip(BASE)
    site.flip(SECOND.manifest)
    site.mirror.configure({"storage": storage})
    with site.running():
        deadline = time.monotonic() + 30
        while not site.metric("mirror_scrub_ended_seconds"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert site.metric("mirror_corrupt_blobs_total") == 2
        assert site.metric("mirror_scrub_unhealed") == 0
        assert sealed_files_hash_to_their_names(site.layout) == []
        asked = len(upstream.registry.requests)
        site.pull()
        assert not [one for one in upstream.registry.requests[asked:] if "/blobs/" in one.path], "all of it is here"
    state = json.loads(site.layout.scrub.read_bytes())
    assert (state["last"]["bad"], state["last"]["healed"], state["bad"]) == (2, 2, [])
