"""A release opened: its signature verified first, then what its payload says of images."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from mirror.content.answers import Target
from mirror.errors import Corrupt, ManifestInvalid, MirrorError
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.pullspec import Pullspec
from mirror.offline import payload as payloads
from mirror.offline.closure import Child, Closure, Closures
from mirror.offline.image_set import ImageSet
from mirror.offline.payload import Payload, PayloadInvalid
from mirror.offline.plan import Kind
from mirror.offline.release_image import (
    CONFIGURATION_LIMIT,
    LAYER_LIMIT,
    LAYERS_LIMIT,
    MACHINES,
    Configuration,
    is_architecture,
    is_published_in,
    layers_of,
    release_tag,
    runs,
)
from mirror.offline.signatures import SignatureInvalid
from mirror.offline.source import ImageSource
from mirror.offline.wanted import Gate, Troubles, Wanted
from mirror.store.threads import settle

_NEAR = 1024 * 1024  # bytes of a layer that is fetched to find out whether an image is a release

T = TypeVar("T")

# A release's valid signatures, as (number, bytes), and the fingerprints of the keys that made them.
Signed: TypeAlias = tuple[Sequence[tuple[int, bytes]], Sequence[str]]
# Returns these, and raises what ends a run where there is none.
Verify: TypeAlias = Callable[[Digest], Awaitable[Signed]]


class VersionMismatch(Corrupt):
    """A release that is not the one that it was asked for as."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A release to open. Without a version (it was given by pullspec) it is what its payload says."""

    pullspec: Pullspec
    target: Target
    digest: Digest
    version: str = ""
    architecture: str = ""
    channels: tuple[str, ...] = ()
    why: str = ""
    risks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Opened:
    """A release whose payload was read. `signatures` are those that hold, as (number, bytes)."""

    asked: Asked
    payload: Payload
    architecture: str  # as Go spells it, or multi
    signatures: tuple[tuple[int, bytes], ...]
    signed_by: tuple[str, ...]

    @property
    def label(self) -> str:
        """The release for people."""
        return f"release {self.payload.version} ({self.architecture})"

    @property
    def tag(self) -> str:
        """What it is called in its own repository."""
        return release_tag(self.payload.version, self.architecture)


