"""Steering a scripted registry from another process, by requests under `/_scripted/`."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from typing import Any

from tests.peers import faults
from tests.peers.images import digest_of


async def control(registry: Any, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
    """Answer a request under `/_scripted/`, which steers a registry in another process."""
    asked = json.loads(body or b"{}")
    answer: object = {}
    if path == "/_scripted/requests":
        answer = [
            {key: getattr(one, key) for key in ("kind", "method", "path", "query", "headers", "status", "sent")}
            for one in registry.requests
        ]
    elif path == "/_scripted/fail":
        fault = getattr(faults, asked["fault"])(**asked.get("with", {}))
        registry.fail(asked["kind"], fault, asked.get("times", math.inf), asked.get("method", ""))
    elif path == "/_scripted/heal":
        registry.heal()
    elif path == "/_scripted/forget":
        registry.forget()
    elif path == "/_scripted/image":
        layers = [base64.b64decode(layer) for layer in asked.get("layers", [])]
        image = registry.add_image(asked["repository"], *asked["tags"], layers=layers, seed=asked.get("seed", 0))
        answer = {"digest": image.digest, "layers": [digest_of(layer) for layer in image.layers]}
    content = json.dumps(answer).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    await writer.drain()
