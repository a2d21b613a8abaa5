"""mapping.txt: which image outside is which here, a line each, in the form that `oc image mirror -f` reads."""

from __future__ import annotations

from collections.abc import Sequence

from mirror.offline.plan import Image
from mirror.offline.resources.site import Site


def mapping(wanted: Sequence[Image], site: Site) -> bytes:
    """Return a line `source@digest=registry/name:tag` for each tag, without `:tag` for what has only its digest."""
    registry = site.registries[0].address
    lines = []
    for image in wanted:
        targets = [f":{tag}" for tag in image.tags] or [""]
        lines += [f"{image.source}@{image.digest}={registry}/{image.name}{tag}" for tag in targets]
    return "".join(f"{line}\n" for line in sorted(set(lines))).encode()
