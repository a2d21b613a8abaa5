"""Content digests (OCI image-spec, descriptor.md, Digests): sha256 and sha512 in their exact lower-case form."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from mirror.errors import DigestInvalid

if TYPE_CHECKING:
    from hashlib import _Hash

_GRAMMAR = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class Digest(NamedTuple):
    """An algorithm and its lower-case hex; made by `parse` or `of`, so it is safe in a path."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest that `text` spells; raise DigestInvalid for every other spelling, case included."""
        if _GRAMMAR.fullmatch(text) is None:
            raise DigestInvalid(
                f"'{text[:160]}' is not a digest", "write sha256: or sha512: and the lower-case hex of its length"
            )
        algorithm, _, encoded = text.partition(":")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """Return the digest of `content`."""
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def hasher(self) -> _Hash:
        """Return an empty hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)