class Releases:
    """Opens releases. `platforms` are the children of lists that are asked for, empty for all."""

    def __init__(
        self,
        source: ImageSource,
        closures: Closures,
        verify: Verify,
        image_set: ImageSet,
        troubles: Troubles,
        *,
        require_signature: bool,
    ) -> None:
        self._source = source
        self._closures = closures
        self._verify = verify
        self._image_set = image_set
        self._troubles = troubles
        self._require_signature = require_signature

    async def look(self, wanted: Wanted, closure: Closure) -> Configuration | None:
        """Return what the configuration says of an image that was asked for as one and is a release; None otherwise.

        It is one by its repository, by its label, or by its payload if that is small enough to be fetched while
        planning; of others that shows when they are here. Raises NotHere, UpstreamError.
        """
        sizes = {blob.digest: blob for blob in closure.blobs}
        blobs = [[sizes[digest] for digest in one.blobs] for one in closure.manifests if not one.manifests]
        running = next((one for one in blobs if runs(blob.media_type for blob in one)), None)
        if running is None:
            return None
        first, top = running[0], running[-1]
        found = Configuration()
        if first.size <= CONFIGURATION_LIMIT:
            fd = await self._source.blob(wanted.target, first.digest, first.size)
            found = await _in_thread(fd, _configuration)
        if found.release is not None or is_published_in(wanted.source, wanted.target.name):
            return found
        if top.size > _NEAR:
            return None
        fd = await self._source.blob(wanted.target, top.digest, top.size)
        return found if await _in_thread(fd, payloads.is_in) else None

    async def open(self, asked: Asked, signed: Signed | None = None) -> Opened:
        """Return the release with its payload; `signed` is what `signed` returned, where that was asked.

        Raises what that raises; VersionMismatch; PayloadInvalid; NotHere, UpstreamError, ManifestInvalid.
        """
        signatures, signed_by = await self.signed(asked) if signed is None else signed
        closure = await self._closures.read(asked.target, asked.digest, self._image_set.platforms)
        manifest = await self._shard(asked, closure)
        payload = await self._payload(asked, manifest)
        if asked.version and payload.version != asked.version:
            raise VersionMismatch(
                f"{asked.pullspec} is release {payload.version}; the update graph says that it is {asked.version}",
                "ask who runs the graph; nothing of it is taken",
            )
        architecture = asked.architecture or await self._architecture(asked, closure, manifest, payload)
        return Opened(asked, payload, architecture, tuple(signatures), tuple(signed_by))

    async def signed(self, asked: Asked) -> Signed:
        """Return the signatures of a release that hold, and the keys that made them; raise what verifying raises.

        Where none is required, a release without any is warned of.
        """
        try:
            return await self._verify(asked.digest)
        except MirrorError as error:
            if self._require_signature:
                if isinstance(error, SignatureInvalid):
                    raise error.of(f"{asked.pullspec.source}@{asked.digest}") from None
                raise
            self._troubles.warnings.add(f"{asked.pullspec} is taken without a valid signature: {error.what}")
            return (), ()

    async def _shard(self, asked: Asked, closure: Closure) -> Manifest:
        """Return the manifest whose layers hold the payload: of a list, linux/amd64's or else the first."""
        if not closure.children:
            return closure.top
        child = next(filter(_is_amd64, closure.children), closure.children[0])
        manifest, _, _ = await self._closures.manifest(asked.target, child.descriptor.digest, child.descriptor.size)
        return manifest

    async def _payload(self, asked: Asked, manifest: Manifest) -> Payload:
        """Return the payload from the highest layer that has one; those below are not believed."""
        for layer in reversed(layers_of(manifest)[-LAYERS_LIMIT:]):
            if layer.size > LAYER_LIMIT:
                raise PayloadInvalid(f"layer {layer.digest} of {asked.pullspec} has {layer.size} bytes")
            fd = await self._source.blob(asked.target, layer.digest, layer.size)
            payload = await _in_thread(fd, payloads.read)
            if payload is not None:
                return payload
        raise PayloadInvalid(f"{asked.pullspec} holds no image-references", "give the pullspec of a release image")

    async def _architecture(self, asked: Asked, closure: Closure, manifest: Manifest, payload: Payload) -> str:
        """Return the architecture of a release that was given by pullspec."""
        if len(closure.top.children) > 1 or payload.architecture:
            return payload.architecture or "multi"
        config = manifest.blobs[0]
        if config.size > CONFIGURATION_LIMIT:
            raise ManifestInvalid(f"the configuration of {asked.pullspec} has {config.size} bytes")
        fd = await self._source.blob(asked.target, config.digest, config.size)
        found = (await _in_thread(fd, _configuration)).architecture
        if not is_architecture(found):
            raise ManifestInvalid(f"the configuration of {asked.pullspec} names no architecture")
        return found

    def images(self, opened: Opened, gate: Gate) -> Iterator[Wanted]:
        """Yield the images of an opened release, itself among them."""
        asked = opened.asked
        tags = {opened.tag, *([asked.pullspec.tag] if asked.pullspec.tag else [])}
        yield self._wanted(
            opened, asked.target, asked.digest, asked.pullspec.source, "release", opened.label, frozenset(tags)
        )
        for component in opened.payload.components:
            why = f"{opened.label}: component {component.name}"
            yield from self._one(opened, gate, component.pullspec, "component", why)
        if self._image_set.kubevirt:
            for machine in self._machines(opened):
                why = f"{opened.label}: kubevirt disk for {machine}"
                yield from self._one(opened, gate, opened.payload.kubevirt[machine], "kubevirt", why)

    def _one(self, opened: Opened, gate: Gate, pullspec: Pullspec, kind: Kind, why: str) -> Iterator[Wanted]:
        target = gate.target(pullspec, opened.label)
        if target is not None and pullspec.digest is not None:
            yield self._wanted(opened, target, pullspec.digest, pullspec.source, kind, why)

    def _wanted(
        self,
        opened: Opened,
        target: Target,
        digest: Digest,
        source: str,
        kind: Kind,
        why: str,
        tags: frozenset[str] = frozenset(),
    ) -> Wanted:
        platforms = frozenset(self._image_set.platforms)
        scopes = frozenset(opened.payload.sigstore_scopes)
        return Wanted(target, digest, source, kind, tags, frozenset((why,)), platforms, scopes)

    def _machines(self, opened: Opened) -> list[str]:
        """Return the architectures whose kubevirt disks are asked for and there; the others are warned of."""
        there = opened.payload.kubevirt
        if opened.architecture != "multi":
            asked = {opened.architecture}
        else:
            asked = {platform.architecture for platform in self._image_set.platforms}
        machines = sorted(MACHINES.get(one, one) for one in asked) or sorted(there)
        absent = [machine for machine in machines if machine not in there]
        if absent or not machines:
            what = f" for {', '.join(absent)}" if absent else ""
            self._troubles.warnings.add(f"{opened.label} has no kubevirt disk{what}")
        return [machine for machine in machines if machine in there]


def _is_amd64(child: Child) -> bool:
    return child.platform is not None and child.platform[:2] == ("linux", "amd64")


async def _in_thread(fd: int, read: Callable[[int], T]) -> T:
    """Return what `read` makes of `fd` in a thread, which closes it: cancelled or not, nobody closes it under it."""

    def run() -> T:
        try:
            return read(fd)
        finally:
            os.close(fd)

    return await settle(asyncio.get_running_loop().run_in_executor(None, run))


def _configuration(fd: int) -> Configuration:
    """Return what the configuration in `fd` says. For threads."""
    return Configuration.parse(os.pread(fd, CONFIGURATION_LIMIT, 0))
