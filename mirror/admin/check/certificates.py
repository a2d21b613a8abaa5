"""Certificates and keys: whether a server, a client or an authority can be used as what it is named for."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from mirror.admin.check.files import Key, read_bounded
from mirror.admin.check.report import Finding
from mirror.config import Config
from mirror.registry.renewal import renewal

# What a person needs to renew a certificate by hand, holidays included.
_SOON = datetime.timedelta(days=30)
_RENEW = "renew it, and reload the service: systemctl reload mirror"


def find_in_certificates(config: Config, now: datetime.datetime) -> Iterator[Finding]:
    """Yield what is wrong inside the certificates, keys and bundles; unreadable files are not told again."""
    tls = config.tls
    if tls.certificate is not None and tls.key is not None:
        remedy = renewal(tls.certificate, tls.key, config.source.path, now)
        yield from _find_in_pair(config, ("tls",), ("certificate", tls.certificate), ("key", tls.key), now, remedy)
        yield from _find_in_names(config, tls.certificate)
    if tls.client_ca is not None:
        yield from _find_in_bundle(tls.client_ca, config.source.where("tls", "client_ca"), now)
    for index, path in enumerate(config.ca):
        yield from _find_in_bundle(path, config.source.where("ca", index), now)
    for name, upstream in config.upstreams.items():
        at = ("upstreams", name)
        if upstream.ca is not None:
            yield from _find_in_bundle(upstream.ca, config.source.where(*at, "ca"), now)
        if upstream.client_certificate is not None and upstream.client_key is not None:
            certificate = ("client_certificate", upstream.client_certificate)
            yield from _find_in_pair(config, at, certificate, ("client_key", upstream.client_key), now)


def _find_in_pair(
    config: Config,
    at: Key,
    certificate: tuple[str, Path],
    key: tuple[str, Path],
    now: datetime.datetime,
    renew: str = _RENEW,
) -> Iterator[Finding]:
    where, key_where = config.source.where(*at, certificate[0]), config.source.where(*at, key[0])
    chain, problem = _read_chain(certificate[1], where)
    if problem is not None:
        yield problem
    if chain:
        # Only the first is ours to prove; the ones after it lead to the authority.
        yield from _find_in_dates(chain[0], certificate[1], where, now, renew)
    content = read_bounded(key[1])
    if content is None:
        return
    try:
        public = load_pem_private_key(content, None).public_key()
    except TypeError:
        remedy = "decrypt it: openssl pkey -in KEY -out PLAIN"
        yield Finding("error", "key_encrypted", f"{key[1]} is encrypted", key_where, remedy)
        return
    except (ValueError, UnsupportedAlgorithm):
        yield Finding("error", "key_invalid", f"{key[1]} holds no private key in PEM form", key_where, "name the key")
        return
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if chain and public.public_bytes(*form) != chain[0].public_key().public_bytes(*form):
        what = f"{key[1]} is not the key of the first certificate in {certificate[1]}"
        remedy = "name the two files of one pair, and put the server's own certificate before its issuers"
        yield Finding("error", "key_mismatch", what, key_where, remedy)


def _find_in_names(config: Config, path: Path) -> Iterator[Finding]:
    """Yield what is wrong with the names that a server's certificate is for."""
    where = config.source.where("tls", "certificate")
    chain, _ = _read_chain(path, where)
    if not chain:
        return
    try:
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        what = f"the certificate in {path} has no subjectAltName, and every current client refuses it"
        yield Finding("error", "certificate_without_names", what, where, "issue it anew with DNS: or IP: names")
        return
    host = urlsplit(config.external_url or "").hostname
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = names.get_values_for_type(x509.IPAddress)
    if host and not _covers(hosts, list(addresses), host):
        what = f"the certificate in {path} is not for {host}, which external_url names"
        remedy = (
            f"issue it for {host}, or correct external_url, unless something in front of this registry shows another"
        )
        yield Finding("warning", "certificate_for_another", what, where, remedy)


def _covers(hosts: list[str], addresses: list[object], host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in addresses
    except ValueError:
        parent = host.partition(".")[2]
        return any(name.lower() in (host, f"*.{parent}") for name in hosts)


def _find_in_bundle(path: Path, where: str, now: datetime.datetime) -> Iterator[Finding]:
    chain, problem = _read_chain(path, where)
    if problem is not None:
        yield problem
    ended = [certificate for certificate in chain if certificate.not_valid_after_utc < now]
    if chain and len(ended) == len(chain):
        yield from _find_in_dates(chain[0], path, where, now)
        return
    for certificate in ended:
        what = f"{_name(certificate)} in {path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        yield Finding("warning", "certificate_expired", what, where, "remove it, or put its successor in its place")
    for certificate in chain:
        if certificate not in ended:
            yield from _find_in_dates(certificate, path, where, now)


def _find_in_dates(
    certificate: x509.Certificate, path: Path, where: str, now: datetime.datetime, renew: str = _RENEW
) -> Iterator[Finding]:
    name, ends = _name(certificate), certificate.not_valid_after_utc
    if ends < now:
        what = f"{name} in {path} has expired, on {ends:%Y-%m-%d %H:%M} UTC"
        yield Finding("error", "certificate_expired", what, where, renew)
    elif ends - now < _SOON:
        what = f"{name} in {path} expires on {ends:%Y-%m-%d}, in {(ends - now).days} days"
        yield Finding("warning", "certificate_expires", what, where, renew)
    if certificate.not_valid_before_utc > now:
        what = f"{name} in {path} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on"
        remedy = f"set this host's clock, which says {now:%Y-%m-%d %H:%M} UTC, or put one there that is valid now"
        yield Finding("error", "certificate_not_yet", what, where, remedy)


def _read_chain(path: Path, where: str) -> tuple[list[x509.Certificate], Finding | None]:
    """Return the certificates of a PEM file, and what is wrong with it; neither where it could not be read."""
    content = read_bounded(path)
    if content is None:
        return [], None
    try:
        return x509.load_pem_x509_certificates(content), None
    except ValueError:
        what = f"{path} holds no certificate in PEM form, or a broken one"
        remedy = "name a file with -----BEGIN CERTIFICATE----- in it"
        return [], Finding("error", "certificate_invalid", what, where, remedy)


def _name(certificate: x509.Certificate) -> str:
    try:
        return f"the certificate of {certificate.subject.rfc4514_string() or 'nobody'}"
    except ValueError:
        return "a certificate"
