"""TLS contexts: the system's authorities, the configuration's and the upstream's own; TLS 1.2 or later."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path

from mirror.errors import ConfigurationError, Problem


def client_context(
    authorities: Iterable[Path], certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """Return a context that verifies always, with `certificate` and `key` as the client's own, if given.

    Raise ConfigurationError for a file that cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    problems: list[Problem] = []
    for path in authorities:
        try:
            context.load_verify_locations(cafile=path)
        except OSError as error:  # SSLError is one
            problems.append(_unusable("ca", path, error, "give a PEM file of certificates"))
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key)
        except OSError as error:
            problems.append(_unusable("client-certificate", certificate, error, "give the PEM files of one pair"))
    if problems:
        raise ConfigurationError(problems)
    return context


class Contexts:
    """The contexts of all upstreams, made once for the same files: the system's authorities take long to load."""

    def __init__(self, authorities: Iterable[Path]) -> None:
        self._authorities = tuple(authorities)
        self._made: dict[tuple[Path | None, Path | None, Path | None], ssl.SSLContext] = {}

    def for_endpoint(
        self, authority: Path | None, certificate: Path | None = None, key: Path | None = None
    ) -> ssl.SSLContext:
        """Return the context with `authority` beside the general ones; raise ConfigurationError as `client_context`."""
        files = (authority, certificate, key)
        if files not in self._made:
            authorities = [*self._authorities, *([authority] if authority else [])]
            self._made[files] = client_context(authorities, certificate, key)
        return self._made[files]


def _unusable(code: str, path: Path, error: OSError, remedy: str) -> Problem:
    said = "it holds no usable PEM" if isinstance(error, ssl.SSLError) else (error.strerror or "unreadable")
    return Problem(code, f"{path} cannot be used ({said})", str(path), remedy)
