"""Whom a client certificate names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import web

from mirror.config.access import CERTIFICATE, is_plain
from mirror.registry.clients import Principal


def name_in(certificate: Mapping[str, Any]) -> str | None:
    """Return whom a verified certificate, as `ssl` takes it apart, names; None where that is not one name.

    That is its common name; without one, its only subject alternative name.
    """
    common = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    other = [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "email", "URI")]
    names = common or other
    return names[0] if len(names) == 1 and is_plain(names[0]) else None


class Certificates:
    """Remembers whom the certificate of each connection names: taking one apart costs more than a request."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[object, Principal | None] = WeakKeyDictionary()

    def principal(self, request: web.BaseRequest) -> Principal | None:
        """Return whose certificate the connection was made with; None where there is none, or it names nobody."""
        transport = request.transport
        if transport is None:
            return None
        try:
            return self._known[transport]
        except KeyError:
            pass
        shown = transport.get_extra_info("peercert")
        name = name_in(shown) if shown else None
        found = Principal(CERTIFICATE + name, "certificate") if name is not None else None
        self._known[transport] = found
        return found
