"""Every key of an ImageSetConfiguration v2alpha1, and what stands for the keys that it no longer has."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from mirror.config.document import KeyPath

_PLATFORM = ("os", "architecture", "variant")
_CHART = ("name", "version", "path", "imagePaths", "platforms")

# The keys by the place of their mapping; [] stands for the items of a list.
KEYS: Mapping[str, Sequence[str]] = {
    "": ("kind", "apiVersion", "archiveSize", "mirror"),
    "mirror": ("platform", "operators", "additionalImages", "helm", "blockedImages", "samples"),
    "mirror.platform": (
        "graph", "architectures", "platforms", "release", "kubeVirtContainer", "channels",
    ),
    "mirror.platform.platforms[]": _PLATFORM,
    "mirror.platform.channels[]": ("name", "type", "minVersion", "maxVersion", "shortestPath", "full"),
    "mirror.operators[]": (
        "catalog", "full", "targetCatalog", "targetTag", "targetCatalogSourceTemplate", "skipDependencies", "platforms",
        "packages",
    ),
    "mirror.operators[].platforms[]": _PLATFORM,
    "mirror.operators[].packages[]": ("name", "defaultChannel", "channels", "minVersion", "maxVersion"),
    "mirror.operators[].packages[].channels[]": ("name", "minVersion", "maxVersion"),
    "mirror.additionalImages[]": ("name", "targetRepo", "targetTag", "platforms"),
    "mirror.additionalImages[].platforms[]": _PLATFORM,
    "mirror.helm": ("repositories", "local"),
    "mirror.helm.repositories[]": ("name", "url", "charts"),
    "mirror.helm.repositories[].charts[]": _CHART,
    "mirror.helm.repositories[].charts[].platforms[]": _PLATFORM,
    "mirror.helm.local[]": _CHART,
    "mirror.helm.local[].platforms[]": _PLATFORM,
    "mirror.blockedImages[]": ("name",),
    "mirror.samples[]": ("name",),
}  # fmt: skip

# Keys of v1alpha1 and v1alpha2, and of what people take for this, and what stands for them.
_GONE = {
    "storageconfig": "leave it out with all that is under it (imageURL, path): what was mirrored is kept in the store",
    "imageurl": "leave it out: what was mirrored is kept in the store",
    "ocp": "it is called `platform` now",
    "okd": "it is called `platform` now, and its channels have `type: okd`",
    "skipdeps": "it is called `skipDependencies` now, and does nothing",
    "targetname": "write `targetCatalog`, a path without a tag, and `targetTag`",
    "origincatalog": "leave it out: `catalog` names the origin",
    "minbundle": "write `minVersion`",
    "maxbundle": "write `maxVersion`",
    "startingbundle": "write `minVersion`",
    "startingversion": "write `minVersion`",
    "headsonly": "write `full: true` for what was `headsOnly: false`, else leave it out",
    "repos": "it is called `repositories` now",
    "pullsecret": "leave it out: mirror.yaml names logins under `pull_secrets`",
    "delete": "leave it out: `mirror unpin SET@N` gives a generation up",
    "metadata": "leave it out: the set's name is the file's, or what `--set` says",
    "spec": "leave this line out and move what is under it to the left",
}


def place(path: KeyPath) -> str:
    """Return the place of a mapping as KEYS spells it."""
    return "".join("[]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def remedy_for(key: str, at: str) -> str:
    """Return what to write in place of a key that the mapping at `at` does not have."""
    known = KEYS[at]
    gone = _GONE.get(key.lower())
    if gone:
        return gone
    near = difflib.get_close_matches(key[:60], known, n=1) or [one for one in known if one.lower() == key.lower()]
    if near:
        return f"did you mean `{near[0]}`?"
    places = [one for one, keys in KEYS.items() if key in keys]
    if len(places) == 1:
        return f"it belongs under `{places[0]}`" if places[0] else "it belongs at the top level, without indentation"
    return f"the keys here are {', '.join(known)}"
