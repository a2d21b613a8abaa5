"""A store that was pulled through from two repositories, and the commands on it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import click
import yaml
from click.testing import CliRunner, Result

from mirror.cli import care, hosted, offline
from mirror.content.answers import Target
from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from tests.faults.invariants import sealed_files_hash_to_their_names
from tests.peers.images import Image, digest_of
from tests.peers.scripted import ScriptedRegistry
from tests.tools.threads import LoopThread
from tests.unit.content.conftest import read
from tests.unit.content.hosted_bed import Shelf

MIRROR = click.Group("mirror", {one.name: one for one in (*care.COMMANDS, *hosted.COMMANDS, *offline.COMMANDS)})

Images = Mapping[tuple[str, str], Image]


class Upstream(LoopThread):
    """A registry with images by repository and tag."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        self.images = images
        self.registry = ScriptedRegistry()

    async def _open(self) -> None:
        await self.registry.start()
        for (name, tag), image in self.images.items():
            for blob in (image.config, *image.layers):
                self.registry.add_blob(name, blob)
            self.registry.add_manifest(name, image.manifest, image.media_type, tag)

    async def _close(self) -> None:
        await self.registry.stop()


class Site:
    """A store, its configuration, and the commands on it."""

    def __init__(self, folder: Path, upstream: Upstream, key: str = "lab") -> None:
        self.folder = folder
        self.images = upstream.images
        self.key = key
        self.document: dict[str, Any] = {"upstreams": {key: {"endpoints": [upstream.registry.url]}}}
        self.layout = Layout(folder / "store")
        self.with_shelf(self.pull_all)

    def configure(self, **changes: Any) -> None:
        self.document |= changes
        storage = {"path": str(self.folder / "store"), "keep_free": "0%"}
        (self.folder / "mirror.yaml").write_text(yaml.safe_dump({"storage": storage, **self.document}))

    def with_shelf(self, work: Callable[[Shelf], Awaitable[Any]]) -> Any:
        """Do what a service would do, and end."""

        async def all_of_it() -> Any:
            shelf = Shelf(self.folder, self.document)
            try:
                return await work(shelf)
            finally:
                await shelf.close()

        return asyncio.run(all_of_it())

    async def pull_all(self, shelf: Shelf) -> None:
        for (name, tag), image in self.images.items():
            await self.pull(shelf, name, tag, image)

    async def pull(self, shelf: Shelf, name: str, tag: str, image: Image) -> None:
        target = Target(self.key, name, f"{self.key}/{name}")
        assert (await shelf.pull(tag, target)).body == image.manifest
        for blob in (image.config, *image.layers):
            answer = await shelf.content.blob(target, Digest.parse(digest_of(blob)), None)
            assert await read(answer) == blob

    def run(self, *words: str, code: int = 0) -> Result:
        command, *rest = words
        done = CliRunner().invoke(MIRROR, [command, "--config", str(self.folder / "mirror.yaml"), *rest])
        assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
        return done

    def told(self, *words: str, code: int = 0) -> dict[str, Any]:
        return json.loads(self.run(*words, "--json", "-q", code=code).stdout)

    def stored(self) -> set[str]:
        return {f"{path.parent.name}:{path.name}" for path in self.layout.blobs.glob("*/*")}

    def path(self, content: bytes) -> Path:
        return Path(self.layout.blob(Digest.of(content)))

    def flip(self, content: bytes) -> None:
        """Change a bit under the seal, as a disk does."""
        path = self.path(content)
        before = path.stat()
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.write(bytes([content[0] ^ 1]))
        path.chmod(0o440)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert sealed_files_hash_to_their_names(self.layout)
