"""The detector of blocking calls catches what it is there for, and lets through what DESIGN allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from blockbuster import BlockingError

from mirror.store import files

_IMPORTS = "import asyncio, fcntl, os, time\nfrom mirror.store import files\n"


def _in_mirror(source: str) -> Callable[..., Any]:
    """Compile a function named `act` as if it stood in a module of mirror.*."""
    names: dict[str, Any] = {}
    exec(compile(_IMPORTS + source, files.__file__.replace("files.py", "pretended.py"), "exec"), names)
    return names["act"]


@pytest.mark.parametrize(
    "call",
    [
        "os.fsync(1)",
        "os.open('/etc', 0)",
        "os.listdir('/')",
        "time.sleep(0)",
        "fcntl.flock(1, fcntl.LOCK_EX)",
        "files.write_atomically('/nowhere/file', b'', durable=False)",
    ],
)
async def test_blocking_call_in_a_coroutine_of_mirror_fails(call: str) -> None:
    act = _in_mirror(f"async def act():\n    {call}\n")
    with pytest.raises(BlockingError):
        await act()


async def test_blocking_call_in_a_callback_fails() -> None:
    act = _in_mirror("def act(done):\n  try: os.fsync(1)\n  except Exception as error: done.set_exception(error)\n")
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(act, done)
    with pytest.raises(BlockingError):
        await done


async def test_listed_reads_and_threads_pass(tmp_path) -> None:
    act = _in_mirror(
        "async def act(path):\n"
        "  await asyncio.to_thread(files.write_atomically, path, b'kept', durable=True)\n"
        "  return files.modified(path) is not None and files.read_small(path, 10)\n"
    )
    assert await act(str(tmp_path / "file")) == b"kept"


async def test_a_test_may_lay_out_files_itself(tmp_path) -> None:
    files.write_atomically(str(tmp_path / "file"), b"kept", durable=True)
    assert (tmp_path / "file").read_bytes() == b"kept"
