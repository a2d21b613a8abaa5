"""A registry with private repositories, hosted and proxied, beside open ones whose manifests name what is private.

    lab       an upstream; vault/** of it is for alice alone
    open      an upstream that takes sparse indexes: anybody can have pub/naming name anything
    secret/** hosted, for alice alone
    apps/**   hosted, bob pushes there

with opening(tmp_path, labs) as bed:
    await bed.ask("/v2/open/pub/naming/manifests/index")
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mirror import logs
from mirror.config import load
from mirror.config.access import VERBS
from mirror.registry.access import Access
from mirror.registry.bearer import Signer
from mirror.registry.clients import Clients
from mirror.registry.connections import Connections
from mirror.registry.gate import Gate
from mirror.registry.logins import Logins, basic
from mirror.registry.middleware import Dispatcher
from mirror.registry.robots import Robots
from mirror.store.adopt import adopt_all
from mirror.store.tokens import Tokens, new_secret
from tests.faults.service import Lines
from tests.faults.wire import Got, ask
from tests.peers.images import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, descriptor, digest_of, noise
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room

NAMING = "open/pub/naming"
PROXIED = "lab/vault/app"
HOSTED = "secret/app"
RULES = [
    {"who": "robot+alice", "repositories": ["lab/vault/**", "secret/**"], "may": list(VERBS)},
    {"who": ["robot+bob", "robot+carol"], "repositories": ["apps/**"], "may": list(VERBS)},
    {"who": "anonymous", "repositories": ["apps/**"], "may": ["pull"]},
]
CLIENTS = {"anonymous": "pull", "rules": RULES}
# How clients spell NAMING: by the path, by ns, by the component before /v2, by the default upstream, by an alias.
FORMS = (
    "/v2/open/pub/naming/{}",
    "/v2/pub/naming/{}?ns=open",
    "/open/v2/pub/naming/{}",
    "/v2/pub/naming/{}",
    "/v2/short/naming/{}",
)
EMPTY = b"{}"


@dataclass(frozen=True)
class Content:
    """An index of one image with two layers: what is private, or stands for what is not here."""

    seed: int
    layers: tuple[bytes, ...] = field(init=False)
    config: bytes = field(init=False)
    child: bytes = field(init=False)
    index: bytes = field(init=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "layers", (noise(120_000, self.seed), noise(500, self.seed + 1)))
        put(self, "config", json.dumps({"architecture": "amd64", "os": "linux", "seed": self.seed}).encode())
        put(self, "child", image(self.config, *self.layers))
        put(self, "index", index(self.child))

    @property
    def blobs(self) -> tuple[bytes, ...]:
        return (self.config, *self.layers)

    @property
    def manifests(self) -> tuple[bytes, ...]:
        """The index and its image."""
        return (self.index, self.child)

    @property
    def all(self) -> tuple[bytes, ...]:
        return (*self.manifests, *self.blobs)


def kind_of(manifest: bytes) -> str:
    return str(json.loads(manifest)["mediaType"])


def image(config: bytes, *layers: bytes, **more: object) -> bytes:
    described = [descriptor(layer, OCI_LAYER) for layer in layers]
    fields = {"config": descriptor(config, OCI_CONFIG), "layers": described, **more}
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, **fields}).encode()


def index(*children: bytes) -> bytes:
    entries = [
        descriptor(child, kind_of(child), platform={"os": "linux", "architecture": f"a{number}"})
        for number, child in enumerate(children)
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def naming(*contents: Content) -> Iterator[tuple[str, bytes]]:
    """Yield (tag, manifest) of all that somebody who knows digests can have a repository name."""
    yield "index", index(*(one for content in contents for one in content.manifests))
    yield "image", image(EMPTY, *(one for content in contents for one in content.blobs))
    for number, content in enumerate(contents):
        yield f"config-{number}", image(content.config, EMPTY)
        subject = descriptor(content.child, OCI_MANIFEST)
        yield f"artifact-{number}", image(EMPTY, *content.layers, subject=subject, artifactType="text/x")
        # The fallback tag that lists who refers to it; with another entry, or it would be the very same index.
        yield digest_of(content.child).replace(":", "-"), index(content.child, content.index)
    # Manifests passed for layers, and blobs for manifests.
    yield "swapped", image(EMPTY, *(one for content in contents for one in content.manifests))


class Labs:
    """The two upstreams, and all that there is."""

    def __init__(self, lab: ScriptedRegistry, free: ScriptedRegistry) -> None:
        self.lab = lab
        self.free = free
        self.proxied = Content(10)
        self.pushed = Content(20)
        self.absent = Content(30)  # named as the others are, and not here
        for blob in self.proxied.blobs:
            lab.add_blob("vault/app", blob)
        for body, tags in ((self.proxied.index, ("v1",)), (self.proxied.child, ())):
            lab.add_manifest("vault/app", body, kind_of(body), *tags)
        free.add_blob("pub/naming", EMPTY)
        for tag, body in naming(self.proxied, self.pushed, self.absent):
            free.add_manifest("pub/naming", body, kind_of(body), tag)

    def private(self, source: str) -> Content:
        return self.proxied if source == PROXIED else self.pushed

    def document(self, **more: Any) -> dict[str, Any]:
        return {
            "upstreams": {
                "lab": {"endpoints": [self.lab.url], "tags": {"fresh_for": "0s"}},
                "open": {"endpoints": [self.free.url], "tags": {"fresh_for": "0s"}},
            },
            "default_upstream": "open",
            "aliases": {"short/": "open/pub/"},
            "hosted": ["secret/**", "apps/**"],
            "clients": CLIENTS,
            **more,
        }

    def forget(self) -> None:
        self.lab.forget()
        self.free.forget()

    @property
    def asked(self) -> list[str]:
        """What both were asked since, `HEAD /v2/…` each."""
        return [f"{one.method} {one.path}" for registry in (self.lab, self.free) for one in registry.requests]


class Bed:
    """One process of the registry, on a port of loopback."""

    def __init__(self, folder: Path, document: Mapping[str, Any]) -> None:
        file = folder / "mirror.yaml"
        storage = {"path": str(folder / "store"), "keep_free": "0%", **document.get("storage", {})}
        file.write_text(yaml.safe_dump({**document, "storage": storage}))
        self.room = Room(load(file))
        config = self.room.config
        self.tokens = Tokens(self.room.layout.tokens)
        self._headers: dict[str, str] = {}
        clients = Clients(config.clients.anonymous != "none")
        gate = Gate(
            Access(config.clients.anonymous, config.clients.rules),
            clients,
            self.room.content.resolve,
            logins=Logins(Signer(bytes(32)), None, Robots(self.tokens), delay=0),
        )
        lines = Lines()
        content = self.room.content
        self.dispatcher = Dispatcher(
            content,
            clients,
            self.room.metrics,
            lines,
            logs.get("registry"),
            gate=gate,
            uploads=content.uploads,
            hosted=content.hosted,
            catalog=content.catalog,
            manifest_limit=config.limits.manifest,
        )
        self.connections = Connections(self.dispatcher, self.room.metrics)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.connections.listen(self.listener)
        self.address: tuple[str, int] = self.listener.getsockname()[:2]

    async def close(self) -> None:
        await self.connections.drain(0)
        self.listener.close()
        await self.room.close()

    def login(self, who: str) -> dict[str, str]:
        """Return the headers of a client; of nobody for an empty name."""
        if not who:
            return {}
        if who not in self._headers:
            secret = new_secret()
            # Where no rule decides a robot may do what it was made for, and only alice's was made for what is private.
            made_for = ["**"] if who == "alice" else ["apps/**", "open/**"]
            self._headers[who] = basic(self.tokens.create(secret, who, made_for, VERBS, None).user, secret)
        return {"Authorization": self._headers[who]}

    async def ask(
        self,
        target: str,
        method: str = "GET",
        who: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Got:
        return await ask(self.address, target, method, {**self.login(who), **(headers or {})}, body)

    async def blob(self, name: str, content: bytes, who: str = "") -> Got:
        return await self.ask(f"/v2/{name}/blobs/{digest_of(content)}", who=who)

    async def manifest(self, name: str, content: bytes | str, who: str = "") -> Got:
        reference = content if isinstance(content, str) else digest_of(content)
        return await self.ask(f"/v2/{name}/manifests/{reference}", who=who)

    async def push_blob(self, name: str, content: bytes, who: str) -> Got:
        begun = await self.ask(f"/v2/{name}/blobs/uploads/", "POST", who, body=b"")
        assert begun.status == 202, begun
        place = begun.headers["location"]
        glue = "&" if "?" in place else "?"
        return await self.ask(f"{place}{glue}digest={digest_of(content)}", "PUT", who, body=content)

    async def push_manifest(self, name: str, content: bytes, who: str, reference: str = "") -> Got:
        place = f"/v2/{name}/manifests/{reference or digest_of(content)}"
        return await self.ask(place, "PUT", who, {"Content-Type": kind_of(content)}, content)

    async def push(self, name: str, content: Content, who: str, tag: str = "v1") -> None:
        for blob in content.blobs:
            assert (await self.push_blob(name, blob, who)).status == 201
        assert (await self.push_manifest(name, content.child, who)).status == 201
        assert (await self.push_manifest(name, content.index, who, tag)).status == 201

    async def pull(self, name: str, content: Content, who: str = "", tag: str = "v1") -> None:
        """Pull all of an image; every byte of it must come."""
        assert (await self.manifest(name, tag, who)).body == content.index
        assert (await self.manifest(name, content.child, who)).body == content.child
        for blob in content.blobs:
            assert (await self.blob(name, blob, who)).body == blob
        await self.settled()

    async def settled(self) -> None:
        import asyncio

        async with asyncio.timeout(10):
            while self.room.content._fetcher._fills or self.room.content._members._grants:
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def opening(folder: Path, document: Mapping[str, Any]) -> AsyncIterator[Bed]:
    bed = Bed(folder, document)
    if bed.room.config.clients.rules and not any(bed.room.layout.repositories.iterdir()):
        adopt_all(bed.room.layout)  # as housekeeping does, which has it done at once in a new store
    try:
        yield bed
    finally:
        await bed.close()


@contextlib.asynccontextmanager
async def laboratories() -> AsyncIterator[Labs]:
    async with ScriptedRegistry() as lab, ScriptedRegistry() as free:
        yield Labs(lab, free)
