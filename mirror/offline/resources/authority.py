"""Does the CA that clients are given verify the certificate that we serve, under each name that they use?

The rules are those of Go's TLS, which podman, CRI-O, containerd and the cluster's operators use (crypto/x509): the name
must be among the subject alternative names, issuers must be authorities, everything must be valid now. A certificate
that is itself trusted needs no issuer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509 import verification

from mirror.errors import Problem
from mirror.offline.resources.site import Site

_KEYS = "its keys are of a kind that not every client takes; use ECDSA, or RSA of 2048 bits or more"
_UNLINKED = "no chain of certificates leads from it to the CA given"
# What the library says of a chain (cryptography, x509.verification), and what it means.
_REASONS = {
    "signature does not match": "the CA given has the name of its issuer, but not the key that signed it",
    "basicConstraints": "the certificate of its issuer is not that of a CA",
    "public key algorithm": _KEYS,
    "key is too weak": _KEYS,
}


@dataclass(frozen=True)
class Checked:
    """`problems` stop the command; `notes` are said beside its result."""

    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def check_ca(
    ca_pem: bytes, certificate_pem_chain: bytes, hosts: Sequence[str], now: datetime | None = None
) -> list[Problem]:
    """Return why clients that trust `ca_pem` would refuse `certificate_pem_chain` under each of `hosts`.

    Hosts are names or addresses without ports. `now` is the time of the check, by default this one.
    """
    now = now or datetime.now(UTC)
    try:
        trusted = x509.load_pem_x509_certificates(ca_pem)
    except ValueError:
        return [Problem("ca_invalid", "the file of --ca holds no certificate", "--ca", "give the CA's as PEM")]
    try:
        leaf, *others = x509.load_pem_x509_certificates(certificate_pem_chain)
    except ValueError:
        return [Problem("certificate_invalid", "the file holds no certificate", "tls.certificate", "give it as PEM")]
    names = _names(leaf)
    problems = []
    for host in dict.fromkeys(hosts):
        if not _covers(names, host):
            listed = ", ".join(str(name) for name in names) or "nothing"
            what = f"the certificate is not for {host}: its subject alternative names are {listed}"
            remedy = f"issue it anew with {host} among them, or give --registry a name that it has"
            problems.append(Problem("certificate_name", what, "tls.certificate", remedy))
    reason = _distrusts(trusted, leaf, others, names, now)
    if reason:
        remedy = "give the certificate of the CA that issued tls.certificate, and let that file hold its intermediates"
        problems.insert(
            0, Problem("certificate_untrusted", f"--ca does not verify what is served: {reason}", "--ca", remedy)
        )
    return problems


def check_authority(site: Site, now: datetime | None = None) -> Checked:
    """Return what is wrong with the CA of a site and what its administrator should know.

    With several registries, those under names that our own certificate does not have may be other machines. At an
    address that external_url names and where `serve` does not listen, something else may show another certificate.
    """
    notes: list[str] = []
    secure = [registry for registry in site.registries if registry.secure]
    if not secure or not site.bundle:
        return Checked()
    if site.certificate is None:
        note = "mirror.yaml has no tls.certificate, so --ca could not be tried against what clients see"
        return Checked((), (note,))
    problems = check_ca(site.bundle.encode(), site.certificate, [registry.host for registry in secure], now)
    if all(site.is_external(registry) and not site.listens_at(registry) for registry in secure):
        right = "that is right only if what answers in front of this registry shows a certificate of its own"
        return Checked((), tuple(f"{problem.what}; {right}" for problem in problems))
    strangers = [problem for problem in problems if problem.code == "certificate_name"]
    if 0 < len(strangers) < len({registry.host for registry in secure}):
        notes += [f"{problem.what}; that is right only if another machine answers there" for problem in strangers]
        problems = [problem for problem in problems if problem not in strangers]
    return Checked(tuple(problems), tuple(notes))


def _names(leaf: x509.Certificate) -> list[str]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]


def _covers(names: Sequence[str], host: str) -> bool:
    """Tell whether a name of the certificate stands for `host`: itself, or a wildcard for its first label."""
    try:
        return str(ipaddress.ip_address(host)) in names
    except ValueError:
        _, dot, parent = host.lower().partition(".")
        return any(name.lower() in (host.lower(), f"*.{parent}" if dot else None) for name in names)


def _distrusts(
    trusted: Sequence[x509.Certificate],
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    names: Sequence[str],
    now: datetime,
) -> str:
    """Return why no chain leads from `leaf` to a trusted certificate, or nothing where one does."""
    if leaf in trusted:
        return "" if _is_valid(leaf, now) else _period(leaf)
    if not names:
        return ""  # said already: it has no name at all
    # The strict rules of the public web would refuse CAs that Go takes: many private ones leave key identifiers out.
    anything = verification.ExtensionPolicy.permit_all()
    issuers = anything.require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, None)
    builder = (
        verification.PolicyBuilder()
        .store(verification.Store(list(trusted)))
        .time(now)
        .extension_policies(
            ca_policy=issuers,
            ee_policy=anything.require_present(x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None),
        )
    )
    try:
        # As for a client, whose names nobody compares: those of the server are compared above, by Go's rules.
        builder.build_client_verifier().verify(leaf, list(others))
    except verification.VerificationError as error:
        return _why(str(error), trusted, leaf, others, now)
    return ""


def _why(
    words: str,
    trusted: Sequence[x509.Certificate],
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    now: datetime,
) -> str:
    """Return in our words what the library's say of a chain that does not lead to a trusted certificate."""
    if "not valid at validation time" in words:
        wanted = {one.issuer for one in (leaf, *others)}
        chain = (leaf, *others, *(one for one in trusted if one.subject in wanted))
        return next((_period(one) for one in chain if not _is_valid(one, now)), _UNLINKED)
    if "no interior errors" in words:
        return f"the CA given did not issue it; its issuer is {leaf.issuer.rfc4514_string()}"
    return next((ours for theirs, ours in _REASONS.items() if theirs in words), _UNLINKED)


def _is_valid(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def _period(certificate: x509.Certificate) -> str:
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return f"{certificate.subject.rfc4514_string()} is valid from {since:%Y-%m-%d} to {until:%Y-%m-%d}"
