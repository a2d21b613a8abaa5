"""Would clients that trust the CA take the certificate that we serve?"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from mirror.offline.resources import Site, check_authority, check_ca
from tests.unit.offline.resources_bed import CONNECTED, REGISTRY, Authority, configuration

NOW = datetime(2026, 11, 23, tzinfo=UTC)
Key = EllipticCurvePrivateKey | RSAPrivateKey | Ed25519PrivateKey


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def certificate(
    names: list[str],
    key: Key,
    issuer: tuple[str, Key] | None = None,
    *,
    authority: bool | None = None,
    subject: str = "server",
    days: int = 100,
) -> bytes:
    """Return a certificate as private CAs make them by hand: without key identifiers, with few extensions."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    by, signer = (issuer[0], issuer[1]) if issuer else (subject, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, by)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=10))
        .not_valid_after(NOW + timedelta(days=days))
    )
    if names:
        entries = [x509.IPAddress(ip_address(one)) if one[0].isdigit() else x509.DNSName(one) for one in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(entries), critical=False)
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(authority, None), critical=True)
    algorithm = None if isinstance(signer, Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, algorithm).public_bytes(Encoding.PEM)


def codes(ca: bytes, chain: bytes, *hosts: str, now: datetime = NOW) -> list[str]:
    return [problem.code for problem in check_ca(ca, chain, hosts, now)]


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["mirror.example"], "mirror.example"),
        (["mirror.example"], "MIRROR.example"),
        (["*.example.com"], "mirror.example.com"),
        (["other.example", "10.0.0.1"], "10.0.0.1"),
        (["fd00::1"], "fd00::1"),
        (["fd00:0::1"], "FD00::0:1"),
        (["bastion"], "bastion"),
    ],
)
def test_names_that_a_certificate_has(authority: Authority, names: list[str], host: str) -> None:
    assert codes(authority.pem, authority.issue(*names), host) == []


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["mirror.example"], "mirror2.example"),
        (["*.example.com"], "example.com"),
        (["*.example.com"], "a.b.example.com"),
        (["10.0.0.1"], "10.0.0.2"),
        (["mirror.example"], "10.0.0.1"),
    ],
)
def test_names_that_it_has_not(authority: Authority, names: list[str], host: str) -> None:
    problems = check_ca(authority.pem, authority.issue(*names), [host], NOW)
    assert [problem.code for problem in problems] == ["certificate_name"]
    assert host in problems[0].what
    assert names[0] in problems[0].what


def test_another_ca_and_each_wrong_name_are_all_said(authority: Authority) -> None:
    chain = Authority().issue("mirror.example")
    assert codes(authority.pem, chain, "mirror.example") == ["certificate_untrusted"]
    assert codes(authority.pem, chain, "a.example", "mirror.example", "b.example") == [
        "certificate_untrusted",
        "certificate_name",
        "certificate_name",
    ]


def test_an_intermediate_must_be_served() -> None:
    root = trustme.CA()
    between = root.create_child_ca()
    issued = between.issue_cert("mirror.example")
    parts = [part.bytes() for part in issued.cert_chain_pems]
    assert len(parts) == 2
    pem = root.cert_pem.bytes()
    assert codes(pem, b"".join(parts), "mirror.example") == []
    assert codes(pem, parts[0], "mirror.example") == ["certificate_untrusted"]
    assert codes(between.cert_pem.bytes(), parts[0], "mirror.example") == []  # trusting the intermediate itself is fine


def test_what_private_cas_leave_out_is_not_asked_for() -> None:
    for key, other in (
        (rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)),
        (ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())),
    ):
        ca = certificate([], key, authority=True, subject="our own CA")
        assert codes(ca, certificate(["mirror.example"], other, ("our own CA", key)), "mirror.example") == []
        # but who issues must be an authority
        no_ca = certificate([], key, authority=False, subject="our own CA")
        assert codes(no_ca, certificate(["mirror.example"], other, ("our own CA", key)), "mirror.example") == [
            "certificate_untrusted"
        ]


@pytest.mark.parametrize("authority_flag", [None, True, False])
def test_a_certificate_may_vouch_for_itself(authority_flag: bool | None) -> None:
    own = certificate(["mirror.example"], ec.generate_private_key(ec.SECP256R1()), authority=authority_flag)
    assert codes(own, own, "mirror.example") == []
    assert codes(own, own, "other.example") == ["certificate_name"]
    assert codes(own, own, "mirror.example", now=NOW + timedelta(days=101)) == ["certificate_untrusted"]


@pytest.mark.parametrize(
    "make_key", [ed25519.Ed25519PrivateKey.generate, lambda: rsa.generate_private_key(65537, 1024)]
)
def test_keys_that_not_every_client_takes(make_key: Callable[[], Key]) -> None:
    key = make_key()
    ca = certificate([], key, authority=True, subject="our own CA")
    problems = check_ca(ca, certificate(["mirror.example"], make_key(), ("our own CA", key)), ["mirror.example"], NOW)
    assert [problem.code for problem in problems] == ["certificate_untrusted"]
    assert "use ECDSA" in str(problems[0])


