"""How a value is written that has another shape, of a list, a mapping or neither, in its author's own words.

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
_ORIGIN = re.compile(r"https?://[A-Za-z0-9\[][A-Za-z0-9._:\]\[-]{0,127}/?")  # without a path, which may hold a token
_FILE = re.compile(r"(?:\.{0,2}/[A-Za-z0-9._/-]{1,200}|[A-Za-z0-9._-]{1,100}\.(?:json|pem|crt))")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}|unix:/[A-Za-z0-9._/-]{1,100}")
_HOST = re.compile(r"[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){1,9}(?::[0-9]{1,5})?")
# What is most likely meant where a section is given as one value of a form.
_MEANT = (("path", _FILE), ("listen", _ADDRESS))
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
    keys = keys_under(path)
    for key, form in _MEANT:
        if key in keys and (single := _single(value, form)):
            return f"write `{path[-1]}: {{{key}: {_quoted(single)}}}`"
    known = ", ".join(keys)
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


def as_value(path: KeyPath, document: Document) -> str:
    """Return how to write what stands at `path`, a list or a mapping where one value belongs."""
    value = _at(document.data, path)
    if not isinstance(value, list):
        return "write one value"
    single = next((one for form in (_FILE, _ORIGIN, _ADDRESS) if (one := _single(value, form))), "")
    if single and isinstance(path[-1], str) and "credentials" not in path:
        return f"write `{path[-1]}: {_quoted(single)}`"
    return "write one value, without brackets or dashes"


def _single(value: Any, form: re.Pattern[str]) -> str:
    """Return the one text of a form that a value is, or is a list of; empty if it is anything else."""
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    return one if isinstance(one, str) and form.fullmatch(one) else ""


def _quoted(text: str) -> str:
    """Return a value as YAML: in quotes where its bracket would begin a list."""
    return f'"{text}"' if text.startswith("[") else text


def _upstreams(value: Any) -> str:
    words = value.replace(",", " ").split() if isinstance(value, str) and "." in value else value
    if not isinstance(words, list):
        return "write a line `quay.io: {}` for each"
    names = [_name(one) for one in words]
    if not _all(names, _NAME):
        return f"{_DASHES}: write a line `quay.io: {{}}` for each"
    if all(isinstance(one, str) or not any(one.values()) or [*one.values()] == [_name(one)] for one in words):
        return f"write `upstreams: {{{', '.join(f'{name}: {{}}' for name in names)}}}`"
    lines = ", ".join(f"`{name}:`" for name in names)
    return f"{_DASHES}: write {lines} directly below `upstreams:`, with the keys of each below it"


def _name(entry: Any) -> Any:
    """Return what an item of a list of upstreams is called: itself, a host that it begins with, or its first key."""
    if not isinstance(entry, dict):
        return entry
    if "name" in entry:
        return entry["name"]
    first = next(iter(entry.items()), ())
    return next((one for one in first if isinstance(one, str) and _HOST.fullmatch(one)), next(iter(first), None))


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
