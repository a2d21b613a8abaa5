"""What the scripted registry serves and sends: repositories, requests as they came, answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.peers import faults


@dataclass
class Recorded:
    """One request as it came, and how many bytes of body were sent for it."""

    kind: str
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = b""
    status: int = 0
    sent: int = 0

    @property
    def target(self) -> str:
        """The request target: path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path


@dataclass
class Repository:
    """What is served under one name: manifests by digest, tags, blobs, referrers by subject."""

    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    referrers: dict[str, list[dict[str, object]]] = field(default_factory=dict)


@dataclass
class Answer:
    """Status, headers and body, before a fault changes them."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | memoryview

    def set(self, name: str, value: str) -> None:
        """Set a header; an empty value removes it."""
        self.headers = [pair for pair in self.headers if pair[0].lower() != name.lower()]
        if value:
            self.headers.append((name, value))


def error(status: int, code: str, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    """Return an OCI error body."""
    body = json.dumps({"errors": [{"code": code, "message": code.lower(), "detail": {}}]}).encode()
    return Answer(status, [("Content-Type", "application/json"), *headers], body)


def ranged(content: bytes, record: Recorded, fault: faults.Fault | None) -> Answer:
    """Return the blob, or the part of it that the request asks for."""
    headers = [("Content-Type", "application/octet-stream"), ("Accept-Ranges", "bytes")]
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", record.headers.get("range", ""))
    if wanted is None or isinstance(fault, faults.IgnoreRange):
        return Answer(200, headers, content)
    first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    if first >= len(content):
        return Answer(416, [("Content-Range", f"bytes */{len(content)}")], b"")
    value = f"bytes {first}-{last}/{len(content)}"
    if isinstance(fault, faults.WrongContentRange):
        value = fault.value or f"bytes {first + 1}-{last}/{len(content)}"
    return Answer(206, [*headers, ("Content-Range", value)], memoryview(content)[first : last + 1])
