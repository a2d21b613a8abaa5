"""Whom a client certificate names."""

from __future__ import annotations

from typing import Any

import pytest

from mirror.registry.certificates import Certificates, name_in


def certificate(*common: str, **other: str) -> dict[str, Any]:
    return {
        "subject": ((("organizationName", "lab"),), *((("commonName", name),) for name in common)),
        "subjectAltName": tuple((kind.rstrip("_"), value) for kind, value in other.items()),
    }


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        (certificate("node7"), "node7"),
        (certificate("node7", DNS="node7.lab"), "node7"),
        (certificate(DNS="node7.lab"), "node7.lab"),
        (certificate(email="ci@lab"), "ci@lab"),
        (certificate(URI="spiffe://lab/ns/ci"), "spiffe://lab/ns/ci"),
        (certificate("system:node:worker-1"), "system:node:worker-1"),
        (certificate(DNS="a", email="b"), None),
        (certificate("a", "b"), None),
        (certificate(), None),
        (certificate("a\nb"), None),
        (certificate(" a"), None),
        (certificate("a" * 256), None),
        (certificate(""), None),
        ({}, None),
    ],
)
def test_the_name(shown: dict[str, Any], name: str | None) -> None:
    assert name_in(shown) == name


class Transport:
    def __init__(self, shown: object) -> None:
        self.shown = shown
        self.asked = 0

    def get_extra_info(self, _name: str) -> object:
        self.asked += 1
        return self.shown


class Request:
    def __init__(self, transport: Transport | None) -> None:
        self.transport = transport


def test_it_is_taken_apart_once_a_connection() -> None:
    certificates = Certificates()
    transport = Transport(certificate("node7"))
    for _ in range(3):
        found = certificates.principal(Request(transport))  # type: ignore[arg-type] # all that it looks at
        assert found is not None
        assert (found.name, found.kind) == ("cert:node7", "certificate")
    assert transport.asked == 1
    for nothing in (Transport(None), Transport({}), None):
        assert certificates.principal(Request(nothing)) is None  # type: ignore[arg-type] # all that it looks at
    del transport
    assert len(certificates._known) <= 2
