"""What a command does beside its work: what it brings is in the index when it ends, and on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mirror.cli import desk
from mirror.cli.outcome import Outcome
from mirror.config import load
from mirror.oci.digest import Digest
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.quarantine import Quarantine

CONTENT = Digest.of(b"brought")


def rows(root: Path) -> int:
    layout = Layout(root)
    index = Index(layout, Quarantine(layout))
    try:
        return index.count()
    finally:
        index.close()


@pytest.mark.parametrize("on_the_way", [False, True])
def test_what_a_command_brings_is_in_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_the_way: bool
) -> None:
    store = tmp_path / "store"
    (tmp_path / "mirror.yaml").write_text(f"storage: {{path: {store}}}\n")
    monkeypatch.setattr(desk, "_FLUSH_EVERY", 0.01 if on_the_way else 3600.0)

    async def bring(at: desk.Desk) -> None:
        at.opened.index.note(CONTENT, 7)
        while on_the_way and not await asyncio.to_thread(rows, store):
            await asyncio.sleep(0.01)

    assert desk.run(load(tmp_path / "mirror.yaml"), Outcome("load", as_json=False), bring, begins=True) == 0
    assert rows(store) == 1
