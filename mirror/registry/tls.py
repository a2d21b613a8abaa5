"""The certificate that the registry shows, reread when its files change."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from asyncio import sslproto
from pathlib import Path

from cryptography import x509

from mirror import logs
from mirror.errors import ConfigurationError, Problem
from mirror.metrics import CERTIFICATE_EXPIRES, Metrics
from mirror.registry.renewal import renewal

_log = logs.get(__name__)

_REREAD = 5.0  # seconds between looks at the files
# Forward secrecy and AEAD only (RFC 9325, 4.2.1); TLS 1.3 has no other suites.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

# What asyncio reads of TLS at once. It holds a buffer of that size for each connection, from before the handshake on,
# and 256 KiB by default: a gigabyte for 4096 clients that say nothing.
sslproto.SSLProtocol.max_size = 64 * 1024


class _ClientCaUnusable(ValueError):
    """The file of `client_ca` is not there, or no certificate."""


class ServerTls:
    """A context for new connections. Connections that are open keep the one that they began with.

    Raises ConfigurationError if the files do not make a certificate and its key. With `client_ca`, clients are asked
    for a certificate: one that it did not sign ends the handshake, and what may be done without one the gate says.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._seen = self._look()
        try:
            self.context, self.begins, self.expires = self._load()
        except _ClientCaUnusable as error:
            problem = Problem(
                "tls",
                f"{client_ca} holds no certificate of a CA for clients ({_reason(error)})",
                "tls.client_ca",
                "give a PEM file",
            )
            raise ConfigurationError([problem]) from error
        except (OSError, ValueError) as error:
            problem = Problem(
                "tls",
                f"{certificate} and {key} are no certificate and its key ({_reason(error)})",
                "tls",
                "give PEM files, the certificate with its chain, the key without a passphrase",
            )
            raise ConfigurationError([problem]) from error

    def reread(self) -> bool:
        """Take changed files into use and return True; a bad pair changes nothing and is logged. It blocks."""
        seen = self._look()
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self.context, self.begins, self.expires = self._load()
        except (OSError, ValueError) as error:
            wrong = self._client_ca if isinstance(error, _ClientCaUnusable) else self._certificate
            _log.error("tls_reload_failed", certificate=str(wrong), why=_reason(error))
            return False
        _log.info("tls_reloaded", certificate=str(self._certificate))
        return True

    async def watch(self, metrics: Metrics, period: float = _REREAD) -> None:
        """Look at the files every `period` seconds, until cancelled."""
        while True:
            metrics.set(CERTIFICATE_EXPIRES, to=self.expires)
            await asyncio.sleep(period)
            await asyncio.to_thread(self.reread)

    async def tell(self, configuration: Path | None, period: float = _REREAD) -> None:
        """Say once of each certificate that it has expired, or is not valid yet, until cancelled."""
        told = None
        while True:
            if told != (told := self._invalid()) and told is not None:
                await asyncio.to_thread(self._say, told[0], configuration)
            await asyncio.sleep(period)

    def _invalid(self) -> tuple[str, float] | None:
        now = time.time()
        if self.expires <= now:
            return "certificate_expired", self.expires
        return ("certificate_not_yet_valid", self.begins) if self.begins > now else None

    def _say(self, event: str, configuration: Path | None) -> None:
        now = datetime.datetime.now(datetime.UTC)
        if event == "certificate_expired":
            remedy = renewal(self._certificate, self._key, configuration, now)
        else:
            remedy = (
                f"set this host's clock, which says {now:%Y-%m-%d %H:%M} UTC, or put a pair there that is valid now"
            )
        _log.error(
            event,
            certificate=str(self._certificate),
            begins=_day(self.begins),
            expires=_day(self.expires),
            remedy=remedy,
        )

    def _load(self) -> tuple[ssl.SSLContext, float, float]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        context.set_alpn_protocols(["http/1.1"])
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        # Without an answer OpenSSL would ask the terminal for the passphrase of an encrypted key.
        context.load_cert_chain(self._certificate, self._key, password=lambda: b"")
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except (OSError, ValueError) as error:
                raise _ClientCaUnusable(_reason(error)) from error
            # Probes, and whoever may do without, show none.
            context.verify_mode = ssl.CERT_OPTIONAL
        leaf = x509.load_pem_x509_certificate(self._certificate.read_bytes())
        return context, leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()

    def _look(self) -> tuple[object, ...]:
        return tuple(_stamp(path) for path in (self._certificate, self._key, self._client_ca) if path is not None)


def _day(moment: float) -> str:
    return f"{datetime.datetime.fromtimestamp(moment, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_size, status.st_ino


def _reason(error: Exception) -> str:
    if isinstance(error, _ClientCaUnusable):
        return str(error)
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
