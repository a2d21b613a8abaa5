"""Sigstore signatures as cosign pushes them: an image under the tag `sha256-<hex>.sig`, with a key made from a seed."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.tools.images import OCI_CONFIG, OCI_MANIFEST, Content, Manifest

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
DSSE = "application/vnd.dsse.envelope.v1+json"
_ANNOTATION = "dev.cosignproject.cosign/signature"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, SEC 2


class SigstoreKey:
    """A P-256 key that depends on `seed` alone; its signatures are deterministic too (RFC 6979)."""

    def __init__(self, seed: str) -> None:
        number = int.from_bytes(hashlib.sha512(f"sigstore {seed}".encode()).digest(), "big")
        self._key = ec.derive_private_key(number % (_ORDER - 1) + 1, ec.SECP256R1())

    @property
    def public(self) -> bytes:
        """The public key, PEM: what a policy names."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, repository: str, digest: str) -> Manifest:
        """Return the image that signs `digest` as an image of `repository` (host/path)."""
        claim = {
            "critical": {
                "identity": {"docker-reference": repository},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": None,
        }
        payload = Content(SIMPLE_SIGNING, _json(claim))
        signature = self._key.sign(payload.body, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        return _attached(payload, {_ANNOTATION: base64.b64encode(signature).decode()})

    def verify(self, annotations: Mapping[str, str], claim: bytes) -> None:
        """Raise InvalidSignature where the annotations of a layer do not sign its content with this key."""
        signature = base64.b64decode(annotations[_ANNOTATION])
        self._key.public_key().verify(signature, claim, ec.ECDSA(hashes.SHA256()))

    def attest(self, digest: str) -> Manifest:
        """Return the image that cosign keeps under `.att`: an envelope with a statement about `digest`."""
        statement = {"_type": "https://in-toto.io/Statement/v0.1", "subject": [{"digest": {"sha256": digest[7:]}}]}
        envelope = {
            "payloadType": "application/vnd.in-toto+json",
            "payload": base64.b64encode(_json(statement)).decode(),
            "signatures": [],
        }
        return _attached(Content(DSSE, _json(envelope)), {_ANNOTATION: ""})


def tag(digest: str, suffix: str = "sig") -> str:
    """Return the tag under which what is attached to `digest` is found."""
    return f"{digest.replace(':', '-')}.{suffix}"


def _attached(payload: Content, annotations: dict[str, str]) -> Manifest:
    config = Content(
        OCI_CONFIG,
        _json(
            {
                "architecture": "",
                "created": "0001-01-01T00:00:00Z",
                "history": [{"created": "0001-01-01T00:00:00Z"}],
                "os": "",
                "rootfs": {"type": "layers", "diff_ids": [payload.digest]},
                "config": {},
            }
        ),
    )
    body = _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.descriptor(),
            "layers": [payload.descriptor(annotations=annotations)],
        }
    )
    return Manifest(OCI_MANIFEST, body, blobs=(config, payload))


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
