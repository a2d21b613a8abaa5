"""A certificate authority of one site, and server certificates from it: for hosts that have no other authority."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mirror.errors import ConfigurationError, Problem

_AUTHORITY_DAYS = 3650
# The most that clients of all kinds take from an authority that was installed by hand.
_SERVER_DAYS = 825
# Clocks behind a gap are set by hand: a certificate that is valid from this second on is not yet for some of them.
_BACKDATED = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def make_authority(site: str, now: datetime.datetime) -> Pair:
    """Return a new authority, named after `site`. It signs servers, and no further authority."""
    key = _new_key()
    name = _name(f"mirror of {site}")
    builder = (
        _builder(name, name, key.public_key(), now, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _sign(builder, key, key)


def unnamed(certificate: bytes, hosts: Sequence[str]) -> list[str]:
    """Return which of `hosts` a certificate does not name; none where it is no certificate, which others tell."""
    try:
        names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return list(hosts)
    except (ValueError, x509.DuplicateExtension):
        return []
    exact = {_general_name(host): host for host in hosts}
    lacking = [host for name, host in exact.items() if name not in names.value]
    above = {one.removeprefix("*") for one in names.value.get_values_for_type(x509.DNSName) if one.startswith("*.")}
    return [host for host in lacking if host[host.find(".") :] not in above]


def make_server(authority: Pair, hosts: Sequence[str], now: datetime.datetime) -> Pair:
    """Return a certificate for a server that is reached by any of `hosts`, names and addresses.

    Raises ConfigurationError if `authority` is none.
    """
    issuer, issuer_key = _load(authority)
    key = _new_key()
    builder = (
        _builder(_name(hosts[0]), issuer.subject, key.public_key(), now, _SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        # Python from 3.13 on and Go want to know which of several keys of an authority it was.
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    return _sign(builder, issuer_key, key)


def _load(authority: Pair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    remedy = "use both files of one authority, or move them away: then a new one is made"
    try:
        certificate = x509.load_pem_x509_certificate(authority.certificate)
        key = load_pem_private_key(authority.key, None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            [Problem("authority_unusable", "the authority's files are not a certificate and its key", "", remedy)]
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        what = "the authority's key is not the one of its certificate"
        raise ConfigurationError([Problem("authority_unusable", what, "", remedy)])
    return certificate, key


def _new_key() -> ec.EllipticCurvePrivateKey:
    # P-256: every client knows it, in FIPS mode as well, and a handshake costs a tenth of one with RSA.
    return ec.generate_private_key(ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    # RFC 5280 allows 64 characters; who reads certificates by names looks at the alternative ones.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    begins = now - _BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + datetime.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _sign(builder: x509.CertificateBuilder, by: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey) -> Pair:
    certificate = builder.sign(by, hashes.SHA256())
    return Pair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
