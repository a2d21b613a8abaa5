"""Random walks over what pushes, deletions and garbage collection do to a store.

MODEL=5000 takes the long way, for a night: so many walks of a hundred steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.hurry import without_system_authorities
from tests.model.collecting import Collecting

WALKS = int(os.environ.get("MODEL", "0"))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    without_system_authorities(monkeypatch)
    with structlog.testing.capture_logs():
        yield


@pytest.mark.timeout(36_000 if WALKS else 300)
def test_garbage_collection() -> None:
    run_state_machine_as_test(
        Collecting,
        settings=settings(
            max_examples=WALKS or 15,
            stateful_step_count=100 if WALKS else 30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Threads are real, so a walk is not the same twice: no use in shrinking it.
            phases=(Phase.generate,),
            database=None,
            report_multiple_bugs=False,
        ),
    )
