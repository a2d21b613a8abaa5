"""Who may sign a release: the keys of a keyring file, or the release key of Red Hat, which is shipped and pinned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from types import MappingProxyType

from mirror.errors import ConfigurationError, Problem
from mirror.offline.openpgp import KEY_REVOCATION, SUBKEY_BINDING, SUBKEY_REVOCATION, PublicKey, Signature
from mirror.offline.packets import (
    PUBLIC_KEY,
    SECRET_KEY,
    SECRET_SUBKEY,
    SIGNATURE,
    SUBKEY,
    Packet,
    PacketInvalid,
    dearmor,
    packets,
)

RED_HAT = "567E347AD0044ADE55BA8A5F199E2F91FD431D51"  # "Red Hat, Inc. (release key 2)", RSA of 4096 bits, of 2009

_SIZE_LIMIT = 1024 * 1024  # bytes of a keyring; certifications by others can make a key large
_PACKET_LIMIT = 10_000
_KEYBOX = b"KBXf"  # at offset 8 of what GnuPG keeps its own keys in
_EXPORT = "give public keys as `gpg --armor --export KEY` writes them"


@dataclass(frozen=True, slots=True)
class Key:
    """A key that may sign.

    `key_id` is the last 16 digits of its fingerprint, as signatures name it; `certificate` is the fingerprint of the
    primary key that vouches for it, which may be itself. All are upper-case hex.
    """

    fingerprint: str
    key_id: str
    public: PublicKey
    certificate: str


@dataclass(frozen=True, slots=True)
class Keyring:
    """Keys by their long ids, why others of the file are not among them, a sentence each, and what it is called."""

    keys: Mapping[str, Key]
    ignored: tuple[str, ...] = ()
    name: str = ""

    @classmethod
    def read(cls, raw: bytes, where: str) -> Keyring:
        """Return the keys of a file, armored or binary; `where` names it.

        Primary keys count by being in the file: their own signatures on themselves, lifetimes among them, are not
        looked at, as those of old keys are made with SHA-1. A subkey counts if its primary key signed with an accepted
        hash that it may sign; a key that carries a revocation does not count, and none of its subkeys do. Raises
        ConfigurationError where no key is left.
        """
        try:
            if len(raw) > _SIZE_LIMIT:
                raise PacketInvalid(f"has {len(raw)} bytes; at most {_SIZE_LIMIT} are read")
            if raw[8:12] == _KEYBOX:
                raise PacketInvalid("is GnuPG's own keybox")
            found = _Certificates()
            found.read(packets(dearmor(raw), _PACKET_LIMIT))
        except PacketInvalid as error:
            raise ConfigurationError([Problem("keyring_invalid", f"the keyring {error}", where, _EXPORT)]) from None
        keys = dict[str, Key]()
        for key in found.accepted():
            if keys.setdefault(key.key_id, key).fingerprint != key.fingerprint:
                what = f"two keys of the keyring share the id {key.key_id}"
                raise ConfigurationError([Problem("keyring_invalid", what, where, "keep the one that you know")])
        if not keys:
            why = "; ".join(found.ignored) or "there is none in it"
            raise ConfigurationError(
                [Problem("keyring_without_keys", f"no key of the keyring can be used: {why}", where, _EXPORT)]
            )
        return cls(MappingProxyType(keys), tuple(found.ignored), where)


def shipped() -> Keyring:
    """Return the release key of Red Hat. Reads a file of this package: for threads, and for commands as they start."""
    raw = resources.files("mirror.offline").joinpath("keys", "redhat-release.asc").read_bytes()
    keyring = Keyring.read(raw, "redhat-release.asc")
    if [key.fingerprint for key in keyring.keys.values()] != [RED_HAT]:
        what = "the shipped release key is not that of Red Hat"
        raise ConfigurationError([Problem("keyring_invalid", what, "redhat-release.asc", "install this mirror again")])
    return replace(keyring, name=f"the release key of Red Hat, {RED_HAT}, which is shipped")


class _Certificates:
    """Reads a transferable public key after another (RFC 4880 11.1)."""

    def __init__(self) -> None:
        self.ignored: list[str] = []
        self._keys: list[Key] = []
        self._revoked: set[str] = set()
        self._primary: PublicKey | None = None
        self._subkey: PublicKey | None = None

    def read(self, found: Iterable[Packet]) -> None:
        for tag, body in found:
            if tag == PUBLIC_KEY:
                self._primary = self._subkey = None
                try:
                    self._primary = PublicKey.parse(body)
                    self._accept(self._primary, self._primary)
                except PacketInvalid as error:
                    self.ignored.append(f"one {error}")
            elif tag == SUBKEY:
                self._subkey = None
                with suppress(PacketInvalid):  # most are for encryption, by algorithms that sign nothing
                    self._subkey = PublicKey.parse(body)
            elif tag == SIGNATURE and self._primary is not None:
                self._certify(self._primary, body)
            elif tag in (SECRET_KEY, SECRET_SUBKEY):
                self._primary = self._subkey = None
                self.ignored.append("it holds a secret key, which belongs nowhere near this mirror")

    def accepted(self) -> list[Key]:
        """Return the keys that no revocation takes out."""
        return [key for key in self._keys if not {key.fingerprint, key.certificate} & self._revoked]

    def _certify(self, primary: PublicKey, body: bytes) -> None:
        """Take note of a signature by the primary key on itself or on its subkey; others mean nothing here."""
        try:
            signature = Signature.parse(body)
            if signature.kind == KEY_REVOCATION:
                # Whoever wrote the file says so; a false revocation takes away and gives nothing.
                self._revoke(primary)
            elif self._subkey is None:
                return
            elif signature.kind == SUBKEY_REVOCATION:
                self._revoke(self._subkey)
            elif signature.kind == SUBKEY_BINDING and signature.may_sign:
                # Its counterpart by the subkey guards the subkey's owner, not those who trust the primary key.
                if primary.made(signature, primary.framed + self._subkey.framed):
                    self._accept(self._subkey, primary)
                else:
                    self.ignored.append(f"{self._subkey.fingerprint} is bound to its key by a bad signature")
        except PacketInvalid as error:
            if self._subkey is not None:
                self.ignored.append(f"what binds {self._subkey.fingerprint} to its key {error}")

    def _accept(self, key: PublicKey, primary: PublicKey) -> None:
        self._keys.append(Key(key.fingerprint, key.fingerprint[-16:], key, primary.fingerprint))

    def _revoke(self, key: PublicKey) -> None:
        self._revoked.add(key.fingerprint)
        self.ignored.append(f"{key.fingerprint} is revoked")
