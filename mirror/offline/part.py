"""The form of a part: a plain tar that says of itself what it holds, byte for byte the same whenever it is written.

    mirror-part.json      the index: set, generation, which part of how many, of which save, each member's sha256
    mirror-part.sha256    the index's own checksum, as `sha256sum -c` reads it
    plan.json             the whole plan: what the set needs, whichever part brings it
    contents.txt          each digest of the plan and which parts bring it: "<digest> 2", "<digest> 1@0 2@73728" for
                          spans and where they begin, "<digest> presumed" where the other side has it
    signatures/sha256=<hex>/signature-<N>
    blobs/<alg>/<hex>              a whole content
    blobs/<alg>/<hex>.<offset>     a span of one: the rest is in other parts, or in further members

Headers are ustar (IEEE 1003.1-2017, pax, "ustar Interchange Format") with nothing left to choice, so a reader knows
each one, and where it is, from the index alone. What was not written like that is refused without being interpreted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mirror.errors import Corrupt, DigestInvalid, MirrorError
from mirror.oci.digest import Digest
from mirror.oci.reference import check_set
from mirror.offline import ustar
from mirror.offline.plan import SIZE_LIMIT as PLAN_LIMIT
from mirror.store.signatures import SIZE_LIMIT as SIGNATURE_LIMIT

SCHEMA = 1
INDEX, CHECKSUM, PLAN, CONTENTS = "mirror-part.json", "mirror-part.sha256", "plan.json", "contents.txt"
INDEX_LIMIT = 64 * 1024 * 1024  # bytes
CONTENTS_LIMIT = 128 * 1024 * 1024
PARTS_LIMIT = 99_999

_FILE_NAME = re.compile(r"(?P<set>.+)-(?P<generation>[0-9]+)-(?P<part>[0-9]{3,5})-of-(?P<parts>[0-9]{3,5})\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"signatures/(sha256|sha512)=([0-9a-f]+)/signature-([1-9][0-9]{0,5})")
_SPAN = "[1-9][0-9]{0,4}@(?:0|[1-9][0-9]{0,15})"
_CONTENT = re.compile(rf"(\S+) (?:presumed|([1-9][0-9]{{0,4}}|{_SPAN}(?: {_SPAN})+))")
_BLOB = re.compile(r"blobs/(sha256|sha512)/([0-9a-f]{64})(?:/([0-9a-f]{64}))?(?:\.(0|[1-9][0-9]{0,15}))?")

# For each digest the parts that bring it, each with the offset of its span; none where it is presumed to be there.
Contents = Mapping[Digest, tuple[tuple[int, int], ...]]

How = Literal["all", "have", "since", "want"]
_HOW = ("all", "have", "since", "want")


class PartDamaged(Corrupt):
    """A part, or a member of one, that is not as it was written."""


class PartUnsupported(MirrorError):
    """A part of a newer release."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a part: its name, its size in bytes and the sha256 of them in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Which bytes of which content a member holds; `offset` is None where it holds all of them."""

    digest: Digest
    offset: int | None


