"""How a value is written that is a list where a mapping belongs, or the other way round, in its author's own words.

Only what can be no secret is repeated: names of upstreams, images, clients and files, and URLs without a login.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from mirror.config.document import Document, KeyPath
from mirror.config.keys import keys_under

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")
_URL = re.compile(r"https?://[A-Za-z0-9\[][A-Za-z0-9._/:\]\[-]{0,127}")
_FILE = re.compile(r"(?:\.{0,2}/[A-Za-z0-9._/-]{1,200}|[A-Za-z0-9._-]{1,100}\.(?:json|pem|crt))")
_DASHES = "leave out the dashes"


def as_mapping(path: KeyPath, document: Document) -> str:
    """Return how to write what stands at `path`, where a mapping belongs."""
    value = _at(document.data, path)
    if path == ("upstreams",):
        return _upstreams(value)
    if path == ("aliases",):
        pairs = dict(_pairs(value))
        stated = ", ".join(f"{name}: {meaning}" for name, meaning in pairs.items())
        return (
            f"write `aliases: {{{stated}}}`" if pairs else "write lines of `name: what it stands for`, without dashes"
        )
    if path[:1] == ("upstreams",) and len(path) == 2:
        urls = [value] if isinstance(value, str) else value
        if _all(urls, _URL):
            return f"write `{path[1]}: {{endpoints: [{', '.join(urls)}]}}`"
    known = ", ".join(keys_under(path))
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return f"{_DASHES}: its keys ({known}) stand directly below it"
    return f"its keys are {known}" if known else ""


def as_list(path: KeyPath, document: Document) -> str:
    """Return how to write what stands at `path`, where a list belongs."""
    value, key = _at(document.data, path), path[-1]
    if path == ("pull_secrets",) and isinstance(value, dict):
        return "logins are files: write `pull_secrets: [FILE]`, and the entries for hosts into that file"
    if isinstance(value, str):
        known = _FILE if key in ("ca", "pull_secrets") else _URL if key == "endpoints" else None
        return f"write `{key}: [{value}]`" if known and known.fullmatch(value) else "write it in brackets: [...]"
    if not isinstance(value, dict) or not value:
        return ""
    known_keys = keys_under(path)
    if value.keys() & set(known_keys):
        return f"write `- ` before its first key, or brackets around it: `{key}: [{{…}}]`"
    if path == ("clients", "rules") and _all(list(value), _NAME):
        first = next(iter(value))
        return f"write `- {{who: {first}, repositories: […], may: […]}}` in place of `{first}: …`, a line for each"
    return f"write `- ` and a mapping of {', '.join(known_keys)}" if known_keys else f"write `{key}: [VALUE, …]`"


def _upstreams(value: Any) -> str:
    words = value.replace(",", " ").split() if isinstance(value, str) and "." in value else value
    if not isinstance(words, list):
        return "write a line `quay.io: {}` for each"
    names = [_name(one) for one in words]
    if not _all(names, _NAME):
        return f"{_DASHES}: write a line `quay.io: {{}}` for each"
    if all(isinstance(one, str) or not any(one.values()) for one in words):
        return f"write `upstreams: {{{', '.join(f'{name}: {{}}' for name in names)}}}`"
    lines = ", ".join(f"`{name}:`" for name in names)
    return f"{_DASHES}: write {lines} directly below `upstreams:`, with the keys of each below it"


def _name(entry: Any) -> Any:
    """Return what an item of a list of upstreams is called: itself, its only or first key, or what it says."""
    if not isinstance(entry, dict):
        return entry
    return entry["name"] if "name" in entry else next(iter(entry), None)


def _pairs(value: Any) -> Iterator[tuple[str, str]]:
    """Yield what a list of mappings says, as far as all of it may be repeated."""
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        pairs = [pair for one in value for pair in one.items()]
        if all(_all(pair, _NAME) and "/" in pair[1] for pair in pairs) and not {"from", "to"} & {
            one for one, _ in pairs
        }:
            yield from pairs


def _all(values: Any, form: re.Pattern[str]) -> bool:
    """Tell whether there are values, and each is a text of a form."""
    if not isinstance(values, Iterable) or isinstance(values, str | dict):
        return False
    found = list(values)
    return bool(found) and all(isinstance(one, str) and form.fullmatch(one) for one in found)


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data
