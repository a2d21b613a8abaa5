"""Files to be sent, and whoever stops to read them."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from mirror.content.readers import WholeFile
from mirror.store import files
from mirror.store.files import PageCache
from mirror.store.threads import Threads


async def test_a_file_is_not_closed_while_a_thread_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number goes to the next file that is opened: what was read there was taken for a fault of the disk."""
    path = tmp_path / "blob"
    path.write_bytes(b"x")
    begun, go_on = threading.Event(), threading.Event()

    def read_slowly(_fd: int, _start: int, _stop: int) -> None:
        begun.set()
        go_on.wait(10)

    monkeypatch.setattr(files, "read_ahead", read_slowly)
    monkeypatch.setattr(PageCache, "resident", lambda *_: False)
    threads = Threads("readers", 1)
    file = WholeFile(os.open(path, os.O_RDONLY), 1, PageCache(), threads)
    loading = asyncio.create_task(file.load(0, 1))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    loading.cancel()
    await asyncio.sleep(0.05)
    assert not loading.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await loading
    file.close()
    threads.close()
