"""Random walks over what pushes, deletions and garbage collection do to a store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.faults.hurry import without_system_authorities
from tests.model.collecting import Collecting
from tests.model.walking import LIMIT, walk


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    without_system_authorities(monkeypatch)
    with structlog.testing.capture_logs():
        yield


@LIMIT
def test_garbage_collection() -> None:
    walk(Collecting, walks=15, steps=30)
