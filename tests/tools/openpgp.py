"""OpenPGP keys and signed messages made packet by packet (RFC 4880), as release signers made and make them, and worse.

    key = TestKey.generate()
    raw = key.sign(claim(digest, "quay.io/openshift-release-dev/ocp-release:4.16.15-x86_64"))

`key.armored_public()` is what a keyring file holds. GnuPG verifies both.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

CREATED = 1_700_000_000  # Unix time of keys and signatures, so that a key's fingerprint depends on its numbers alone

SIGNATURE, ONE_PASS, PUBLIC_KEY, COMPRESSED, MARKER, LITERAL, USER_ID, SUBKEY = 2, 4, 6, 8, 10, 11, 13, 14

HASHES = {
    "sha1": (2, hashes.SHA1()),
    "sha256": (8, hashes.SHA256()),
    "sha384": (9, hashes.SHA384()),
    "sha512": (10, hashes.SHA512()),
}


def claim(digest: object, reference: str, creator: str = "test signer 1", timestamp: int | None = None) -> bytes:
    """Return the JSON that is signed: `digest` is the release `reference`."""
    optional: dict[str, Any] = {"creator": creator}
    if timestamp is not None:
        optional["timestamp"] = timestamp
    return json.dumps(
        {
            "critical": {
                "image": {"docker-manifest-digest": str(digest)},
                "type": "atomic container signature",
                "identity": {"docker-reference": reference},
            },
            "optional": optional,
        }
    ).encode()


def packet(tag: int, body: bytes) -> bytes:
    """Return a packet with a header of the old format, its length in as few octets as hold it."""
    for kind, form, limit in ((0, "B", 1 << 8), (1, ">H", 1 << 16), (2, ">I", 1 << 32)):
        if len(body) < limit:
            return bytes((0x80 | tag << 2 | kind,)) + struct.pack(form, len(body)) + body
    raise ValueError("no packet is that long")


def new_packet(tag: int, body: bytes, octets: int = 0) -> bytes:
    """Return a packet with a header of the new format; `octets` 1, 2 or 5 for its length, 0 for the fewest."""
    octets = octets or (1 if len(body) < 192 else 2 if len(body) < 8384 else 5)
    if octets == 1:
        length = bytes((len(body),))
    elif octets == 2:
        length = bytes((((len(body) - 192) >> 8) + 192, (len(body) - 192) & 0xFF))
    else:
        length = b"\xff" + struct.pack(">I", len(body))
    return bytes((0xC0 | tag,)) + length + body


def partial_packet(tag: int, body: bytes, first: int = 128) -> bytes:
    """Return a packet in partial lengths of `first` octets (a power of two; writers owe 512), then what is left."""
    found = bytearray((0xC0 | tag,))
    while len(body) >= first:
        found += bytes((0xE0 | first.bit_length() - 1,)) + body[:first]
        body = body[first:]
    return bytes(found) + new_packet(tag, body)[1:]


def literal(content: bytes, mode: bytes = b"b", name: bytes = b"claim.bin") -> bytes:
    """Return the body of a literal data packet."""
    return mode + bytes((len(name),)) + name + struct.pack(">I", CREATED) + content


def compress(content: bytes, algorithm: int = 1) -> bytes:
    """Return a compressed packet of indeterminate length around packets: 0 not at all, 1 ZIP, 2 ZLIB."""
    if algorithm == 0:
        inner = content
    else:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15 if algorithm == 1 else 15)
        inner = packer.compress(content) + packer.flush()
    return bytes((0x80 | COMPRESSED << 2 | 3, algorithm)) + inner


def number(value: int) -> bytes:
    """Return a multiprecision integer."""
    return struct.pack(">H", value.bit_length()) + value.to_bytes((value.bit_length() + 7) // 8, "big")


def subpacket(kind: int, body: bytes) -> bytes:
    """Return a signature subpacket of fewer than 191 octets."""
    return bytes((len(body) + 1, kind)) + body


def armor(packets: bytes, kind: str = "PUBLIC KEY BLOCK") -> bytes:
    """Return ASCII armor with its checksum."""
    checksum = 0xB704CE
    for octet in packets:
        checksum ^= octet << 16
        for _ in range(8):
            checksum <<= 1
            if checksum & 0x1000000:
                checksum ^= 0x1864CFB
    text = base64.b64encode(packets).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    check = base64.b64encode(checksum.to_bytes(3, "big")).decode()
    return f"-----BEGIN PGP {kind}-----\nComment: a test key\n\n{lines}\n={check}\n-----END PGP {kind}-----\n".encode()


@dataclass(frozen=True)
class TestKey:
    """An RSA key that signs as release signers do."""

    __test__ = False  # no test, though its name begins like one

    private: rsa.RSAPrivateKey
    created: int = CREATED

    @classmethod
    def generate(cls, bits: int = 2048) -> TestKey:
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=bits))

    @property
    def body(self) -> bytes:
        """The body of the public key packet, version 4."""
        numbers = self.private.public_key().public_numbers()
        return b"\x04" + struct.pack(">I", self.created) + b"\x01" + number(numbers.n) + number(numbers.e)

    @property
    def fingerprint(self) -> str:
        framed = b"\x99" + struct.pack(">H", len(self.body)) + self.body
        return hashlib.sha1(framed).hexdigest().upper()  # what the format prescribes

    @property
    def key_id(self) -> str:
        return self.fingerprint[-16:]

    def public(
        self,
        *,
        self_signature: str | None = "sha256",
        lifetime: int | None = None,
        subkeys: Sequence[TestKey] = (),
        bound: str | None = "sha256",
    ) -> bytes:
        """Return the certificate: key, user id, self-signature by that hash or none, subkeys that may sign.

        `lifetime` is the key's own in seconds from its creation; `bound` is the hash of the subkeys' binding.
        """
        user = b"Test Signer <signer@example.com>"
        found = packet(PUBLIC_KEY, self.body) + packet(USER_ID, user)
        flags = subpacket(27, b"\x03")
        if lifetime is not None:
            flags += subpacket(9, struct.pack(">I", lifetime))
        framed = b"\x99" + struct.pack(">H", len(self.body)) + self.body
        if self_signature:
            signed = framed + b"\xb4" + struct.pack(">I", len(user)) + user
            found += packet(SIGNATURE, self.signature(signed, hash=self_signature, kind=0x13, hashed=flags))
        for subkey in subkeys:
            found += packet(SUBKEY, subkey.body)
            if bound:
                both = framed + b"\x99" + struct.pack(">H", len(subkey.body)) + subkey.body
                back = subkey.signature(both, hash=bound, kind=0x19)
                more = subpacket(27, b"\x02")
                unhashed = b"\xff" + struct.pack(">I", len(back) + 1) + b"\x20" + back
                found += packet(SIGNATURE, self.signature(both, hash=bound, kind=0x18, hashed=more, unhashed=unhashed))
        return found

    def armored_public(self, **more: Any) -> bytes:
        """Return `public` in ASCII armor."""
        return armor(self.public(**more))

    def signature(
        self,
        signed: bytes,
        *,
        version: int = 4,
        hash: str = "sha256",  # noqa: A002 - the field's own word
        kind: int = 0,
        created: int = CREATED,
        lifetime: int | None = None,
        hashed: bytes = b"",
        unhashed: bytes = b"",
        key_id: str = "",
    ) -> bytes:
        """Return the body of a signature packet over the octets `signed`."""
        code, algorithm = HASHES[hash]
        issuer = bytes.fromhex(key_id or self.key_id)
        if version == 3:
            trailer = bytes((kind,)) + struct.pack(">I", created)
            head = b"\x03\x05" + trailer + issuer + bytes((1, code))
            tail = b""
        else:
            area = subpacket(2, struct.pack(">I", created))
            if lifetime is not None:
                area += subpacket(3, struct.pack(">I", lifetime))
            area += hashed
            head = bytes((version, kind, 1, code)) + struct.pack(">H", len(area)) + area
            trailer = head + bytes((version, 0xFF)) + struct.pack(">I", len(head))
            rest = subpacket(16, issuer) + unhashed
            tail = struct.pack(">H", len(rest)) + rest
        digest = hashlib.new(hash, signed + trailer).digest()
        value = self.private.sign(digest, padding.PKCS1v15(), Prehashed(algorithm))
        return head + tail + digest[:2] + number(int.from_bytes(value, "big"))

    def one_pass(self, hash: str = "sha256", kind: int = 0, last: bool = True, key_id: str = "") -> bytes:  # noqa: A002
        """Return the body of a one-pass signature packet that announces a signature by this key."""
        return bytes((3, kind, HASHES[hash][0], 1)) + bytes.fromhex(key_id or self.key_id) + bytes((last,))

    def sign(
        self,
        claim: bytes,
        version: int = 4,
        hash: str = "sha256",  # noqa: A002
        compressed: bool = True,
        *,
        partial: bool = False,
        text: bool = False,
        lifetime: int | None = None,
        algorithm: int = 1,
        hashed: bytes = b"",
        kind: int | None = None,
    ) -> bytes:
        """Return a signed message: one-pass, literal, signature; in a compressed packet unless told otherwise.

        `partial` writes the literal packet in partial lengths; `text` makes it a text signature over a text literal;
        `kind` is the signature's type where it shall be another; `lifetime` in seconds is the signature's own.
        """
        kind = (0x01 if text else 0x00) if kind is None else kind
        signed = claim.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") if kind == 1 else claim
        body = literal(claim, b"t" if text else b"b")
        found = packet(ONE_PASS, self.one_pass(hash, kind))
        found += partial_packet(LITERAL, body) if partial else packet(LITERAL, body)
        found += packet(
            SIGNATURE, self.signature(signed, version=version, hash=hash, kind=kind, lifetime=lifetime, hashed=hashed)
        )
        return compress(found, algorithm) if compressed else found
