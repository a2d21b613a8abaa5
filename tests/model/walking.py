"""What every machine of rules is made of: a loop, a folder, a journal of what was done, and how far it walks.

MODEL=5000 takes the long way, for a night: so many walks of a hundred steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

Result = TypeVar("Result")

WALKS = int(os.environ.get("MODEL", "0"))
LIMIT = pytest.mark.timeout(36_000 if WALKS else 300)
_LONGEST = 60  # seconds of one step
_TOLD = 40  # the steps before what went wrong


def walk(machine: type[Walk], *, walks: int, steps: int) -> None:
    """Let the machine take so many walks of so many steps, or those that MODEL asks for."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=WALKS or walks,
            stateful_step_count=100 if WALKS else steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Threads and sockets are real, so a walk is not the same twice: no use in shrinking it.
            phases=(Phase.generate,),
            database=None,
            report_multiple_bugs=False,
        ),
    )


def step(**draws: Any) -> Callable[[Callable[..., None]], Any]:
    """As `rule`, and write down what was done: a second run may not show what went wrong, for time is real here."""

    def wrap(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def run(self: Walk, **drawn: Any) -> None:
            self.journal.append(f"{function.__name__}({', '.join(f'{k}={v!r}' for k, v in drawn.items())})")
            with self.explained():
                function(self, **drawn)

        return rule(**draws)(run)

    return wrap


class Walk(RuleBasedStateMachine):
    """A machine whose rules are steps."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="model-"))
        self.journal: list[str] = []

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Say with an error what was done before it."""
        try:
            yield
        except Exception as error:
            error.add_note("\n".join([f"after {len(self.journal)} steps:", *self.journal[-_TOLD:]]))
            raise

    def do(self, work: Awaitable[Result]) -> Result:
        """Run something of the loop to its end."""

        async def bounded() -> Result:
            async with asyncio.timeout(_LONGEST):
                return await work

        return self.loop.run_until_complete(bounded())

    def leave(self) -> None:
        """Take away the loop and the folder: the last of a teardown."""
        self.do(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)
