"""An image set after reading: every value checked, every default filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mirror.errors import InvalidRequest
from mirror.oci.pullspec import Pullspec

# What oc-mirror's `architectures` takes (internal/pkg/release), in Go's spelling.
ARCHITECTURES = ("amd64", "arm64", "ppc64le", "s390x", "multi")
# The kernel's spelling, which release tags have, to Go's, which image sets and manifests have.
GO_ARCHITECTURES: Mapping[str, str] = {
    "x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "ppc64el": "ppc64le", "i386": "386", "i686": "386",
}  # fmt: skip
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
# Beyond what a pullspec can have; text that a pattern of `blockedImages` is tried on ends here.
_LONGEST_PULLSPEC = 1024


class PlatformInvalid(InvalidRequest):
    """A platform outside the grammar, or one that is not spelled as Go does."""


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """What an image runs on, as Go spells it and as the children of an index state it."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return the platform that `linux/arm64` or `linux/arm64/v8` spells; raise PlatformInvalid."""
        parts = text.split("/")
        if not 2 <= len(parts) <= 3:
            raise PlatformInvalid(f"'{text[:80]}' is not a platform", "write OS/ARCHITECTURE, as in linux/amd64")
        return cls.of(*parts)

    @classmethod
    def of(cls, system: str, architecture: str, variant: str = "") -> Platform:
        """Return the platform of these parts; raise PlatformInvalid."""
        for word in (system, architecture, variant or "v8"):
            if _WORD.fullmatch(word) is None:
                remedy = f"write {word.lower()[:40]}" if _WORD.fullmatch(word.lower()) else "as in linux/amd64"
                raise PlatformInvalid(f"'{word[:40]}' cannot be part of a platform", remedy)
        if architecture in GO_ARCHITECTURES:
            raise PlatformInvalid(
                f"'{architecture}' is not how images spell this architecture", f"write {GO_ARCHITECTURES[architecture]}"
            )
        if architecture == "multi":
            raise PlatformInvalid(
                "'multi' is the payload of all architectures, not a platform", "leave `platforms` out for all"
            )
        return cls(system, architecture, variant)


@dataclass(frozen=True, slots=True)
class Channel:
    """Releases of one channel of the update graph.

    Without a version: its newest release; `full` begins at its oldest. `where` is `file:line`.
    """

    name: str
    type: Literal["ocp", "okd"] = "ocp"
    min_version: str = ""
    max_version: str = ""
    shortest_path: bool = False
    full: bool = False
    where: str = ""


@dataclass(frozen=True, slots=True)
class WantedImage:
    """An image that was asked for by name; it has a tag or a digest.

    `target_repo` and `target_tag` are where oc-mirror would push it. `platforms` are the children of an index that
    are wanted; empty means all. `tags` name it here beside its own tag. `where` is `file:line`.
    """

    pullspec: Pullspec
    target_repo: str = ""
    target_tag: str = ""
    platforms: tuple[Platform, ...] = ()
    where: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageSet:
    """What a file asks for.

    `architectures` are the payloads to take of each release that a channel names, in Go's spelling, or `multi`;
    `platforms`, where given, are the children wanted of the multi payload, and `architectures` is then `multi` alone.
    `release_wheres` says where each of `releases` stands. `archive_size` is in bytes; None where none is stated.
    `warnings` are sentences about what is read here in another way than its author may think.
    """

    path: Path | None
    channels: tuple[Channel, ...] = ()
    releases: tuple[Pullspec, ...] = ()
    architectures: tuple[str, ...] = ("amd64",)
    platforms: tuple[Platform, ...] = ()
    graph: bool = False
    kubevirt: bool = False
    images: tuple[WantedImage, ...] = ()
    blocked: tuple[re.Pattern[str], ...] = ()
    archive_size: int | None = None
    warnings: tuple[str, ...] = ()
    release_wheres: tuple[str, ...] = ()

    @property
    def hosts(self) -> dict[str, tuple[str, ...]]:
        """The registries that pullspecs of the file name, each with where; what a graph names is not among them."""
        found: dict[str, list[str]] = {}
        named = [(image.pullspec, image.where) for image in self.images]
        for pullspec, where in [*zip(self.releases, self.release_wheres, strict=False), *named]:
            found.setdefault(pullspec.host, []).append(where)
        return {host: tuple(wheres) for host, wheres in found.items()}

    def blocking(self, pullspec: Pullspec) -> str:
        """Return the pattern of `blockedImages` that takes this image out, or nothing.

        It is looked for anywhere in the pullspec without a transport, as oc-mirror does.
        """
        text = str(pullspec)[:_LONGEST_PULLSPEC]
        return next((pattern.pattern for pattern in self.blocked if pattern.search(text)), "")
