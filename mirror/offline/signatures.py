"""Whether a release is what its signer published: its signatures fetched, and verified before anything is believed.

The rules are those of the cluster's own check (library-go, pkg/verify) or stricter. A signature counts if it is by a
key of the keyring, over the claim, with SHA-256 or better, has not run out, and the claim is of this very digest. A
key's own lifetime does not count, there as here: releases outlive the dates in keys.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mirror import logs
from mirror.errors import ConfigurationError, Corrupt, MirrorError, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.offline.claim import Claim, ClaimInvalid
from mirror.offline.keyring import Key, Keyring
from mirror.offline.openpgp import BINARY, TEXT, Signature
from mirror.offline.packets import LITERAL, MARKER, ONE_PASS, SIGNATURE, Octets, Packet, PacketInvalid, unpack
from mirror.redact import redact

SIZE_LIMIT = 64 * 1024  # bytes of a signature, and of what comes out of its compression
_DEPTH = 2  # signers compress once
_SIGNERS = 4  # of one message
_PACKETS = 16
_PER_STORE = 9  # signature-1 to signature-9: no client asks for more
_END_OF_LINE = re.compile(rb"\r?\n")

_log = logs.get("offline.signatures")


class SignatureInvalid(Corrupt):
    """A release whose signature does not hold; `why` completes "it …" and says which rule it breaks."""

    def __init__(self, what: str, remedy: str = "", why: str = "") -> None:
        super().__init__(what, remedy)
        self.why = why

    def of(self, image: str) -> SignatureInvalid:
        """Return the same said of a release by its image's name, where this says only its digest."""
        return _none_holds(image, self.why or self.what, self.remedy)


@dataclass(frozen=True, slots=True)
class Verified:
    """A claim that was proven: by which certificate (fingerprint), with a signature packet of which version."""

    claim: Claim
    fingerprint: str
    version: int


def verify(raw: bytes, digest: Digest, keyring: Keyring, *, now: float | None = None) -> Verified:
    """Return what the signed message `raw` proves of the release `digest`; raise SignatureInvalid.

    `now` is the Unix time at which the signature must not have run out, by default that of the clock.
    """
    try:
        content, signatures = _message(raw)
        key, signature = _proven(content, signatures, keyring, time.time() if now is None else now)
        try:
            claim = Claim.parse(content)
        except ClaimInvalid as error:
            raise PacketInvalid(f"is signed, but its claim {error}") from None
        if claim.digest != digest:
            raise PacketInvalid(f"signs another digest, {claim.digest}")
    except PacketInvalid as error:
        what = f"this is not a valid signature of {digest}: it {error}"
        raise SignatureInvalid(what, "look at releases.keyring and releases.signature_stores", str(error)) from None
    return Verified(claim, key.certificate, signature.version)


def _message(raw: bytes) -> tuple[bytes, list[Signature]]:
    """Return the content of a signed message and the signatures on it, outermost last (RFC 4880 11.3)."""
    if len(raw) > SIZE_LIMIT:
        raise PacketInvalid(f"has {len(raw)} bytes; at most {SIZE_LIMIT} are read")
    found = [one for one in unpack(raw, size=SIZE_LIMIT, depth=_DEPTH, limit=_PACKETS) if one.tag != MARKER]
    count = len(found) // 2
    tags = [ONE_PASS] * count + [LITERAL] + [SIGNATURE] * count
    if not 1 <= count <= _SIGNERS or [one.tag for one in found] != tags:
        raise PacketInvalid("is not a signed message")
    signatures = [Signature.parse(one.body) for one in found[count + 1 :]]
    for announced, signature in zip(reversed(found[:count]), signatures, strict=True):
        _check_announced(announced, signature)
    return _literal(found[count].body), signatures