def test_the_common_name_is_no_name() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate([], key, authority=True, subject="our own CA")
    leaf = certificate([], ec.generate_private_key(ec.SECP256R1()), ("our own CA", key), subject="mirror.example")
    problems = check_ca(ca, leaf, ["mirror.example"], NOW)
    assert [problem.code for problem in problems] == ["certificate_name"]
    assert "subject alternative names are nothing" in problems[0].what


def test_an_expired_certificate_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate([], key, authority=True, subject="our own CA", days=1000)
    leaf = certificate(["mirror.example"], ec.generate_private_key(ec.SECP256R1()), ("our own CA", key), days=10)
    assert codes(ca, leaf, "mirror.example") == []
    assert codes(ca, leaf, "mirror.example", now=NOW + timedelta(days=11)) == ["certificate_untrusted"]


def test_why_a_ca_does_not_verify_what_is_served_is_said_in_words_of_ours() -> None:
    def new() -> Key:
        return ec.generate_private_key(ec.SECP256R1())

    key = new()
    leaf = certificate(["mirror.example"], new(), ("our own CA", key))

    def said(ca: bytes, served: bytes = leaf, later: int = 0) -> str:
        (problem,) = check_ca(ca, served, ["mirror.example"], NOW + timedelta(days=later))
        return problem.what.removeprefix("--ca does not verify what is served: ")

    other = certificate([], new(), authority=True, subject="another CA")
    assert said(other) == "the CA given did not issue it; its issuer is CN=our own CA"
    assert (
        said(other, certificate(["mirror.example"], new())) == "the CA given did not issue it; its issuer is CN=server"
    )
    anew = certificate([], new(), authority=True, subject="our own CA")
    assert said(anew) == "the CA given has the name of its issuer, but not the key that signed it"
    for flag in (None, False):
        none = certificate([], key, authority=flag, subject="our own CA")
        assert said(none) == "the certificate of its issuer is not that of a CA"
    own = certificate([], key, authority=True, subject="our own CA", days=1000)
    assert said(own, later=101) == "CN=server is valid from 2026-11-13 to 2027-03-03"
    old = certificate([], key, authority=True, subject="our own CA", days=10)
    assert said(old, later=11) == "CN=our own CA is valid from 2026-11-13 to 2026-12-03"
    alone = certificate(["mirror.example"], new())
    assert said(alone, alone, later=101) == "CN=server is valid from 2026-11-13 to 2027-03-03"


def test_a_name_that_no_web_server_has_is_no_obstacle() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate([], key, authority=True, subject="our own CA")
    leaf = certificate(["a_b.lab", "mirror.example"], ec.generate_private_key(ec.SECP256R1()), ("our own CA", key))
    assert codes(ca, leaf, "mirror.example") == []
    assert codes(ca, leaf, "a_b.lab") == []


def test_files_that_hold_no_certificate(authority: Authority) -> None:
    assert codes(b"nothing", authority.issue("mirror.example"), "mirror.example") == ["ca_invalid"]
    assert codes(authority.pem, b"nothing", "mirror.example") == ["certificate_invalid"]


def test_what_answers_in_front_may_show_a_certificate_of_its_own(authority: Authority, tmp_path: Path) -> None:
    other = Authority()

    def checked(registry: str, url: str, listen: str = "0.0.0.0:5000") -> tuple[list[str], int]:
        config = configuration(tmp_path, {**CONNECTED, "listen": listen, "external_url": url})
        site = Site((registry,), config, ca=other.pem, certificate=authority.issue("mirror.mirror.svc"))
        found = check_authority(site, NOW)
        return [problem.code for problem in found.problems], len(found.notes)

    both = ["certificate_untrusted", "certificate_name"]
    # a router that ends TLS; the CA is that of its certificate, which nobody here can see
    assert checked("mirror.example", "https://mirror.example") == ([], 2)
    assert checked("mirror.example:443", "https://mirror.example") == ([], 2)
    assert checked("mirror.example:5000", "https://mirror.example") == (both, 0)
    assert checked("mirror.example", "https://other.example") == (both, 0)
    assert checked("mirror.example", "https://mirror.example", "0.0.0.0:443") == (both, 0)


def test_a_site_is_checked_as_a_whole(authority: Authority, tmp_path: Path) -> None:
    config = configuration(tmp_path, CONNECTED)
    chain = authority.issue("mirror.example")

    def checked(*registries: str, ca: bytes | None = authority.pem, served: bytes | None = chain) -> tuple[int, int]:
        found = check_authority(Site(registries, config, ca=ca, certificate=served), NOW)
        return len(found.problems), len(found.notes)

    assert checked(REGISTRY) == (0, 0)
    assert checked("wrong.example:5000") == (1, 0)
    assert checked(REGISTRY, "second.example:5000") == (0, 1)  # another machine, perhaps
    assert checked("wrong.example:5000", "second.example:5000") == (2, 0)
    assert checked(REGISTRY, ca=Authority().pem) == (1, 0)
    assert checked(REGISTRY, served=None) == (0, 1)  # something in front of us serves TLS
    assert checked("http://mirror.example:5000") == (0, 0)
    assert checked("http://wrong.example:5000", REGISTRY) == (0, 0)
    assert checked(REGISTRY, ca=None) == (0, 0)
