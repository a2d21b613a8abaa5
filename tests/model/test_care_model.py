"""Random walks over what pulls, pushes, pins, purges, evictions, garbage collection and scrubs do to a store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.faults.hurry import without_system_authorities
from tests.model.keeping import Keeping
from tests.model.walking import LIMIT, walk


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    without_system_authorities(monkeypatch)
    with structlog.testing.capture_logs():
        yield


@LIMIT
def test_what_is_live_stays() -> None:
    walk(Keeping, walks=12, steps=25)
