"""Clients that mean well: they pull, push, move tags and delete."""

from __future__ import annotations

import asyncio
import contextlib
import os

from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from tests.peers.images import make_image, noise
from tests.soak.ground import Ground, NotNow
from tests.soak.ledger import ABSENT
from tests.tools import images

_SIZES = (10, 3_000, 60_000, 400_000)  # of layers
_SHARED = 12  # layers that many images of a repository have
_KEPT = 30  # images of a repository; beyond that each push is followed by a deletion
_TAGS = 6


class Puller:
    """Pulls what was pushed, what was deleted and what upstream has, and compares every byte."""

    def __init__(self, ground: Ground, number: int) -> None:
        self._ground = ground
        self._chance = ground.chance(f"puller {number}")

    async def run(self) -> None:
        names = self._ground.ledger.names
        while True:
            with contextlib.suppress(NotNow):
                await self._ground.pull(self._chance.choice(list(names)))
            await asyncio.sleep(self._chance.uniform(0, 0.02))


class Prober:
    """Asks whether the service lives."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def run(self) -> None:
        while True:
            await self._ground.alive()
            await asyncio.sleep(0.25)


class Pusher:
    """Pushes images to a repository of its own, moves its tags, and deletes the oldest."""

    def __init__(self, ground: Ground, number: int) -> None:
        self._ground = ground
        self._ledger = ground.ledger
        self._layout = Layout(ground.service.store)
        self._chance = ground.chance(f"pusher {number}")
        self._repository = f"team/app{number}"
        self._shared = [self._layer(3_000) for _ in range(_SHARED)]
        self._own: list[images.Manifest] = []

    async def run(self) -> None:
        while True:
            with contextlib.suppress(NotNow):
                await self.push()
            with contextlib.suppress(NotNow):
                if len(self._own) > _KEPT:
                    await self._delete(self._own[0])
            with contextlib.suppress(NotNow):
                if self._chance.random() < 0.1:
                    await self._delete_tag()
            await asyncio.sleep(self._chance.uniform(0, 0.2))

    async def push(self) -> None:
        """Push one image or index, under a tag."""
        made = [self._image() for _ in range(self._chance.choice([1, 1, 2]))]
        top = images.index(made) if len(made) > 1 else made[0]
        for blob in top.all_blobs().values():
            await self._push_blob(blob.body)
        self._own.append(top)
        for manifest in top.all_manifests():
            await self._put(manifest, manifest.digest)
        await self._put(top, f"v{self._chance.randrange(_TAGS)}")
        self._pushed_long_ago(top)
        if self._chance.random() < 0.1:  # an upload that nobody ends
            await self._send("POST", "blobs/uploads/", b"", good=(202,))

    def _image(self) -> images.Manifest:
        shared = self._chance.sample(self._shared, self._chance.choice([0, 1, 2]))
        layers = [self._layer(self._chance.choice(_SIZES)), *shared]
        return images.image(layers, labels={"build": self._chance.randbytes(8).hex()})

    def _layer(self, size: int) -> images.Layer:
        return images.Layer(images.OCI_LAYER, self._chance.randbytes(size), diff_id="sha256:" + "0" * 64)

    async def _push_blob(self, body: bytes) -> None:
        chance, digest = self._chance, Digest.of(body)
        began = await self._send("POST", "blobs/uploads/", b"", good=(202,))
        path = began.removeprefix(f"/v2/{self._repository}/")
        at = 0
        if chance.random() < 0.5:
            at = chance.randrange(len(body))
            span = {"Content-Range": f"0-{max(at - 1, 0)}"} if at else None
            await self._send("PATCH", path, body[:at], span, good=(202,))
        await self._send("PUT", f"{path}?digest={digest}", body[at:], good=(201,))

    async def _put(self, manifest: images.Manifest, reference: str) -> None:
        promise = self._ledger.promise(self._repository, reference)
        promise.ask(manifest.digest)
        await self._send("PUT", f"manifests/{reference}", manifest.body, {"Content-Type": manifest.media_type}, (201,))
        promise.hear(manifest.digest)

    async def _delete_tag(self) -> None:
        reference = f"v{self._chance.randrange(_TAGS)}"
        promise = self._ledger.promise(self._repository, reference)
        promise.ask(ABSENT)
        await self._send("DELETE", f"manifests/{reference}", good=(202, 404))
        promise.hear(ABSENT)

    async def _delete(self, top: images.Manifest) -> None:
        """Delete an image or index, those under an index after it."""
        for manifest in reversed(top.all_manifests()):
            for one in self._ledger.tags_of(self._repository, manifest.digest):
                one.ask(ABSENT)
            await self._send("DELETE", f"manifests/{manifest.digest}", good=(202, 404))
            self._ledger.delete(self._repository, manifest.digest)
        self._own.remove(top)

    def _pushed_long_ago(self, top: images.Manifest) -> None:
        """Let garbage collection take it at once when nothing names it: its own content, for the shared comes again."""
        shared = {one.digest for one in self._shared}
        for digest in {*top.all_blobs(), *(one.digest for one in top.all_manifests())} - shared:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._layout.marker(Digest.parse(digest)), (1, 1))

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        good: tuple[int, ...] = (),
    ) -> str:
        """Ask, and return where the answer says to go on."""
        kind = f"{'push' if method != 'DELETE' else 'delete'} {path.partition('/')[0]}"
        got = await self._ground.ask(kind, f"/v2/{self._repository}/{path}", method, headers, body, good=good)
        return got.headers.get("location", "")


class Publisher:
    """Moves a tag upstream: what is pulled is what it means, or what it meant."""

    repository, tag = "team/moving", "latest"

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._chance = ground.chance("publisher")
        self._number = 0
        self.promise = ground.ledger.promise(f"peer/{self.repository}", self.tag)
        self.newest = ABSENT

    async def run(self) -> None:
        while True:
            await self.publish()
            await asyncio.sleep(self._chance.uniform(1, 4))

    async def publish(self) -> None:
        """Let the tag mean another image."""
        self._number += 1
        self.newest = make_image(layer := noise(1000, self._number), seed=self._number).digest
        self.promise.ask(self.newest)
        await asyncio.to_thread(self._ground.upstream.add_image, self.repository, self.tag, [layer], self._number)
