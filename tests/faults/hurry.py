"""The deadlines of the pull path, cut short in the same order as they are."""

from __future__ import annotations

import ssl

import pytest

from mirror.content import blobs, fetch, fill, manifests, pull, referrers, tags, through
from mirror.upstream import body, endpoints, login, pauses, retry, token_service, transport


def hurry(patch: pytest.MonkeyPatch, patience: float = 1.0) -> None:
    """Let a client's patience (18 s) be `patience` seconds, and everything else in proportion."""
    for module in (fetch, blobs, manifests, tags, referrers):
        patch.setattr(module, "CLIENT_PATIENCE", patience)
    for module in (fill, pull, through):
        patch.setattr(module, "PROGRESS_LIMIT", 1.5 * patience)
    patch.setattr(tags, "_KNOWN_PATIENCE", 0.4 * patience)
    patch.setattr(body, "STALL_SECONDS", 0.4 * patience)
    patch.setattr(body, "CRAWL_SECONDS", 0.5 * patience)
    for module in (login, token_service):
        patch.setattr(module, "TOKEN_SECONDS", 0.5 * patience)
    patch.setattr(transport, "CONNECT_SECONDS", 0.3 * patience)
    patch.setattr(pauses, "_FIRST", 0.05 * patience)
    patch.setattr(endpoints.ask_in_order, "__defaults__", (0.2 * patience,))
    patch.setattr(retry.Retry, "_pause", lambda self, number, wished: 0.02 * patience + wished)


def without_system_authorities(patch: pytest.MonkeyPatch) -> None:
    """Load none of the system's: that costs more than a whole test, and no peer here shows a certificate of theirs."""
    patch.setattr(ssl.SSLContext, "set_default_verify_paths", lambda self: None)
