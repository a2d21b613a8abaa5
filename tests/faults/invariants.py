"""What must hold of a store whatever happened to it (faults.md 5: I1, I3, I4)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.ingest import PartNote
from mirror.store.layout import Layout

Lookup = Callable[[str], bytes | None]


def broken(layout: Layout, truth: Lookup | None = None) -> list[str]:
    """Return what is wrong with a store, a sentence each.

    `truth` returns the bytes that a digest really names, or None where the caller does not know them: then what is
    under way is not compared.
    """
    return [
        *sealed_files_hash_to_their_names(layout),
        *tags_name_what_is_a_manifest(layout),
        *downloads_can_go_on(layout, truth or (lambda _: None)),
    ]


def contents(layout: Layout) -> dict[str, bool]:
    """Return the digests that have a file under blobs/, and whether each is sealed."""
    return {
        f"{path.parent.name}:{path.name}": files.is_sealed(os.lstat(path)) for path in sorted(layout.blobs.glob("*/*"))
    }


def sealed_files_hash_to_their_names(layout: Layout) -> list[str]:
    """I1: what is sealed is served without being looked at again."""
    wrong = []
    for path in sorted(layout.blobs.glob("*/*")):
        if path.is_symlink() or not files.is_sealed(os.lstat(path)):
            continue
        if hashlib.new(path.parent.name, path.read_bytes()).hexdigest() != path.name:
            wrong.append(f"{path.name} is sealed and has other bytes")
    return wrong


def tags_name_what_is_a_manifest(layout: Layout) -> list[str]:
    """I3: a tag was written after its manifest was durable, with the manifest's row."""
    wrong = []
    for path in sorted(layout.repositories.glob("**/_tags/*")):
        if path.name.endswith("~"):
            continue
        digest = Digest.parse(json.loads(path.read_bytes())["digest"])
        name = str(path.parent.parent.relative_to(layout.repositories))
        if not os.path.exists(layout.manifest(name, digest)):
            wrong.append(f"{name}:{path.name} names {digest}, which is no manifest there")
    return wrong


def downloads_can_go_on(layout: Layout, truth: Lookup) -> list[str]:
    """I4: what is in ingest/ is a true beginning of what it is called, with a note that says how it goes on."""
    wrong = []
    for path in sorted(layout.ingest.glob("*.part")):
        algorithm, _, encoded = path.stem.partition("-")
        content, expected = _read(path), truth(f"{algorithm}:{encoded}")
        if content is None:
            continue  # committed between the two looks
        if expected is not None and not expected.startswith(content):
            wrong.append(f"{path.name} is no beginning of its content")
        note = PartNote.parse(_read(path.with_suffix(".json")))
        if content and note is None and path.exists():
            wrong.append(f"{path.name} has {len(content)} bytes and no note")
        if note is not None and note.size is not None and len(content) > note.size:
            wrong.append(f"{path.name} has {len(content)} bytes of {note.size}")
    return wrong


def leftovers(layout: Layout) -> list[str]:
    """Return what is in ingest/."""
    return sorted(os.listdir(layout.ingest))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
