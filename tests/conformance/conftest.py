"""The mirrors and certificates of the tests with real clients, here too."""

from __future__ import annotations

from tests.clients.conftest import authority, make_mirror

__all__ = ["authority", "make_mirror"]
