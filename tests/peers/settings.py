"""The smallest configuration that leads to a peer, and the clients it makes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from mirror.config import Config, UpstreamConfig
from mirror.metrics import Metrics
from mirror.upstream.client import UpstreamClient
from mirror.upstream.factory import open_upstreams


def upstream(*endpoints: str, name: str = "peer", **more: Any) -> UpstreamConfig:
    """Return what a configuration says of one upstream; `more` are further keys of it."""
    return UpstreamConfig(name=name, endpoints=endpoints, plain_http=True, **more)


def config(*upstreams: UpstreamConfig, **more: Any) -> Config:
    """Return a configuration with these upstreams."""
    return Config.model_validate({"upstreams": {one.name: one for one in upstreams}, **more})


@contextlib.asynccontextmanager
async def client_of(
    *endpoints: str,
    general: Mapping[str, Any] | None = None,
    metrics: Metrics | None = None,
    environ: Mapping[str, str] | None = None,
    **more: Any,
) -> AsyncIterator[UpstreamClient]:
    """Yield the client of one upstream with these endpoints; `more` are further keys of it, `general` of the whole."""
    opened = open_upstreams(config(upstream(*endpoints, **more), **(general or {})), metrics, environ or {})
    try:
        yield opened["peer"]
    finally:
        await opened.close()
