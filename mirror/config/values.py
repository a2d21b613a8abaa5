"""How mirror.yaml spells durations, sizes, percentages and numbers, in both directions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from mirror.redact import escape, redact

_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_BYTES = {
    "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_NUMBER = r"([0-9]{1,19}(?:\.[0-9]{1,6})?)"
_DURATION = re.compile(rf"{_NUMBER} ?(ms|s|m|h|d)")
_SIZE = re.compile(rf"{_NUMBER} ?([A-Za-z]{{1,3}})")
_PERCENT = re.compile(rf"{_NUMBER} ?%")
# A login before a host, also where no scheme tells that this is a URL.
_LOGIN = re.compile(r"[^/\s]*@")

# What no file system and no clock of ours goes beyond, so that arithmetic on it never overflows.
_LARGEST_SIZE = 2**63 - 1
_LONGEST = 100 * 366 * 86400

UNLIMITED = "unlimited"


class SpellingError(ValueError):
    """A value that mirror.yaml may not hold: `what` without secrets, `remedy` what to write, `code` the problem's code.

    With the code `wrong_type`, `what` names only the type that was expected.
    """

    def __init__(self, what: str, remedy: str = "", code: str = "invalid_value") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.code = code


def quote(text: str) -> str:
    """Return `text` for a message: in backticks, shortened, without what may be a secret."""
    plain = escape(_LOGIN.sub("…@", redact(text)))
    return f"`{plain[:80]}…`" if len(plain) > 80 else f"`{plain}`"


def expect_text(value: object) -> str:
    """Return `value` if it is text that is not blank; raise SpellingError."""
    if not isinstance(value, str):
        raise SpellingError("text", code="wrong_type")
    if not value or value != value.strip():
        raise SpellingError("is empty or has spaces around it", "write it without them")
    return value


def parse_duration(value: object) -> float:
    """Return the seconds that `30s`, `5m`, `2h` or `7d` spells; raise SpellingError."""
    example = "write a number and one of s, m, h, d, as in 30s or 7d"
    if isinstance(value, int) and not isinstance(value, bool):
        raise SpellingError(f"{quote(str(value))} has no unit", example)
    if not isinstance(value, str):
        raise SpellingError("a duration such as 30s", code="wrong_type")
    found = _DURATION.fullmatch(value)
    if found is None:
        raise SpellingError(f"{quote(value)} is not a duration", example)
    seconds = Decimal(found[1]) * _SECONDS[found[2]]
    if seconds > _LONGEST:
        raise SpellingError(f"{quote(value)} is more than a hundred years", "write a shorter duration")
    return float(seconds)


def parse_duration_or_unlimited(value: object) -> float:
    """Return the seconds that a duration spells, or infinity for `unlimited`; raise SpellingError."""
    return math.inf if value == UNLIMITED else parse_duration(value)


def parse_timeout(value: object) -> float:
    """Return the seconds of a time limit; `0s` and `unlimited` mean none and give infinity. Raise SpellingError."""
    return parse_duration_or_unlimited(value) or math.inf


def parse_size(value: object) -> int:
    """Return the bytes that `512MiB`, `4GB` or a whole number spells; raise SpellingError."""
    example = "write bytes, or a number and one of KiB, MiB, GiB, TiB, KB, MB, GB, TB, as in 200GiB"
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str):
        found = _SIZE.fullmatch(value)
        if value.isascii() and value.isdigit() and len(value) < 20:
            size = int(value)
        elif found is None:
            raise SpellingError(f"{quote(value)} is not a size", example)
        elif found[2] not in _BYTES:
            remedy = _similar_unit(found[1], found[2]) or example
            raise SpellingError(f"{quote(value)} has no unit that is known here", remedy)
        else:
            size = int(Decimal(found[1]) * _BYTES[found[2]])
    else:
        raise SpellingError("a size such as 200GiB", code="wrong_type")
    if not 0 <= size <= _LARGEST_SIZE:
        raise SpellingError(f"{quote(str(value))} is no size that a disk can have", example)
    return size


def parse_size_limit(value: object) -> int:
    """Return the bytes of a limit; 0 means none and gives the largest size there is. Raise SpellingError."""
    return parse_size(value) or _LARGEST_SIZE


def format_size_limit(size: int) -> str:
    """Return the spelling of a limit in bytes that mirror.yaml takes."""
    return "0" if size == _LARGEST_SIZE else format_size(size)


def _similar_unit(number: str, unit: str) -> str:
    """Return the remedy for `4mib`, `4Gi` (Kubernetes' spelling) and `4G`, which may mean two things; or nothing."""
    prefix = unit[0].upper()
    if prefix not in "KMGT":
        return ""
    rest = unit[1:].lower()
    if rest in ("i", "ib"):
        return f"write {number}{prefix}iB"
    return f"write {number}{prefix}iB (powers of 1024) or {number}{prefix}B (powers of 1000)"


@dataclass(frozen=True, slots=True)
class Amount:
    """A part of a disk: a percentage of its size, or bytes. Exactly one of the two is set."""

    percent: float | None = None
    bytes: int | None = None

    def of(self, total: int) -> int:
        """Return this amount of a disk of `total` bytes, in bytes."""
        return self.bytes if self.bytes is not None else int(total * (self.percent or 0) / 100)


def parse_amount(value: object) -> Amount:
    """Return the amount that `5%` or a size spells; raise SpellingError."""
    if isinstance(value, Amount):
        return value
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        try:
            return Amount(bytes=parse_size(value))
        except SpellingError as error:
            if error.code == "wrong_type":
                raise SpellingError("a percentage such as 5% or a size such as 20GiB", code="wrong_type") from None
            raise
    percent = float(found[1])
    if percent >= 100:
        raise SpellingError(f"{quote(str(value))} leaves nothing", "write less than 100%")
    return Amount(percent=percent)


def count(minimum: int, maximum: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from `minimum` to `maximum`, both included; it raises SpellingError."""

    def parse_count(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise SpellingError("a whole number", code="wrong_type")
        if not minimum <= value <= maximum:
            raise SpellingError(f"{value} is out of range", f"write a whole number from {minimum} to {maximum}")
        return value

    return parse_count


def format_duration(seconds: float) -> str:
    """Return the shortest spelling of `seconds` that mirror.yaml takes."""
    if math.isinf(seconds):
        return UNLIMITED
    if seconds and seconds % 1:
        return f"{round(seconds * 1000)}ms"
    for unit in ("d", "h", "m"):
        whole, rest = divmod(int(seconds), int(_SECONDS[unit]))
        if whole and not rest:
            return f"{whole}{unit}"
    return f"{int(seconds)}s"


def format_size(size: int) -> str:
    """Return a spelling of `size` bytes that mirror.yaml takes and that loses nothing."""
    for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB"):
        whole, rest = divmod(size, _BYTES[unit])
        if whole and not rest:
            return f"{whole}{unit}"
    return str(size)


def count_text(number: int, noun: str) -> str:
    """Return `1 part`, `2 parts`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size_text(size: float) -> str:
    """Return bytes as a person reads them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_amount(amount: Amount) -> str:
    """Return the spelling of an amount that mirror.yaml takes."""
    return f"{amount.percent:g}%" if amount.bytes is None else format_size(amount.bytes)
