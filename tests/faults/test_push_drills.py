"""kill -9 of the whole service while several clients push images: what was acknowledged pulls whole afterwards.

Twenty kills at random moments here, `make push-drills` for two hundred; a failure prints the SEED to repeat it with.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from tests.faults.forked import ForkedMirror
from tests.faults.invariants import broken
from tests.faults.wire import Got, ask
from tests.tools import images

KILLS = int(os.environ.get("PUSH_DRILLS", "20"))
CLIENTS = 4
SIZES = (10, 3_000, 60_000, 400_000)  # of layers
LOOKED_AT = 6  # images of earlier rounds that are pulled again after each kill

pytestmark = pytest.mark.timeout(120 + 8 * KILLS)


class Gone(Exception):
    """The service went while it was asked."""


@dataclass
class Upload:
    """A blob on its way: `offset` bytes are acknowledged."""

    repository: str
    body: bytes
    location: str
    offset: int = 0


@dataclass
class Known:
    """What the clients were told, and what they asked for without hearing an answer."""

    pushed: dict[tuple[str, str], images.Manifest] = field(default_factory=dict)  # (repository, digest): acknowledged
    tags: dict[tuple[str, str], str] = field(default_factory=dict)  # (repository, tag): the last acknowledged digest
    maybe: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # asked for since then, "" for deleted
    uploads: dict[str, Upload] = field(default_factory=dict)  # by location
    kills: int = 0
    resumed: int = 0
    cut: int = 0  # pushes of a manifest that heard no answer


class Client:
    """Pushes images of its own to tags of its own, and to one that all share."""

    def __init__(self, number: int, address: tuple[str, int], chance: random.Random, known: Known) -> None:
        self._number = number
        self._address = address
        self._chance = chance
        self._known = known
        self._repository = f"team/app{number % 2}"  # two push to the same one

    async def run(self) -> None:
        """Push until the service is gone."""
        with contextlib.suppress(Gone):
            while True:
                await self.push()

    async def push(self) -> None:
        """Push one image or index under a tag; now and then delete a tag."""
        chance, known = self._chance, self._known
        tag = chance.choice([f"own{self._number}-{chance.randrange(3)}", "latest"])
        if chance.random() < 0.1:
            await self._move("DELETE", tag, "")
            return
        made = [self._image() for _ in range(chance.choice([1, 1, 2]))]
        top = images.index(made) if len(made) > 1 else made[0]
        for body in top.all_blobs().values():
            await self.push_blob(body.body)
        for manifest in top.all_manifests():
            if manifest is not top:
                got = await self._put(manifest, manifest.digest)
                assert got.status == 201, (got.status, got.body)
                known.pushed[self._repository, manifest.digest] = manifest
        await self._move("PUT", tag, top.digest, top)
        known.pushed[self._repository, top.digest] = top

    def _image(self) -> images.Manifest:
        chance = self._chance
        layers = [
            images.Layer(images.OCI_LAYER, chance.randbytes(chance.choice(SIZES)), diff_id="sha256:" + "0" * 64)
            for _ in range(chance.choice([1, 2, 3]))
        ]
        return images.image(layers)

    async def _move(self, method: str, tag: str, digest: str, manifest: images.Manifest | None = None) -> None:
        """Let a tag mean a digest, or nothing. Until that is acknowledged both may be so."""
        key, known = (self._repository, tag), self._known
        shared = known.maybe.setdefault(key, set())
        shared.add(digest)
        try:
            got = await self._put(manifest, tag) if manifest else await self._ask("DELETE", f"manifests/{tag}")
        except Gone:
            known.cut += 1
            raise
        assert got.status in ((201,) if manifest else (202, 404)), (got.status, got.body)
        if tag != "latest":  # where several push, the order of the answers says nothing
            known.tags[key] = digest
            shared.clear()

    async def _put(self, manifest: images.Manifest, reference: str) -> Got:
        fields = {"Content-Type": manifest.media_type}
        return await self._ask("PUT", f"manifests/{reference}", manifest.body, fields)

    async def push_blob(self, body: bytes) -> None:
        """Push a blob: whole in one request, or in chunks."""
        chance = self._chance
        digest = Digest.of(body)
        if chance.random() < 0.3:
            got = await self._ask("POST", f"blobs/uploads/?digest={digest}", body)
            assert got.status == 201, (got.status, got.body)
            return
        got = await self._ask("POST", "blobs/uploads/", b"")
        assert got.status == 202, (got.status, got.body)
        upload = Upload(self._repository, body, got.headers["location"])
        self._known.uploads[upload.location] = upload
        await self.go_on(upload)

    async def go_on(self, upload: Upload) -> None:
        """Send what is missing of a blob, and finish it."""
        chance, body = self._chance, upload.body
        while upload.offset < len(body) and chance.random() < 0.8:
            chunk = body[upload.offset : upload.offset + chance.choice([5, 30_000, 200_000])]
            span = {"Content-Range": f"{upload.offset}-{upload.offset + len(chunk) - 1}"}
            got = await self._ask_path("PATCH", upload.location, chunk, span)
            assert got.status == 202, (got.status, got.body)
            upload.offset += len(chunk)
        path = f"{upload.location}?digest={Digest.of(body)}"
        got = await self._ask_path("PUT", path, body[upload.offset :])
        assert got.status == 201, (got.status, got.body)
        del self._known.uploads[upload.location]

    async def resume(self, upload: Upload) -> None:
        """Go on with an upload of which the service was killed: nothing acknowledged may be lost."""
        got = await self._ask_path("GET", upload.location)
        if got.status == 404:
            # It was finished, and only the answer was lost.
            digest = Digest.of(upload.body)
            found = await self._ask_path("GET", f"/v2/{upload.repository}/blobs/{digest}")
            assert (found.status, found.body == upload.body) == (200, True), f"lost at {upload.offset}"
            del self._known.uploads[upload.location]
            return
        assert got.status == 204
        last = int(got.headers["range"].removeprefix("0-"))
        kept = last + 1 if last else 0  # no chunk here is of one byte
        assert kept >= upload.offset, f"{upload.offset} bytes were acknowledged, and {kept} are there"
        upload.offset = kept
        self._known.resumed += kept > 0
        await self.go_on(upload)

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, fields: dict[str, str] | None = None
    ) -> Got:
        return await self._ask_path(method, f"/v2/{self._repository}/{path}", body, fields)

    async def _ask_path(
        self, method: str, path: str, body: bytes | None = None, fields: dict[str, str] | None = None
    ) -> Got:
        try:
            got = await ask(self._address, path, method, fields, body)
        except OSError as error:
            raise Gone from error
        if not got.clean:
            raise Gone
        return got


async def pull(address: tuple[str, int], repository: str, reference: str, expected: images.Manifest) -> None:
    """Pull an image with all its platforms, and compare every byte."""
    got = await ask(address, f"/v2/{repository}/manifests/{reference}")
    assert (got.status, got.body == expected.body) == (200, True), (repository, reference, got.status)
    await asyncio.gather(*(pull(address, repository, child.digest, child) for child in expected.children))
    for blob in expected.blobs:
        got = await ask(address, f"/v2/{repository}/blobs/{blob.digest}")
        assert (got.status, got.clean, got.body == blob.body) == (200, True, True), (
            repository,
            blob.digest,
            got.status,
        )


async def assert_all_is_well(
    address: tuple[str, int], chance: random.Random, known: Known, made: dict[str, images.Manifest], fresh: set[str]
) -> None:
    """Look at the service that was started after a kill.

    Every tag that is there, under each name, is a whole image; those of one client mean what it was told last, or
    what it asked for since. What was acknowledged in this round pulls, and some of what was before.
    """
    for repository in sorted({repository for repository, _ in known.maybe}):
        got = await ask(address, f"/v2/{repository}/tags/list")
        if got.status == 404:  # nothing was acknowledged there yet
            assert not any(name == repository and digest for (name, _), digest in known.tags.items())
            continue
        listed = json.loads(got.body)["tags"]
        for tag in listed:
            head = await ask(address, f"/v2/{repository}/manifests/{tag}", "HEAD")
            assert head.status == 200, (repository, tag)
            await pull(address, repository, tag, made[head.headers["docker-content-digest"]])
        for (name, tag), maybe in known.maybe.items():
            if name != repository or tag == "latest":
                continue
            head = await ask(address, f"/v2/{repository}/manifests/{tag}", "HEAD")
            found = head.headers["docker-content-digest"] if head.status == 200 else ""
            assert bool(found) == (tag in listed)
            assert found in {known.tags.get((name, tag), ""), *maybe}, (name, tag, found)
            known.tags[name, tag] = found
            maybe.clear()
    older = [key for key in known.pushed if key[1] not in fresh]
    looked_at = [key for key in known.pushed if key[1] in fresh]
    looked_at += chance.sample(older, min(LOOKED_AT, len(older)))
    await asyncio.gather(*(pull(address, key[0], key[1], known.pushed[key]) for key in looked_at))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ForkedMirror]:
    mirror = ForkedMirror(tmp_path / "mirror", {"workers": 2, "clients": {"anonymous": "push"}})
    mirror.start()
    yield mirror
    mirror.kill()


def collect(service: ForkedMirror) -> None:
    """Run `mirror gc` beside the service."""
    command = [*service.program, "gc", "--config", str(service.configuration)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_what_was_acknowledged_is_whole_after_a_kill(
    service: ForkedMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
    print(f"SEED={seed}")
    chance = random.Random(seed)
    host, _, port = service.address.partition(":")
    address = host, int(port)
    known, made = Known(), {}

    def remember(manifest: images.Manifest) -> images.Manifest:
        made.update({one.digest: one for one in manifest.all_manifests()})
        return manifest

    for name in ("image", "index"):
        make = getattr(images, name)
        monkeypatch.setattr(images, name, lambda *args, make=make, **more: remember(make(*args, **more)))
    clients = [Client(number, address, chance, known) for number in range(CLIENTS)]
    layout = Layout(service.store)
    for number in range(KILLS):
        before = {digest for _, digest in known.pushed}
        pushing = [asyncio.create_task(client.run()) for client in clients]
        if number % 10 == 9:  # what nothing names is collected while they push, and nothing else
            await asyncio.to_thread(collect, service)
        await asyncio.sleep(chance.uniform(0.02, 0.6))
        await asyncio.to_thread(service.kill)
        known.kills += 1
        await asyncio.gather(*pushing)
        if number % 5 == 4:  # it hashes all that there is
            assert await asyncio.to_thread(broken, layout) == []
        await asyncio.to_thread(service.start)
        fresh = {digest for _, digest in known.pushed} - before
        await assert_all_is_well(address, chance, known, made, fresh)
        for upload in list(known.uploads.values()):
            await clients[0].resume(upload)
        while len(known.pushed) > 400:  # what it takes to keep them all in memory is not what is looked at
            known.pushed.pop(next(iter(known.pushed)))
    print(f"{known.kills} kills, {len(made)} manifests, {known.resumed} uploads resumed, {known.cut} unanswered")
    assert len(known.pushed) >= KILLS
    assert "Traceback" not in service.log
    assert " status=5" not in service.log
