"""Which images a set consists of before their manifests are known: each once, with everybody who asked for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from mirror.content.answers import Target
from mirror.errors import (
    ConfigurationError,
    InvalidRequest,
    ManifestInvalid,
    MirrorError,
    NameUnknown,
    NotHere,
    NotYet,
    Problem,
    UpstreamError,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.offline.image_set import ImageSet, Platform
from mirror.offline.plan import Kind
from mirror.offline.source import ImageSource, Lacking

KINDS: tuple[Kind, ...] = ("release", "component", "kubevirt", "image", "signature", "referrer")


# What keeps one image out without ending the rest.
FAILED = (NotHere, UpstreamError, ManifestInvalid, NotYet, InvalidRequest)


@dataclass(slots=True)
class Wanted:
    """An image by digest. `platforms` are the children that are asked for, empty for all.

    `scopes` say which images must have a sigstore signature where this one is used.
    """

    target: Target
    digest: Digest
    source: str
    kind: Kind
    tags: frozenset[str] = frozenset()
    why: frozenset[str] = frozenset()
    platforms: frozenset[Platform] = frozenset()
    scopes: frozenset[str] = frozenset()

    @property
    def pullspec(self) -> str:
        """The image as clients name it."""
        return f"{self.source}@{self.digest}"

    @property
    def key(self) -> tuple[str, Digest]:
        """What makes two wishes one image."""
        return (self.target.name, self.digest)

    @property
    def rank(self) -> tuple[int, str, Digest]:
        """The order in which images are looked at: what a signature vouches for comes first."""
        return (KINDS.index(self.kind), *self.key)


class Wishes:
    """The images of a set, those of one repository and digest as one."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, Digest], Wanted] = {}

    def add(self, one: Wanted) -> None:
        """Add an image, or another reason for one."""
        old = self._found.get(one.key)
        if old is None:
            self._found[one.key] = one
            return
        self._found[one.key] = Wanted(
            one.target,
            one.digest,
            min(old.source, one.source),
            min(old.kind, one.kind, key=KINDS.index),
            old.tags | one.tags,
            old.why | one.why,
            old.platforms | one.platforms if old.platforms and one.platforms else frozenset(),
            old.scopes | one.scopes,
        )

    def sorted(self) -> list[Wanted]:
        """Return them in the order in which they are looked at."""
        return sorted(self._found.values(), key=lambda one: one.rank)


@dataclass(slots=True)
class Troubles:
    """What goes wrong on the way without ending it. `unknown_hosts` says for each host what needs it."""

    failures: set[Lacking] = field(default_factory=set)
    warnings: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)
    unknown_hosts: dict[str, set[str]] = field(default_factory=dict)
    away: dict[Lacking, UpstreamUnavailable] = field(default_factory=dict)

    def add(self, what: str, error: MirrorError, *, host: str = "", where: str = "") -> None:
        """Remember that `what` could not be had; `host` and `where` it stands matter where no upstream has it."""
        if isinstance(error, NameUnknown) and host:
            self.unknown_hosts.setdefault(host, set()).add(where or what)
            return
        lacking = Lacking(what, error.what, error.remedy)
        self.failures.add(lacking)
        if isinstance(error, UpstreamUnavailable):
            self.away[lacking] = error

    def nothing_but_away(self) -> UpstreamUnavailable | None:
        """Return the error to end with where every failure is an upstream that is away."""
        if not self.failures or self.failures != set(self.away):
            return None
        return self.away[min(self.away, key=lambda one: (one.what, one.why))]


class Gate:
    """Lets through what may be planned: not what `blockedImages` names, nor what no upstream here has."""

    def __init__(self, image_set: ImageSet, source: ImageSource, troubles: Troubles) -> None:
        self._image_set = image_set
        self._source = source
        self._troubles = troubles

    def target(self, pullspec: Pullspec, where: str) -> Target | None:
        """Return what `pullspec` means here, None where it is blocked or cannot be had; that is then noted."""
        if self.is_blocked(pullspec):
            return None
        try:
            return self._source.target(pullspec)
        except (NotHere, InvalidRequest) as error:
            self._troubles.add(str(pullspec), error, host=pullspec.host, where=where)
            return None

    def is_blocked(self, pullspec: Pullspec) -> bool:
        """Tell whether a pattern takes `pullspec` out; it is noted."""
        if not self._image_set.blocking(pullspec):
            return False
        self._troubles.blocked.add(str(pullspec))
        return True


def check_tags(images: Collection[Wanted]) -> None:
    """Raise ConfigurationError where one tag is to name two images."""
    problems = []
    for name, tag, first, second in _doubles(images):
        problems.append(
            Problem(
                "tag_conflict",
                f"{name}:{tag} is to name two images, {first.digest} ({_why(first)}) and {second.digest}"
                f" ({_why(second)})",
                "",
                "give one of them another tag, or leave one out",
            )
        )
    if problems:
        raise ConfigurationError(problems)


def _doubles(images: Collection[Wanted]) -> Iterator[tuple[str, str, Wanted, Wanted]]:
    found: dict[tuple[str, str], Wanted] = {}
    for one in images:
        for tag in sorted(one.tags):
            first = found.setdefault((one.target.name, tag), one)
            if first.digest != one.digest:
                yield one.target.name, tag, first, one


def _why(one: Wanted) -> str:
    return ", ".join(sorted(one.why)[:3])
