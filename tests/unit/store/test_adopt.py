"""What earlier releases noted of repositories is taken over, as far as it can be read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mirror.errors import StoreUnreadable
from mirror.oci.digest import Digest
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
    shutil.rmtree(made.brought)
    made.brought.mkdir()
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
