"""Where the offline way gets images from: the same proxy and store as `serve`, asked patiently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mirror.content.answers import ManifestAnswer, Target
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec


class ImageSource(Protocol):
    """What content gives to planning and syncing. Every method waits as long as retries last, and may be cancelled.

    All raise NotHere where it does not exist (or we are offline and it is not here), UpstreamError where upstream
    cannot give it, StoreFull where there is no room.
    """

    def target(self, pullspec: Pullspec) -> Target:
        """Return what the pullspec's repository means here. Raises NameUnknown where no upstream has it."""
        ...

    async def digest(self, target: Target, tag: str, *, rarely: bool = False) -> Digest:
        """Return what a tag means now, asking upstream whatever is remembered; `rarely`: most have no such tag."""
        ...

    async def manifest(self, target: Target, digest: Digest) -> ManifestAnswer:
        """Return a verified manifest with its bytes in `body`, kept in the store from now on.

        Raises UpstreamNotFound where upstream says that there is none.
        """
        ...

    async def tags(self, target: Target, most: int) -> Sequence[str]:
        """Return the tags of a repository, at most `most`: as many may have more behind them."""
        ...

    async def referrers(self, target: Target, digest: Digest) -> bytes | None:
        """Return the index of what refers to `digest`, as upstream says it; None where it has no such API."""
        ...

    async def blob(self, target: Target, digest: Digest, size: int) -> int:
        """Return a descriptor of a verified blob, which the caller closes; it is kept in the store from now on."""
        ...


@dataclass(frozen=True, slots=True)
class Lacking:
    """What could not be had, and why: a line of the end report."""

    what: str
    why: str
    remedy: str = ""
