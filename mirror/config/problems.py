"""What pydantic found, in the words and with the lines of the person who wrote the file."""

from __future__ import annotations

import difflib

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mirror.config.document import Document, KeyPath, dotted
from mirror.config.keys import keys_under, sections_with
from mirror.config.shapes import as_list, as_mapping, as_value
from mirror.config.values import SpellingError, quote
from mirror.errors import Problem

# Keys that people bring from other tools, or from hope, and what stands for them here.
_REMEDIES = {
    "password": "secrets are files: write the password to a file and name it with `password_file`",
    "token": "secrets are files: write the token to a file and name it with `password_file`",
    "auth": "use `credentials: {username, password_file}`, or a file of `pull_secrets`",
    "insecure": "certificates are always verified: give `ca`, or an http:// endpoint",
    "skip_verify": "certificates are always verified: give `ca`, or an http:// endpoint",
    "tls_verify": "certificates are always verified: give `ca`, or an http:// endpoint",
    "url": "write `endpoints: [https://host[:port]]`",
    "remoteurl": "write `upstreams: {docker.io: {}}`",
    "mirrors": "write `endpoints`, in the order in which to try them",
    "ttl": "write `tags: {fresh_for: 5m}` at the upstream",
}
_MAPPING = "a mapping (lines of `key: value`)"
_SHAPES = ("a list", "a mapping")
_EXPECTED = {"model_type": _MAPPING, "dict_type": _MAPPING, "tuple_type": "a list"}


def translate(error: ValidationError, document: Document) -> tuple[list[Problem], list[KeyPath]]:
    """Return the problems of a file that did not validate, and the path of what is wrong in each."""
    problems: list[Problem] = []
    paths: list[KeyPath] = []
    for details in error.errors(include_url=False, include_input=False):
        path = _written(details["loc"], document)
        paths.append(path)
        problems.append(_describe(details, path, document))
    return problems, paths


def unknown_key(path: KeyPath, document: Document) -> Problem:
    """Return the problem of a key that mirror.yaml does not have, with the nearest one that it has."""
    key = str(path[-1])
    known = keys_under(path[:-1])
    near = difflib.get_close_matches(key, known, n=1)
    remedy = _REMEDIES.get(key, "")
    if near and not remedy:
        remedy = f"did you mean `{near[0]}`?"
    if not remedy and (places := sections_with(key)):
        remedy = f"it belongs under `{places[0]}`" if places[0] else "it belongs at the top level, without indentation"
    if not remedy:
        remedy = f"the keys here are {', '.join(known)}"
    return Problem("unknown_key", f"there is no key {quote(dotted(path))}", _where(path, document), remedy)


def _describe(details: ErrorDetails, path: KeyPath, document: Document) -> Problem:
    if details["type"] == "extra_forbidden":
        return unknown_key(path, document)
    where = _where(path, document)
    if details["type"] == "missing":
        key = str(details["loc"][-1])
        return Problem("missing_key", f"`{dotted(path)}` lacks the key `{key}`", where, f"add `{key}`")
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, SpellingError) and cause.code != "wrong_type":
        return Problem(cause.code, f"`{dotted(path)}`: {cause.what}", where, cause.remedy)
    expected = cause.what if isinstance(cause, SpellingError) else _EXPECTED.get(details["type"], "another type")
    return _wrong_type(expected, path, document)


def _wrong_type(expected: str, path: KeyPath, document: Document) -> Problem:
    spot = document.spots.get(path)
    kind = spot.kind if spot else "nothing"
    text = spot.text if spot else ""
    remedy = ""
    found = kind
    # Text is never shown here: it may be a password that stands in the wrong place.
    if text and kind not in ("text", "nothing") and "credentials" not in path:
        found = f"{kind} ({quote(text)})"
        if expected.startswith(("text", "one of")):
            remedy = f'put it in quotes: "{text[:40]}"'
    if expected == "a list":
        remedy = as_list(path, document)
    elif expected == _MAPPING:
        remedy = as_mapping(path, document)
    elif kind in _SHAPES:
        remedy = as_value(path, document)
    what = f"`{dotted(path)}`: expected {expected}, found {found}"
    return Problem("wrong_type", what, _where(path, document), remedy)


def _written(location: tuple[int | str, ...], document: Document) -> KeyPath:
    """Return the longest part of a location that stands in the file."""
    while location and location not in document.spots:
        location = location[:-1]
    return location


def _where(path: KeyPath, document: Document) -> str:
    spot = document.spots.get(path)
    return f"{document.path}:{spot.line}" if spot else str(document.path)
