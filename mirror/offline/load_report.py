"""What a load says when it ends, generation by generation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from mirror.offline.found_parts import Damage


class LoadRefused(MirrorError):
    """What was given is whole, and must not be loaded here."""


@dataclass(slots=True)
class Loaded:
    """How it went with one generation. Sizes in bytes.

    `missing` is what the set still lacks, `missing_parts` the files that bring it and were not given. `presumed`:
    nothing was written, because the parts presume that the digests in `missing` are here; then `remedy` says which
    archives they count on and what repairs it. `error` is what stopped it.
    """

    set: str
    generation: int
    plan: Digest
    before: bool = False  # all that the plan names was here already
    ready: bool = False  # all that the plan names is here now
    lacking: tuple[str, ...] = ()  # what was asked for and is not in the plan, as sentences
    received: dict[Digest, int] = field(default_factory=dict)
    missing: dict[Digest, int] = field(default_factory=dict)
    missing_parts: list[str] = field(default_factory=list)
    presumed: bool = False
    remedy: str = ""
    error: MirrorError | None = None

    def __str__(self) -> str:
        return f"{self.set}@{self.generation}"

    @property
    def complete(self) -> bool:
        """Whether all that was asked for is here."""
        return self.ready and not self.lacking


@dataclass(slots=True)
class LoadReport:
    """How a load ended, and what is wrong with the files that were given.

    `doubled` parts were given twice: the second file, and the first. `ignored` files are none that were asked for.
    What is `damaged` matters only where something is missing: another copy of the part may have had it.
    """

    loaded: list[Loaded] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    doubled: list[tuple[Path, Path]] = field(default_factory=list)
    ignored: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether all that was given is complete here."""
        return bool(self.loaded) and all(one.ready for one in self.loaded)

    @property
    def missing(self) -> dict[Digest, int]:
        """All that is missing: what `save --want` on the other side is to carry."""
        return {digest: size for one in self.loaded for digest, size in one.missing.items()}