def _check_announced(announced: Packet, signature: Signature) -> None:
    """Raise PacketInvalid where a one-pass packet (5.4) announces another signature than the one that comes."""
    octets = Octets(announced.body)
    version, kind, hash_code, algorithm = octets.take(4)
    issuer = octets.take(8).hex().upper()
    octets.take(1)
    if octets.left or version != 3:
        raise PacketInvalid("has a one-pass packet of an unknown form")
    said = (signature.kind, signature.hash, signature.algorithm, signature.issuer)
    if (kind, hash_code, algorithm, issuer) != said:
        raise PacketInvalid("announces another signature than it has")


def _literal(body: bytes) -> bytes:
    """Return what a literal data packet holds (5.9)."""
    octets = Octets(body)
    if octets.take(1) not in (b"b", b"t", b"u"):
        raise PacketInvalid("has content of an unknown form")
    octets.take(octets.number(1) + 4)  # a file's name and date, which nothing proves
    return octets.rest()


def _proven(content: bytes, signatures: Sequence[Signature], keyring: Keyring, now: float) -> tuple[Key, Signature]:
    """Return the first signature on `content` that holds, and the key that made it; raise PacketInvalid."""
    reasons = []
    for signature in signatures:
        try:
            return _holds(content, signature, keyring, now), signature
        except PacketInvalid as error:
            reasons.append(str(error))
    raise PacketInvalid(", and ".join(dict.fromkeys(reasons)))


def _holds(content: bytes, signature: Signature, keyring: Keyring, now: float) -> Key:
    key = keyring.keys.get(signature.issuer)
    if key is None:
        raise PacketInvalid(f"is signed by the unknown key {signature.issuer or '(not named)'}")
    if signature.kind not in (BINARY, TEXT):
        raise PacketInvalid(f"has a signature of type 0x{signature.kind:02X}, which is not that of a document")
    signed = _END_OF_LINE.sub(b"\r\n", content) if signature.kind == TEXT else content
    if not key.public.made(signature, signed):
        raise PacketInvalid(f"has a bad signature by {signature.issuer}: something in it was changed")
    if signature.lifetime and signature.created + signature.lifetime < now:
        ended = time.strftime("%Y-%m-%d", time.gmtime(signature.created + signature.lifetime))
        raise PacketInvalid(f"has a signature that expired on {ended}")
    return key


class Candidate(NamedTuple):
    """Bytes that are said to be a signature, and where they were found, for people."""

    where: str
    raw: bytes


def check(
    digest: Digest, candidates: Iterable[Candidate], keyring: Keyring, image: str = ""
) -> tuple[list[tuple[int, bytes]], tuple[str, ...]]:
    """Return the signatures of the release `digest` that hold, numbered from 1, and the fingerprints that signed.

    `image` is what people know it as. Raises SignatureInvalid where none holds, with the reason of each.
    """
    kept, signers, reasons = list[tuple[int, bytes]](), set[str](), list[str]()
    for where, raw in candidates:
        try:
            signers.add(verify(raw, digest, keyring).fingerprint)
            kept.append((len(kept) + 1, raw))
        except SignatureInvalid as error:
            _log.info("signature_left_out", release=str(digest), where=where, why=error.why)
            reasons.append(f"{where}: it {error.why}")
    if not kept:
        raise _none_holds(image or str(digest), "; ".join(reasons) or "there is none", remedy(keyring))
    return kept, tuple(sorted(signers))


def remedy(keyring: Keyring) -> str:
    """Return what to do about a release without a signature that holds: what each of the choices means."""
    return (
        f"the keyring in use is {keyring.name}. The signatures of Red Hat's releases are in"
        " `releases.signature_stores`: sync the release where those can be reached, and `mirror save` carries its"
        " signature along. OKD and your own builds are not signed by Red Hat: name the key of their signer as"
        " `releases.keyring`, or accept releases without a signature with `releases.require_signature: false`"
    )


def _none_holds(image: str, why: str, remedy: str) -> SignatureInvalid:
    return SignatureInvalid(f"release {image} has no valid signature: {why}", remedy, why)


