"""What replaces the server's certificate once it is not valid: it depends on who made it."""

from __future__ import annotations

import datetime
import shlex
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

# Which names `mirror init` adds by itself.
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def renewal(certificate: Path, key: Path, configuration: Path | None, now: datetime.datetime) -> str:
    """Return the remedy for a certificate that has expired: `mirror init` again where that made it. Reads files."""
    authority = certificate.with_name("ca.crt")
    try:
        leaf, issuer = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (certificate, authority))
        leaf.verify_directly_issued_by(issuer)
        hosts = _names(leaf)
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound, InvalidSignature):
        return f"put a new pair in place of {certificate} and {key}: it is taken up by itself"
    command = ["mirror", "init", *(["--config", str(configuration.absolute())] if configuration is not None else [])]
    for host in hosts:
        command += ["--host", host]
    moved, trust = [certificate, key], ""
    if issuer.not_valid_after_utc < now:
        moved += [authority, authority.with_suffix(".key")]
        trust = "; the authority has expired, too, so clients must then trust the new one"
    away = f"move {', '.join(map(str, moved[:-1]))} and {moved[-1]} away"
    return f"{away}, then run: {shlex.join(command)}{trust}"


def _names(leaf: x509.Certificate) -> list[str]:
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [name for name in (str(one.value) for one in found) if name not in _LOOPBACK]
