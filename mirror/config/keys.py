"""Every key that mirror.yaml has, read off the model: for hints, and for the tests that hold the documentation."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Any

from mirror.config.fields import Section
from mirror.config.model import Config

# Stands for the keys that people choose: those of upstreams.
ANY = "*"

Key = tuple[str, ...]


def walk_keys(section: type[Section] = Config, prefix: Key = ()) -> Iterator[Key]:
    """Yield every key as its path, sections before what is in them; `*` stands for the name of an upstream."""
    for name, field in section.model_fields.items():
        if field.exclude:
            continue
        path = (*prefix, name)
        yield path
        nested = _section_in(field.annotation)
        if nested is not None:
            yield from walk_keys(nested, (*path, ANY) if _is_mapping(field.annotation) else path)


def keys_under(path: tuple[str | int, ...]) -> list[str]:
    """Return the keys that the section at `path` of a file has; none where no section is."""
    section = tuple(
        ANY if index == 1 and path[0] == "upstreams" else part
        for index, part in enumerate(path)
        if not isinstance(part, int)  # a place in a list
    )
    return [key[-1] for key in walk_keys() if key[:-1] == section]


def sections_with(name: str) -> list[str]:
    """Return the sections, dotted, that have a key of this name; the top level is ''."""
    return [".".join(key[:-1]).replace(ANY, "<upstream>") for key in walk_keys() if key[-1] == name]


def _section_in(annotation: Any) -> type[Section] | None:
    for option in (annotation, *typing.get_args(annotation)):
        if isinstance(option, type) and issubclass(option, Section):
            return option
    return None


def _is_mapping(annotation: Any) -> bool:
    return typing.get_origin(annotation) is Mapping
