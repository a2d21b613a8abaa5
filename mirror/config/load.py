"""From a file to a Config, or to everything that is wrong with it at once."""

from __future__ import annotations

import copy
from collections.abc import Container
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mirror.config.contradictions import find_contradictions
from mirror.config.document import Document, KeyPath, dotted, read
from mirror.config.model import Config, Source
from mirror.config.problems import translate, unknown_key
from mirror.errors import ConfigurationError, Problem

_ROUNDS = 4


def load(path: Path) -> Config:
    """Return what the file at `path` says, with relative paths resolved against its directory.

    Raise ConfigurationError with every problem found, each with `file:line`. Reads this one file and nothing that it
    names: whether those files are there and good is what `mirror check` finds.
    """
    document = read(path)
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        problem = Problem("wrong_type", "this is not a mapping", f"{path}:1", "write lines of `key: value`, or nothing")
        raise ConfigurationError([*document.problems, problem])
    data, problems = _name_upstreams(data, document)
    problems = [*document.problems, *problems]
    # Symbolic links are left alone: a mounted ConfigMap's file is one, and what it names lies beside the link.
    context = {"base": path.absolute().parent}
    wrong: list[KeyPath] = []
    config: Config | None
    try:
        config = Config.model_validate(data, context=context)
    except ValidationError as error:
        found, wrong = translate(error, document)
        problems += found
        config, wrong = _validate_rest(data, wrong, document, context)
    problems += _contradictions(config, data, wrong, document)
    if problems or config is None:
        raise ConfigurationError(sorted(problems, key=_line))
    lines = {key: spot.line for key, spot in document.spots.items()}
    return config.read_from(Source(path, lines))


def _name_upstreams(data: dict[str, Any], document: Document) -> tuple[dict[str, Any], list[Problem]]:
    """Return the data with each upstream told its key, and the problems of those that state a `name` themselves."""
    upstreams = data.get("upstreams")
    if not isinstance(upstreams, dict):
        return data, []
    named: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, entry in upstreams.items():
        entry = {} if entry is None else entry
        if isinstance(entry, dict):
            if "name" in entry:
                problems.append(unknown_key(("upstreams", key, "name"), document))
            entry = {**entry, "name": key}
        named[key] = entry
    return {**data, "upstreams": named}, problems


def _validate_rest(
    data: dict[str, Any], wrong: list[KeyPath], document: Document, context: dict[str, Any]
) -> tuple[Config | None, list[KeyPath]]:
    """Return what the file says without the values that are wrong, so that contradictions in the rest are found too.

    Returned with it are the paths that were left out.
    """
    rest = copy.deepcopy(data)
    removed = list(wrong)
    # A list whose every item is wrong is wrong itself in the next round; more rounds than levels are never needed.
    for _ in range(_ROUNDS):
        # From the back, so that the places of a list's items stay what they were.
        for path in sorted(wrong, key=str, reverse=True):
            _remove(rest, path)
        try:
            return Config.model_validate(rest, context=context), removed
        except ValidationError as error:
            wrong = translate(error, document)[1]
            removed += wrong
    return None, removed


def _remove(data: Any, path: KeyPath) -> None:
    for part in path[:-1]:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return
    if path and isinstance(data, dict):
        data.pop(path[-1], None)
    elif path and isinstance(data, list) and isinstance(path[-1], int) and path[-1] < len(data):
        del data[path[-1]]


def _contradictions(
    config: Config | None, data: dict[str, Any], wrong: list[KeyPath], document: Document
) -> list[Problem]:
    if config is None:
        return []
    source = Source(document.path, {key: spot.line for key, spot in document.spots.items()})
    upstreams = data.get("upstreams")
    keys: Container[str] = upstreams if isinstance(upstreams, dict) else ()
    if upstreams is not None and not isinstance(upstreams, dict):
        # Which upstreams were meant is unknown, so nothing can be said about names that lead to them.
        keys = _Everything()
    return [
        Problem(found.code, f"`{dotted(found.path)}`: {found.what}", source.where(*found.path), found.remedy)
        for found in find_contradictions(config, keys)
        if not any(found.path[: len(path)] == path for path in wrong)
    ]


class _Everything:
    def __contains__(self, key: object) -> bool:
        return True


def _line(problem: Problem) -> int:
    line = problem.where.rpartition(":")[2]
    return int(line) if line.isdigit() else 0
