"""JSON as a registry may take it from strangers: bounded depth, no duplicate keys, no NaN, no floats for sizes."""

from __future__ import annotations

import json
from typing import Any

DEPTH_LIMIT = 64  # nested objects and arrays; the interpreter's own limit is met at about 990

_OPEN = frozenset(b"{[")
_CLOSE = frozenset(b"}]")
_WORDS = frozenset(
    ("schemaVersion", "mediaType", "manifests", "config", "layers", "blobs", "fsLayers", "digest", "size", "urls")
)
_FOLDED = {word.lower(): word for word in _WORDS}


def _depth(raw: bytes) -> int:
    """Return how deep `raw` nests, brackets inside strings not counted."""
    deepest = depth = 0
    in_string = escaped = False
    for byte in raw:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in _OPEN:
            depth += 1
            deepest = max(deepest, depth)
        elif byte in _CLOSE:
            depth -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object that every reader takes alike: no key twice, and none of the words that matter in two cases.

    Go's decoder takes `Layers` for `layers` (CVE-2021-41190); annotations may differ by case alone.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object names a key twice")
    for key in found:
        if key not in _WORDS and key.lower() in _FOLDED:
            raise ValueError(f"an object spells {_FOLDED[key.lower()]} in another case")
    return found


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def loads(raw: bytes) -> Any:
    """Return the value that `raw` spells; raise ValueError saying what is wrong with it."""
    # Counting brackets is cheap and over-counts at worst; the exact walk is for what looks deep.
    if raw.count(b"{") + raw.count(b"[") > DEPTH_LIMIT and _depth(raw) > DEPTH_LIMIT:
        raise ValueError(f"it nests deeper than {DEPTH_LIMIT}")
    try:
        # As text: given bytes the library also takes UTF-16 and UTF-32, which no other reader of a manifest does.
        return json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError as error:  # pragma: no cover - held off by the depth count
        raise ValueError("it nests too deep") from error