@dataclass(frozen=True, slots=True)
class Index:
    """What a part says of itself. `save` names the save that all its parts come from.

    `because` is for people: the generation or the list on the ground of which something is presumed.
    """

    set: str
    generation: int
    part: int
    parts: int
    save: str
    plan: Digest
    how: How
    because: str
    members: tuple[Member, ...]

    @property
    def file_name(self) -> str:
        """The file that this part is written to."""
        return file_name(self.set, self.generation, self.part, self.parts)

    def dump(self) -> bytes:
        """Return the index's bytes: a member a line. Their number does not depend on the checksums."""
        head = {
            "schema": SCHEMA,
            "kind": "mirror part",
            "set": self.set,
            "generation": self.generation,
            "part": self.part,
            "parts": self.parts,
            "save": self.save,
            "plan": str(self.plan),
            "how": self.how,
            "because": self.because,
        }
        lines = [f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
        members = ",\n".join(index_line(one) for one in self.members)
        return ("{\n" + "".join(lines) + ' "members": [\n' + members + "\n ]\n}\n").encode()

    @classmethod
    def parse(cls, raw: bytes) -> Index:
        """Return the index that `raw` holds; raise PartDamaged, PartUnsupported."""
        try:
            found = json.loads(raw)
            if not isinstance(found, dict) or found.get("kind") != "mirror part":
                raise PartDamaged("its index is not one of a part")
            if found.get("schema") != SCHEMA:
                raise PartUnsupported(
                    f"a part of schema {str(found.get('schema'))[:20]} is of a newer release", "upgrade this mirror"
                )
            return _parse(found)
        except (LookupError, TypeError, ValueError, RecursionError, AttributeError) as error:
            raise PartDamaged(f"its index makes no sense ({str(error)[:160]})") from None
        except (PartDamaged, PartUnsupported):
            raise
        except MirrorError as error:
            raise PartDamaged(f"its index makes no sense ({error.what[:160]})") from None

    def places(self) -> Iterator[tuple[Member, int]]:
        """Yield each listed member and where its header is in the file."""
        position = ustar.stored(len(self.dump())) + ustar.stored(CHECKSUM_SIZE)
        for member in self.members:
            yield member, position
            position += ustar.stored(member.size)

    @property
    def size(self) -> int:
        """The bytes of the whole file."""
        fixed = ustar.stored(len(self.dump())) + ustar.stored(CHECKSUM_SIZE) + len(ustar.END)
        return fixed + sum(ustar.stored(one.size) for one in self.members)


CHECKSUM_SIZE = 64 + 2 + len(INDEX) + 1


def index_line(member: Member) -> str:
    """Return the line of the index that lists a member."""
    return "  " + json.dumps({"name": member.name, "size": member.size, "sha256": member.sha256})


def checksum(index: bytes) -> bytes:
    """Return what `mirror-part.sha256` holds."""
    return f"{hashlib.sha256(index).hexdigest()}  {INDEX}\n".encode()


def blob_name(digest: Digest, offset: int | None) -> str:
    """Return what a content, or a span of it from `offset`, is called. ustar cannot say 128 characters in one go."""
    encoded = digest.hex if digest.algorithm == "sha256" else f"{digest.hex[:64]}/{digest.hex[64:]}"
    return f"blobs/{digest.algorithm}/{encoded}" + ("" if offset is None else f".{offset}")


def signature_name(release: Digest, number: int) -> str:
    """Return what a signature is called, as clients ask for it."""
    return f"signatures/{release.algorithm}={release.hex}/signature-{number}"


def piece(name: str) -> Piece | None:
    """Return what a member of this name holds of a content, None for other members."""
    match = _BLOB.fullmatch(name)
    if match is None:
        return None
    try:
        digest = Digest.parse(f"{match[1]}:{match[2]}{match[3] or ''}")
    except DigestInvalid:
        return None
    found = Piece(digest, None if match[4] is None else int(match[4]))
    return found if blob_name(digest, found.offset) == name else None


def file_name(name: str, generation: int, part: int, parts: int) -> str:
    """Return what the file of a part is called."""
    return f"{name}-{generation}-{part:03}-of-{parts:03}.tar"


def is_file_name(name: str) -> bool:
    """Tell whether a file is called as parts are."""
    return _FILE_NAME.fullmatch(name) is not None


def dump_contents(contents: Contents, size: int = 0) -> bytes:
    """Return `contents.txt`, with empty lines at its end up to `size` bytes."""
    lines = []
    for digest in sorted(contents):
        spans = contents[digest]
        if not spans:
            lines.append(f"{digest} presumed\n")
        elif len(spans) == 1:
            lines.append(f"{digest} {spans[0][0]}\n")
        else:
            lines.append(f"{digest} {' '.join(f'{number}@{offset}' for number, offset in spans)}\n")
    raw = "".join(lines).encode()
    return raw + b"\n" * (size - len(raw))


def parse_contents(raw: bytes) -> Contents:
    """Return what a `contents.txt` says; raise PartDamaged."""
    found: dict[Digest, tuple[tuple[int, int], ...]] = {}
    try:
        for line in raw.decode("ascii").split("\n"):
            if line:
                match = _CONTENT.fullmatch(line)
                if match is None:
                    raise PartDamaged(f"'{line[:100]}' does not say where a digest is")
                places = match[2].split(" ") if match[2] else []
                spans = [
                    (int(number), int(offset or 0)) for number, _, offset in (one.partition("@") for one in places)
                ]
                if spans != sorted(set(spans)) or (spans and spans[0][1] != 0):
                    raise PartDamaged(f"'{line[:100]}' has spans out of order")
                found[Digest.parse(match[1])] = tuple(spans)
    except (UnicodeDecodeError, DigestInvalid) as error:
        raise PartDamaged(f"it makes no sense ({str(error)[:160]})") from None
    return found


def _parse(found: dict[str, Any]) -> Index:
    because = found["because"]
    if found["how"] not in _HOW or not isinstance(because, str) or len(because) > 1000:
        raise ValueError("it does not say why what is missing is missing")
    index = Index(
        check_set(found["set"]),
        _number(found["generation"], 1, 2**31),
        _number(found["part"], 1, PARTS_LIMIT),
        _number(found["parts"], 1, PARTS_LIMIT),
        _sha256(found["save"]),
        Digest.parse(found["plan"]),
        found["how"],
        because,
        tuple(
            Member(str(one["name"]), _number(one["size"], 0, ustar.SIZE_LIMIT), _sha256(one["sha256"]))
            for one in found["members"]
        ),
    )
    if index.part > index.parts:
        raise ValueError(f"part {index.part} of {index.parts}")
    _check_members(index.members)
    return index


def _check_members(members: tuple[Member, ...]) -> None:
    """Raise ValueError where a member is none that parts have, comes twice, or is out of order."""
    if len({one.name for one in members}) != len(members):
        raise ValueError("a member is listed twice")
    if [one.name for one in members[:2]] != [PLAN, CONTENTS]:
        raise ValueError("the plan does not come first")
    if members[0].size > PLAN_LIMIT or members[1].size > CONTENTS_LIMIT:
        raise ValueError("the plan is too large")
    blobs = False
    for member in members[2:]:
        held = piece(member.name)
        if held is not None:
            blobs = True
            if held.offset is None and held.digest.algorithm == "sha256" and held.digest.hex != member.sha256:
                raise ValueError(f"{member.name} is listed with another checksum")
            if held.offset is not None and not member.size:
                raise ValueError(f"{member.name} is empty")
        elif blobs or not _is_signature(member):
            raise ValueError(f"parts have no member '{member.name[:100]}' there")


def _is_signature(member: Member) -> bool:
    match = _SIGNATURE.fullmatch(member.name)
    if match is None or member.size > SIGNATURE_LIMIT:
        return False
    try:
        Digest.parse(f"{match[1]}:{match[2]}")
    except DigestInvalid:
        return False
    return True


def _number(value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{str(value)[:40]} is not a number that is expected here")
    return value


def _sha256(value: object) -> str:
    if not isinstance(value, str) or _SHA256.fullmatch(value) is None:
        raise ValueError("a checksum is not valid")
    return value
