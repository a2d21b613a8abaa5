"""Files that people give to `mirror load` and that another command takes: what they are, and which one that is."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from pathlib import Path
from typing import NamedTuple

from mirror.errors import InvalidRequest
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec

HEAD = 33 * 1024  # bytes that tell: an ISO 9660 image does so behind 32 KiB
TAKES = (
    "give the folder that `mirror save` wrote, parts from it, or an archive of images; `mirror load --help` names them"
)

_TEXT = 4096  # bytes of a text that tell
_KIND = re.compile(rb'"kind":\s*"(plan|inventory|missing)"')
_SUMS = re.compile(rb"\A(?:[0-9a-f]{64} [ *][^\n]+\n)")
_PACKED = ((b"PK\x03\x04", "a zip file"), (b"7z\xbc\xaf\x27\x1c", "a 7z file"), (b"Rar!\x1a\x07", "a rar file"))
_ISO = 32769, b"CD001"  # ECMA-119, 8.1: the identifier of the first volume descriptor
# What an image's folder holds beside its blobs: of an OCI layout, and as skopeo writes `dir:`.
_OF_A_FOLDER = frozenset({"oci-layout", "index.json", "manifest.json", "version"})
_IMAGE_SET = re.compile(rb"^kind:\s*[\"']?ImageSetConfiguration\b", re.MULTILINE)


class Mistaken(NamedTuple):
    """What a file is, as in "… is a plan", and which command takes it."""

    what: str
    remedy: str


def mistaken(path: Path, head: bytes) -> Mistaken | None:
    """Return what a file is by its first HEAD bytes; None where nothing is known of it."""
    if not head:
        return Mistaken("empty", "copy it again: nothing of it came along")
    if head[_ISO[0] :].startswith(_ISO[1]):
        return Mistaken("an image of a disc", f"mount it, e.g. `mount -o ro,loop {path} /mnt`, and load from there")
    for magic, name in _PACKED:
        if head.startswith(magic):
            return Mistaken(name, "unpack it, and load what was in it")
    if path.name in _OF_A_FOLDER:
        return Mistaken("only one file of an image's folder", f"load the folder: `mirror load {path.parent}`")
    return _text(path, head[:_TEXT])


def _text(path: Path, head: bytes) -> Mistaken | None:
    if head.lstrip()[:1] == b"{":
        kind = _KIND.search(head)
        if kind is not None:
            return _of_ours(path, kind[1])
        if b'"auths"' in head:
            return Mistaken("a pull secret", "name it as `pull_secrets` in mirror.yaml")
    if _IMAGE_SET.search(head):
        return Mistaken("an image set, which names images and holds none", f"fetch it with `mirror sync {path}`")
    if _SUMS.match(head):
        what = "a list of checksums, which names files and holds none"
        return Mistaken(what, f"load the folder that they lie in: `mirror load {path.parent}`")
    first = _first_line(head)
    if _is_digest(first):
        return _of_ours(path, b"missing")
    if _is_pullspec(first.partition("=")[0]):
        return Mistaken("a list of images, which holds none of them", f"fetch them with `mirror sync {path}`")
    return Mistaken("a text file, which holds no content", TAKES) if _is_text(head) else None


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


def _is_text(head: bytes) -> bool:
    """Tell whether bytes begin a text in UTF-8; where they break off does not matter."""
    try:
        return getincrementaldecoder("utf-8")().decode(head).replace("\n", "").replace("\t", "").isprintable()
    except UnicodeDecodeError:
        return False


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