class DocumentsProtocol(Protocol):
    """What fetches documents by URL."""

    async def get(self, url: str, *, limit: int) -> bytes | None:
        """Return the document at `url`, at most `limit` bytes, None where there is none. Raises MirrorError."""
        ...


class Found(NamedTuple):
    """What signature stores gave: signatures, each once, and the stores that could not be asked, with the reason."""

    candidates: list[Candidate]
    failures: list[tuple[str, MirrorError]]


class SignatureStores:
    """The stores in which signers publish: `<store>/sha256=<hex>/signature-<N>` (containers/image, lookaside)."""

    def __init__(self, documents: DocumentsProtocol, stores: Sequence[str]) -> None:
        self._documents = documents
        self._stores = tuple(stores)

    async def fetch(self, digest: Digest) -> list[tuple[int, bytes]]:
        """Return the signatures that all stores together have, each once, numbered from 1 in the order of the stores.

        Nothing of them is verified. Raises UpstreamUnavailable where no store could be asked, and ConfigurationError
        where one of them never can.
        """
        found = await self.search(digest)
        return [(number, one.raw) for number, one in enumerate(found.candidates, 1)]

    async def search(self, digest: Digest) -> Found:
        """Return the same as `fetch`, each with where it was found, and the stores that failed."""
        found = await self.ask(digest)
        if found.failures and len(found.failures) == len(self._stores) and not found.candidates:
            why = "; ".join(f"{store}: {error.what}" for store, error in found.failures)
            raise UpstreamUnavailable(
                f"no signature store could be asked for {digest}: {why}",
                found.failures[0][1].remedy,
                retry_after=max(getattr(error, "retry_after", 0.0) for _, error in found.failures),
            )
        return found

    async def ask(self, digest: Digest) -> Found:
        """Return the same as `search`, also where no store could be asked. Raises ConfigurationError."""
        answers = await asyncio.gather(*(self._ask(store, digest) for store in self._stores))
        failures = [(redact(store), error) for store, (_, error) in zip(self._stores, answers, strict=True) if error]
        for _, error in failures:
            if isinstance(error, ConfigurationError):
                raise error
        candidates = dict[bytes, Candidate]()
        for some, _ in answers:
            for one in some:
                candidates.setdefault(one.raw, one)
        return Found(list(candidates.values()), failures)

    async def _ask(self, store: str, digest: Digest) -> tuple[list[Candidate], MirrorError | None]:
        """Return what one store has, and what stopped it short of its end."""
        found: list[Candidate] = []
        for number in range(1, _PER_STORE + 1):
            url = f"{store.rstrip('/')}/{digest.algorithm}={digest.hex}/signature-{number}"
            try:
                raw = await self._documents.get(url, limit=SIZE_LIMIT)
            except MirrorError as error:
                return found, error
            if raw is None:
                break
            if raw:
                found.append(Candidate(redact(url), raw))
        return found, None


async def verify_release(
    digest: Digest,
    stores: SignatureStores,
    keyring: Keyring,
    *,
    known: Sequence[Candidate] | None = None,
    image: str = "",
) -> tuple[list[tuple[int, bytes]], tuple[str, ...]]:
    """Return the signatures of a release that hold, numbered from 1, and the fingerprints that signed.

    Where something is `known` already, be it nothing, the stores are asked only if none of it holds, and their being
    away is one more reason; `image` is what people know the release as. Raises SignatureInvalid where none holds, with
    the reason of each signature and store; UpstreamUnavailable where no store could be asked.
    """
    if known is not None:
        with suppress(SignatureInvalid):
            return check(digest, known, keyring, image)
    found = await (stores.search(digest) if known is None else stores.ask(digest))
    try:
        return check(digest, [*(known or ()), *found.candidates], keyring, image)
    except SignatureInvalid as error:
        if not found.failures:
            raise
        asked = "; ".join(f"{store} could not be asked ({failure.what})" for store, failure in found.failures)
        raise SignatureInvalid(f"{error.what}; {asked}", error.remedy, f"{error.why}; {asked}") from None
