"""What the tests of commands share: commands set up the logs of their process, which is the tests' own here."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from mirror import logs


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Undo what a command has done to the logs: a later test's loop would wait for standard error."""
    yield
    structlog.reset_defaults()
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if type(handler).__module__ != logs.__name__]
