"""Random walks over what pulls, pushes, pins, purges, evictions, garbage collection and scrubs do to a store.

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
from tests.model.keeping import Keeping

WALKS = int(os.environ.get("MODEL", "0"))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    without_system_authorities(monkeypatch)
    with structlog.testing.capture_logs():
        yield


@pytest.mark.timeout(36_000 if WALKS else 300)
def test_what_is_live_stays() -> None:
    run_state_machine_as_test(
        Keeping,
        settings=settings(
            max_examples=WALKS or 12,
            stateful_step_count=100 if WALKS else 25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Threads and sockets are real, so a walk is not the same twice: no use in shrinking it.
            phases=(Phase.generate,),
            database=None,
            report_multiple_bugs=False,
        ),
    )
