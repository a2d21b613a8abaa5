"""OpenPGP signatures and the keys that made them (RFC 4880 5), as far as signed messages of releases need them.

Version 3 of signatures, which signers of releases still wrote in 2022, is read beside version 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from mirror.offline.packets import Octets, PacketInvalid, length

BINARY, TEXT, SUBKEY_BINDING, KEY_REVOCATION, SUBKEY_REVOCATION = 0x00, 0x01, 0x18, 0x20, 0x28

_RSA, _ECDSA, _EDDSA = 1, 19, 22
_ALGORITHMS = {_RSA: "RSA", _ECDSA: "ECDSA", _EDDSA: "EdDSA"}
_RSA_BITS = range(2048, 16_384 + 1)  # below it is weak; above it, checking one signature takes seconds
_CURVES: dict[bytes, type[ec.EllipticCurve]] = {
    bytes.fromhex("2a8648ce3d030107"): ec.SECP256R1,
    bytes.fromhex("2b81040022"): ec.SECP384R1,
    bytes.fromhex("2b81040023"): ec.SECP521R1,
}
_ED25519 = bytes.fromhex("2b06010401da470f01")

_HASHES: dict[int, hashes.HashAlgorithm] = {8: hashes.SHA256(), 9: hashes.SHA384(), 10: hashes.SHA512()}
_REFUSED_HASHES = {1: "MD5", 2: "SHA-1", 3: "RIPEMD-160", 11: "SHA-224"}

_CREATED, _LIFETIME, _ISSUER, _FLAGS, _ISSUER_FINGERPRINT = 2, 3, 16, 27, 33
_SIGNER = 28
_UNDERSTOOD = frozenset({_CREATED, _LIFETIME, _ISSUER, _FLAGS, _ISSUER_FINGERPRINT, _SIGNER})
_MAY_SIGN = 0x02

PublicNumbers = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature packet (5.2): what it says of itself, and what proves it.

    `issuer` is a long key id in upper-case hex, empty where it is not said; nothing proves it before the signature is
    verified. `lifetime` is in seconds from `created` (Unix time), 0 for ever.
    """

    version: int
    kind: int
    algorithm: int
    hash: int
    created: int
    lifetime: int
    issuer: str
    flags: int
    trailer: bytes  # what is hashed after the content
    check: bytes  # the first two octets of the hash
    value: bytes

    @classmethod
    def parse(cls, body: bytes) -> Signature:
        """Return the signature that a packet of version 3 or 4 holds; raise PacketInvalid."""
        octets = Octets(body)
        version = octets.number(1)
        if version == 3:
            if octets.number(1) != 5:
                raise PacketInvalid("has a signature with a wrong length in it")
            trailer = octets.take(5)
            issuer = octets.take(8).hex().upper()
            algorithm, hash_code = octets.take(2)
            fields = (trailer[0], algorithm, hash_code, int.from_bytes(trailer[1:], "big"), 0, issuer, 0)
            return cls(version, *fields, trailer, octets.take(2), octets.rest())
        if version != 4:
            raise PacketInvalid(f"has a signature of version {version}, which is not supported")
        kind, algorithm, hash_code = octets.take(3)
        hashed = octets.take(octets.number(2))
        unhashed = octets.take(octets.number(2))
        proven = dict(_subpackets(hashed, strict=True))
        issuer = _issuer(proven) or _issuer(dict(_subpackets(unhashed, strict=False)))
        signed = body[: 6 + len(hashed)]
        return cls(
            version,
            kind,
            algorithm,
            hash_code,
            int.from_bytes(proven.get(_CREATED, b""), "big"),
            int.from_bytes(proven.get(_LIFETIME, b""), "big"),
            issuer,
            int.from_bytes(proven.get(_FLAGS, b"")[:1], "big"),
            signed + b"\x04\xff" + len(signed).to_bytes(4, "big"),
            octets.take(2),
            octets.rest(),
        )

    @property
    def may_sign(self) -> bool:
        """Whether a key that is bound by this signature is for signing."""
        return bool(self.flags & _MAY_SIGN)


def _subpackets(area: bytes, *, strict: bool) -> Iterator[tuple[int, bytes]]:
    """Yield kind and body of each subpacket (5.2.3.1); `strict` refuses a critical one that is not understood."""
    octets = Octets(area)
    while octets.left:
        size = length(octets.number(1), octets)
        if not size:
            raise PacketInvalid("has a signature with an empty subpacket")
        kind, body = octets.number(1), octets.take(size - 1)
        if strict and kind & 0x80 and kind & 0x7F not in _UNDERSTOOD:
            raise PacketInvalid(f"has a signature with an unknown critical subpacket {kind & 0x7F}")
        yield kind & 0x7F, body


