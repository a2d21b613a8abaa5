"""Random walks over everything that can happen to a store, against a small model of what may come of it.

MODEL=5000 takes the long way, for a night: so many walks of a hundred steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.hurry import hurry, without_system_authorities
from tests.model.machine import PullPath

WALKS = int(os.environ.get("MODEL", "0"))


@pytest.fixture(autouse=True)
def quick_and_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    hurry(monkeypatch, 0.25)
    without_system_authorities(monkeypatch)
    with structlog.testing.capture_logs():
        yield


@pytest.mark.timeout(36_000 if WALKS else 300)
def test_pull_path() -> None:
    run_state_machine_as_test(
        PullPath,
        settings=settings(
            max_examples=WALKS or 30,
            stateful_step_count=100 if WALKS else 30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Threads and sockets are real, so a walk is not the same twice: no use in shrinking it.
            phases=(Phase.generate,),
            database=None,
            report_multiple_bugs=False,
        ),
    )
