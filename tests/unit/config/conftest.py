"""A configuration file in a directory of the test's own, read or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.config import Config, load
from mirror.errors import ConfigurationError, Problem


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str | bytes], Config]:
    """Return what a file with this text says."""

    def read_text(text: str | bytes) -> Config:
        path = tmp_path / "mirror.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load(path)

    return read_text


@pytest.fixture
def refused(read: Callable[[str | bytes], Config]) -> Callable[[str | bytes], list[Problem]]:
    """Return the problems of a file with this text, which must have some."""

    def read_problems(text: str | bytes) -> list[Problem]:
        with pytest.raises(ConfigurationError) as raised:
            read(text)
        assert raised.value.__cause__ is None
        return raised.value.problems

    return read_problems
