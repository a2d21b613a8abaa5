"""Images that were asked for by name: which digest each means now."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mirror.content.answers import Target
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.offline.each import each
from mirror.offline.image_set import WantedImage
from mirror.offline.source import ImageSource
from mirror.offline.wanted import FAILED, Gate, Troubles, Wanted

_DEFAULT_TAG = "latest"


class Resolving:
    """Finds what pullspecs mean, at most `parallel` of them at once."""

    def __init__(self, source: ImageSource, gate: Gate, troubles: Troubles, parallel: int) -> None:
        self._source = source
        self._gate = gate
        self._troubles = troubles
        self._parallel = parallel

    async def resolve(self, given: Sequence[tuple[Pullspec, str]]) -> dict[int, tuple[Target, Digest]]:
        """Return by place where each pullspec is and its digest, a tag's as it is now; `given` says where each stands.

        A tag that is named twice is asked for once. What is blocked or cannot be had is left out and noted.
        """
        targets = {
            place: target
            for place, (pullspec, where) in enumerate(given)
            if (target := self._gate.target(pullspec, where)) is not None
        }
        tags: dict[tuple[str, str], tuple[Target, Pullspec]] = {}
        for place, target in targets.items():
            pullspec = given[place][0]
            if pullspec.digest is None:
                tags.setdefault((target.name, _tag(pullspec)), (target, pullspec))
        asked = sorted(tags)
        digests = dict(zip(asked, await each(self._ask, [tags[key] for key in asked], self._parallel), strict=True))
        found: dict[int, tuple[Target, Digest]] = {}
        for place, target in targets.items():
            pullspec = given[place][0]
            digest = pullspec.digest or digests[(target.name, _tag(pullspec))]
            if digest is not None and not self._is_blocked(pullspec, digest):
                found[place] = (target, digest)
        return found

    async def _ask(self, where: tuple[Target, Pullspec]) -> Digest | None:
        target, pullspec = where
        try:
            return await self._source.digest(target, _tag(pullspec))
        except FAILED as error:
            self._troubles.add(str(pullspec), error)
            return None

    def _is_blocked(self, pullspec: Pullspec, digest: Digest) -> bool:
        """Tell whether a pattern takes out what a tag was found to mean."""
        if pullspec.digest is not None:
            return False
        return self._gate.is_blocked(Pullspec(pullspec.host, pullspec.repository, pullspec.tag, digest))


async def named(
    images: Sequence[WantedImage], scopes: Collection[str], resolving: Resolving, troubles: Troubles
) -> list[Wanted]:
    """Return the images that were asked for by name, `scopes` being what nodes demand signatures for."""
    resolved = await resolving.resolve([(image.pullspec, image.where or str(image.pullspec)) for image in images])
    found = []
    for place, (target, digest) in resolved.items():
        image = images[place]
        pullspec = image.pullspec
        own = pullspec.tag if pullspec.digest else _tag(pullspec)
        found.append(
            Wanted(
                target,
                digest,
                pullspec.source,
                "image",
                frozenset(filter(None, (own, image.target_tag, *image.tags))),
                frozenset((f"asked for as {pullspec}",)),
                frozenset(image.platforms),
                frozenset(scopes),
            )
        )
        if image.target_repo:
            troubles.warnings.add(
                f"{pullspec} keeps its name here: `targetRepo: {image.target_repo}` is not used; what `mirror"
                " resources` writes leads clients here by the name that they know"
            )
    return found


def _tag(pullspec: Pullspec) -> str:
    return pullspec.tag or _DEFAULT_TAG
