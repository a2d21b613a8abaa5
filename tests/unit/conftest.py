"""What every test of this process gets: a ledger of faults of the disk that holds none of another test's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mirror.store.faults import DISK_FAULTS


@pytest.fixture(autouse=True)
def forgotten_faults() -> Iterator[None]:
    yield
    for row in iter(DISK_FAULTS.told, []):
        for one in row:
            DISK_FAULTS.over(one["operation"], one["path"])
