"""The smallest configuration that leads to a peer, with the names of mirror.config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def upstream(*endpoints: str, name: str = "peer", **more: Any) -> SimpleNamespace:
    """Return what a configuration says of one upstream."""
    values: dict[str, Any] = {
        "name": name,
        "endpoints": endpoints,
        "plain_http": True,
        "ca": None,
        "client_certificate": None,
        "client_key": None,
        "proxy": None,
        "credentials": None,
        "auth_realms": (),
        "redirects": (),
    }
    return SimpleNamespace(**{**values, **more})


def credentials(username: str, password_file: Path) -> SimpleNamespace:
    """Return a login of an upstream."""
    return SimpleNamespace(username=username, password_file=password_file)


def config(*upstreams: SimpleNamespace, limits: Mapping[str, Any] | None = None, **more: Any) -> SimpleNamespace:
    """Return a configuration with these upstreams."""
    values: dict[str, Any] = {
        "ca": (),
        "proxy": None,
        "pull_secrets": (),
        "upstreams": {one.name: one for one in upstreams},
        "limits": SimpleNamespace(**{"fetches_per_upstream": 16, "manifest": 4 << 20, **(limits or {})}),
    }
    return SimpleNamespace(**{**values, **more})