def _issuer(subpackets: dict[int, bytes]) -> str:
    found = subpackets.get(_ISSUER) or subpackets.get(_ISSUER_FINGERPRINT, b"")[-8:]
    return found.hex().upper() if len(found) == 8 else ""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key of version 4 (5.5.2): its fingerprint in upper-case hex, what is hashed for it, and its numbers."""

    fingerprint: str
    framed: bytes
    algorithm: int
    numbers: PublicNumbers

    @classmethod
    def parse(cls, body: bytes) -> PublicKey:
        """Return the key that a key packet holds; raise PacketInvalid for one that is not accepted."""
        octets = Octets(body)
        if (version := octets.number(1)) != 4:
            raise PacketInvalid(f"is a key of version {version}, which is not supported")
        octets.take(4)
        algorithm = octets.number(1)
        framed = b"\x99" + len(body).to_bytes(2, "big") + body
        # SHA-1 is what names a key of this version (12.2); where FIPS forbids it, it is still allowed to name things.
        fingerprint = hashlib.sha1(framed, usedforsecurity=False).hexdigest().upper()
        try:
            return cls(fingerprint, framed, algorithm, _numbers(algorithm, octets))
        except (ValueError, UnsupportedAlgorithm) as error:
            why = str(error) if isinstance(error, PacketInvalid) else "has impossible numbers"
            raise PacketInvalid(f"{why} ({fingerprint})") from None

    def made(self, signature: Signature, content: bytes) -> bool:
        """Tell whether this key made `signature` over `content`.

        Raises PacketInvalid where the signature's hash is not accepted, or its numbers are of another form.
        """
        if signature.algorithm != self.algorithm:
            return False
        accepted = _HASHES.get(signature.hash)
        if accepted is None:
            named = _REFUSED_HASHES.get(signature.hash, f"hash algorithm {signature.hash}")
            raise PacketInvalid(f"is signed with {named}, which is not accepted")
        found = hashlib.new(accepted.name, content + signature.trailer).digest()
        if found[:2] != signature.check:
            return False
        try:
            self._prove(Octets(signature.value), found, accepted)
        except PacketInvalid:
            raise
        except (InvalidSignature, ValueError, OverflowError):
            return False
        return True

    def _prove(self, value: Octets, digest: bytes, accepted: hashes.HashAlgorithm) -> None:
        """Raise InvalidSignature, ValueError or OverflowError unless `value` is a signature of `digest`."""
        first = value.mpi()
        second = 0 if isinstance(self.numbers, rsa.RSAPublicKey) else value.mpi()
        if value.left:
            raise PacketInvalid("has a signature with octets after its numbers")
        if isinstance(self.numbers, rsa.RSAPublicKey):
            proof = first.to_bytes((self.numbers.key_size + 7) // 8, "big")
            self.numbers.verify(proof, digest, padding.PKCS1v15(), Prehashed(accepted))
        elif isinstance(self.numbers, ec.EllipticCurvePublicKey):
            self.numbers.verify(encode_dss_signature(first, second), digest, ec.ECDSA(Prehashed(accepted)))
        else:
            self.numbers.verify(first.to_bytes(32, "big") + second.to_bytes(32, "big"), digest)


def _numbers(algorithm: int, octets: Octets) -> PublicNumbers:
    if algorithm == _RSA:
        modulus, exponent = octets.mpi(), octets.mpi()
        if modulus.bit_length() not in _RSA_BITS:
            raise PacketInvalid(f"is an RSA key of {modulus.bit_length()} bits; 2048 to 16384 are accepted")
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    if algorithm in (_ECDSA, _EDDSA):
        curve = octets.take(octets.number(1))
        point = octets.take((octets.number(2) + 7) // 8)
        if algorithm == _EDDSA and curve == _ED25519 and point[:1] == b"\x40":
            return ed25519.Ed25519PublicKey.from_public_bytes(point[1:])
        if algorithm == _ECDSA and curve in _CURVES:
            return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve](), point)
        raise PacketInvalid(f"is an {_ALGORITHMS[algorithm]} key of a curve that is not supported")
    raise PacketInvalid(f"is a key for algorithm {algorithm}, which is not supported")
