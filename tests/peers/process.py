"""The scripted registry as a process of its own, and how a test starts and steers one.

with running(image="team/app:v1", layer=256 << 20) as registry:
    registry.fail("blob", "Truncate", {"at": 1000}, times=1)
    registry.requests()
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.peers.images import digest_of, noise


def main(registry_class: Any) -> None:
    """Run one registry until SIGTERM; print `{"port", "url", "images"}` as the first line."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers.scripted")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--prefix", default="", help="a path before /v2")
    parser.add_argument("--cdn", action="store_true", help="redirect blobs to a second origin with signed URLs")
    parser.add_argument("--image", action="append", default=[], metavar="REPOSITORY:TAG")
    parser.add_argument("--layer", action="append", type=int, default=[], metavar="BYTES", help="layers of every image")
    asyncio.run(_serve(registry_class, parser.parse_args()))


async def _serve(registry_class: Any, options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with registry_class(port=options.port, prefix=options.prefix, cdn=options.cdn) as registry:
        images = {}
        for number, named in enumerate(options.image):
            repository, _, tag = named.partition(":")
            layers = [noise(size, seed=number * 100 + at) for at, size in enumerate(options.layer)]
            image = registry.add_image(repository, tag or "latest", layers=layers, seed=number)
            images[named] = {"digest": image.digest, "layers": [digest_of(layer) for layer in image.layers]}
        print(json.dumps({"port": registry.port, "url": registry.url, "images": images}), flush=True)
        await stop.wait()


@dataclass
class RunningRegistry:
    """A scripted registry in another process."""

    port: int
    url: str
    images: dict[str, Any]

    def fail(self, kind: str, fault: str, arguments: dict[str, Any] | None = None, **more: Any) -> None:
        """As ScriptedRegistry.fail, with the fault's class name and arguments."""
        self._ask("fail", {"kind": kind, "fault": fault, "with": arguments or {}, **more})

    def add_image(self, repository: str, tag: str, layers: list[bytes], seed: int = 0) -> str:
        """Serve an image under a tag; return its digest."""
        said = {"repository": repository, "tags": [tag], "layers": [base64.b64encode(one).decode() for one in layers]}
        return str(self._ask("image", {**said, "seed": seed})["digest"])

    def heal(self) -> None:
        """Forget every fault."""
        self._ask("heal", {})

    def forget(self) -> None:
        """Forget the requests seen so far."""
        self._ask("forget", {})

    def requests(self, kind: str = "") -> list[dict[str, Any]]:
        """Return the requests seen so far (of `kind`)."""
        seen: list[dict[str, Any]] = self._ask("requests", {})
        return [one for one in seen if kind in ("", one["kind"])]

    def _ask(self, what: str, body: dict[str, Any]) -> Any:
        url = f"http://127.0.0.1:{self.port}/_scripted/{what}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, data=json.dumps(body).encode(), timeout=10) as answer:
            return json.load(answer)


@contextlib.contextmanager
def running(image: str = "team/app:v1", layer: int = 1000, *arguments: str) -> Iterator[RunningRegistry]:
    """Run a registry with one image of one layer of `layer` bytes in a process of its own."""
    command = [sys.executable, "-m", "tests.peers.scripted", "--image", image, "--layer", str(layer), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            said = json.loads(process.stdout.readline())
            yield RunningRegistry(said["port"], said["url"], said["images"])
        finally:
            process.terminate()
            process.wait(10)
