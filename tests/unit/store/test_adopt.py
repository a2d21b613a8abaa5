"""What earlier releases noted of repositories is taken over, as far as it can be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.adopt import adopt, adopt_all
from mirror.store.brought import Brought
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.probe import prepare

NAMES = ("lab/a", "lab/b", "lab/c")
DIGESTS = tuple(Digest.of(bytes([number])) for number in range(4))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return a store in which three repositories have four blobs each, as an earlier release noted it."""
    made = Layout(tmp_path)
    prepare(made)
    rows = Manifests(made)
    for name in NAMES:
        for digest in DIGESTS:
            rows.add_pushed(name, digest, 1)
            path = Path(made.membership(name, digest))
            path.write_bytes(path.read_bytes().replace(b', "brought": true', b""))
    return made


def barred(path: str) -> None:
    """Have a file or folder that cannot be read: a link in its place is not followed."""
    os.rename(path, f"{path}-away")
    os.symlink(f"{path}-away", path)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_cannot_be_read_counts_and_holds_up_nothing(layout: Layout, name: str) -> None:
    barred(layout.membership(name, DIGESTS[1]))
    assert sum(adopt(layout)) == len(NAMES) * len(DIGESTS)
    brought = Brought(layout)
    assert brought.is_complete
    assert [sorted(brought.by(digest)[0]) for digest in DIGESTS] == [list(NAMES)] * len(DIGESTS)


def test_a_note_that_cannot_be_read_holds_up_that_alone(layout: Layout) -> None:
    adopt_all(layout)
    brought = Brought(layout)
    path = layout.bringers(DIGESTS[0])
    for digest in DIGESTS[1:]:
        os.unlink(layout.bringers(digest))
    brought.begin_anew()
    barred(path)
    with pytest.raises(StoreUnreadable):
        adopt_all(layout)
    assert not brought.is_complete, "nobody knows who brought that one"
    assert [sorted(brought.by(digest)[0]) for digest in DIGESTS[1:]] == [list(NAMES)] * 3
    os.rename(f"{path}-away", path)
    adopt_all(layout)
    assert brought.is_complete
    assert sorted(brought.by(DIGESTS[0])[0]) == list(NAMES)


def test_nobody_notes_who_brings_what_before_it_is_asked_for(layout: Layout) -> None:
    """Where everybody may pull everything; what came by then is taken over when a rule comes."""
    brought, rows = Brought(layout), Manifests(layout)
    new = Digest.of(b"new")
    rows.add_pushed(NAMES[0], new, 1)
    assert not layout.brought.exists()
    adopt_all(layout)
    rows.add_pushed(NAMES[1], new, 1)
    assert brought.by(new) == ([NAMES[0], NAMES[1]], True)


@pytest.mark.parametrize("when", ["before the row", "after the row"])
def test_who_brings_something_as_it_begins_to_be_noted_is_not_missed(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Whoever takes over what came before passes either after the row, or before the writer looks again."""
    new, real = Digest.of(b"new"), files.write_atomically

    def write(path: str, content: bytes, **options: Any) -> None:
        mine = path == layout.membership(NAMES[0], new)
        monkeypatch.setattr(files, "write_atomically", real) if mine else None
        if mine and when == "before the row":
            adopt_all(layout)
        real(path, content, **options)
        if mine and when == "after the row":
            adopt_all(layout)

    monkeypatch.setattr(files, "write_atomically", write)
    Manifests(layout).add_pushed(NAMES[0], new, 1)
    assert Brought(layout).is_complete
    assert Brought(layout).by(new) == ([NAMES[0]], True)


def test_what_was_taken_over_before_it_was_kept_does_not_count(layout: Layout) -> None:
    brought = Brought(layout)
    brought.complete()
    assert (brought.is_complete, brought.completed) == (False, 0)
    adopt_all(layout)
    assert brought.is_complete
    assert sorted(brought.by(DIGESTS[0])[0]) == list(NAMES)
