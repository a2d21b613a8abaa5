"""Random walks over everything that can happen to a store, against a small model of what may come of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.faults.hurry import hurry, without_system_authorities
from tests.model.pulling import PullPath
from tests.model.walking import LIMIT, walk


@pytest.fixture(autouse=True)
def quick_and_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    hurry(monkeypatch, 0.25)
    without_system_authorities(monkeypatch)
    with structlog.testing.capture_logs():
        yield


@LIMIT
def test_pull_path() -> None:
    walk(PullPath, walks=30, steps=30)
