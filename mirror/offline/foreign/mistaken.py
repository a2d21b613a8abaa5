"""Files that people give to `mirror load` and that another command takes: what they are, and which one that is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from mirror.errors import InvalidRequest
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec

HEAD = 4096  # bytes that tell

_KIND = re.compile(rb'"kind":\s*"(plan|inventory|missing)"')
_IMAGE_SET = re.compile(rb"^kind:\s*[\"']?ImageSetConfiguration\b", re.MULTILINE)


class Mistaken(NamedTuple):
    """What a file is, as in "… is a plan", and which command takes it."""

    what: str
    remedy: str


def mistaken(path: Path, head: bytes) -> Mistaken | None:
    """Return what a file is by its first HEAD bytes; None where nothing is known of it."""
    if head.lstrip()[:1] == b"{":
        kind = _KIND.search(head)
        if kind is not None:
            return _of_ours(path, kind[1])
        if b'"auths"' in head:
            return Mistaken("a pull secret", "name it as `pull_secrets` in mirror.yaml")
        return None
    if _IMAGE_SET.search(head):
        return Mistaken("an image set, which names images and holds none", f"fetch it with `mirror sync {path}`")
    first = _first_line(head)
    if _is_digest(first):
        return _of_ours(path, b"missing")
    if _is_pullspec(first.partition("=")[0]):
        return Mistaken("a list of images, which holds none of them", f"fetch them with `mirror sync {path}`")
    return None


def _of_ours(path: Path, kind: bytes) -> Mistaken:
    if kind == b"plan":
        return Mistaken("a plan, which names content and holds none", f"fetch it with `mirror sync {path}`")
    if kind == b"inventory":
        what = "an inventory, which names content and holds none"
        return Mistaken(what, f"have the other side save what it lacks: `mirror save SET --to DIR --have {path}`")
    what = "a list of digests, which names content and holds none"
    return Mistaken(what, f"have the other side save what it lists: `mirror save SET --to DIR --want {path}`")


def _first_line(head: bytes) -> str:
    """Return the first line of a text that says anything; empty for what is no text."""
    if b"\0" in head:
        return ""
    lines = (line.partition("#")[0].strip() for line in head.decode("utf-8", "replace").splitlines())
    return next(filter(None, lines), "")


def _is_digest(text: str) -> bool:
    try:
        return bool(Digest.parse(text))
    except InvalidRequest:
        return False


def _is_pullspec(text: str) -> bool:
    try:
        found = Pullspec.parse(text)
    except InvalidRequest:
        return False
    return bool(found.tag or found.digest)
