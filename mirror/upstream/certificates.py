"""Whose certificate an endpoint shows and when it ends, for the text of a TLS failure."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

from yarl import URL

from mirror.upstream.guard import Reach, socket_guard

_SECONDS = 3.0


async def describe(url: URL, reach: Reach) -> str:
    """Return `subject …, issuer …, valid until …` of what answers at `url`, or an empty string.

    The connection is made only to read the certificate that was just refused, and sends nothing.
    """
    try:
        async with asyncio.timeout(_SECONDS):
            content = await _fetch(url, reach)
    except (OSError, TimeoutError, ValueError):
        return ""
    # Takes tens of milliseconds to import, and few programs meet a bad certificate.
    from cryptography import x509

    try:
        certificate = x509.load_der_x509_certificate(content)
        subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    except ValueError:
        return ""
    return f"subject {subject or 'empty'}, issuer {issuer}, valid until {certificate.not_valid_after_utc:%Y-%m-%d}"


async def _fetch(url: URL, reach: Reach) -> bytes:
    loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    guard = socket_guard(reach)
    info = (await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM))[0]
    connection = guard(info)
    try:
        connection.setblocking(False)
        await loop.sock_connect(connection, info[4])
        transport, _ = await loop.create_connection(
            asyncio.Protocol, sock=connection, ssl=context, server_hostname=url.host
        )
    except BaseException:
        with contextlib.suppress(OSError):
            connection.close()
        raise
    try:
        found: bytes | None = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return found or b""
    finally:
        transport.abort()
