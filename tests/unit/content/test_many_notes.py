"""However many uploads idle and downloads were left behind: a miss looks at its own files, and at none of theirs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.content.answers import Target
from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room, read

MIB = 1 << 20
LAB = Target("lab", "team/app", "lab/team/app")


class Looks:
    """The paths that this process opens and the folders that it lists, in a store's ingest/ and uploads/."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.listed: list[str] = []
        self._folders: tuple[str, ...] = ()
        sys.addaudithook(self._hear)  # which cannot be taken away

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._folders or event not in ("open", "os.listdir", "os.scandir"):
            return
        path = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else ""
        if str(path).startswith(self._folders):
            (self.opened if event == "open" else self.listed).append(str(path))

    def begin(self, layout: Layout) -> None:
        self.opened, self.listed = [], []
        self._folders = (str(layout.ingest), str(layout.uploads))

    def end(self) -> None:
        self._folders = ()


HEARD = Looks()


@pytest.fixture
def looks() -> Iterator[Looks]:
    yield HEARD
    HEARD.end()


def idle_uploads(layout: Layout, count: int) -> None:
    note = {"name": "team/app", "algorithm": "sha256", "who": "ci", "started": 0.0, "size": 0, "boot": "today"}
    for _ in range(count):
        identity = str(uuid.uuid4())
        Path(layout.upload(identity)).touch()
        Path(layout.upload_note(identity)).write_text(json.dumps(note))


def left_downloads(layout: Layout, count: int) -> None:
    for number in range(count):
        digest = Digest("sha256", f"{number:064x}")
        Path(layout.part(digest)).touch()
        Path(layout.part_note(digest)).write_text('{"size": 1}')


def left_notes(layout: Layout, count: int) -> None:
    for number in range(count):
        Path(layout.part_note(Digest("sha256", f"{number:064x}"))).write_text('{"size": 1}')
        Path(layout.upload_note(str(uuid.uuid4()))).write_text('{"size": 0}')


KINDS = {"idle uploads": idle_uploads, "downloads left behind": left_downloads, "notes left behind": left_notes}


@pytest.mark.parametrize("leave", KINDS.values(), ids=KINDS)
async def test_a_miss_looks_at_its_own_files_only(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, looks: Looks, leave: Callable[[Layout, int], None]
) -> None:
    room = make_room()
    await asyncio.to_thread(leave, room.layout, 300)
    await asyncio.to_thread(room.space.recount_if_old)  # as a service does before it is ready
    digest = Digest.parse(upstream.add_blob("team/app", os.urandom(MIB)))
    looks.begin(room.layout)
    answer = await room.content.blob(LAB, digest, None)
    assert len(await read(answer)) == MIB
    looks.end()
    assert answer.cache == "MISS"
    assert looks.listed == []
    assert looks.opened, "the audit hook hears"
    assert [path for path in looks.opened if digest.hex not in path] == []
