"""Service processes that take pushes, forked by the dozen as those of the nursery.

with PushNursery() as nursery:
    child = await nursery.spawn(tmp_path, {})
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.faults import nursery
from tests.unit.content.push_bed import pushing

_ROOT = Path(__file__).parents[2]


class PushNursery(nursery.Nursery):
    """The process that forks registries which anybody may push to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.push_service"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            text=True,
        )
        self._children = {}
        self._count = 0


# -- in the process that forks


async def _serve(asked: dict[str, Any], writer: int) -> None:
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    async with pushing(Path(asked["folder"])) as (face, _):
        os.write(writer, f"{face.port}\n".encode())
        os.close(writer)
        await leaving.wait()


if __name__ == "__main__":
    nursery._serve = _serve
    nursery._main()
