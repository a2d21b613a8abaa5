"""Versions as image sets write them, and which of two is the older."""

from __future__ import annotations

import re

from mirror.config.values import SpellingError, expect_text
from mirror.offline.image_set.fields import Fields
from mirror.offline.image_set.problems import quote

_NUMBER = r"(0|[1-9][0-9]{0,17})"
_WORD = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_REST = rf"(?:-({_WORD}(?:\.{_WORD})*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
# Semantic Versioning 2.0.0 to the letter, as the update graph's clients read releases ...
_STRICT = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}{_REST}")
# ... and with a `v` before it or fewer numbers, as operator catalogs are asked.
_LENIENT = re.compile(rf"v?{_NUMBER}(?:\.{_NUMBER})?(?:\.{_NUMBER})?{_REST}")
_LONGEST = 128

Precedence = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]


def parse_release(value: object) -> str:
    """Return `value` if it is the version of a release, `x.y.z[-prerelease][+build]`; raise SpellingError."""
    text = expect_text(value)
    if len(text) > _LONGEST or _STRICT.fullmatch(text) is None:
        raise SpellingError(f"{quote(text)} is not the version of a release", _remedy(text))
    return text


def parse_operator(value: object) -> str:
    """Return `value` if it is a version, `[v]x[.y[.z]][-prerelease][+build]`; raise SpellingError."""
    text = expect_text(value)
    if len(text) > _LONGEST or _LENIENT.fullmatch(text) is None:
        raise SpellingError(f"{quote(text)} is not a version", "write it as in 1.4.0")
    return text


def precedence(version: str) -> Precedence:
    """Return what orders a version that was parsed here (Semantic Versioning 2.0.0, 11); builds do not count."""
    found = _LENIENT.fullmatch(version)
    if found is None:
        raise ValueError(version)
    words = found[4].split(".") if found[4] else []
    return (
        tuple(int(number or 0) for number in found.group(1, 2, 3)),
        not words,
        tuple((not word.isdigit(), int(word) if word.isdigit() else 0, word) for word in words),
    )


def check_range(at: Fields, least: str, most: str) -> None:
    """Note a problem where `minVersion` is newer than `maxVersion`; both were parsed here, or are empty."""
    if least and most and precedence(least) > precedence(most):
        at.find("contradiction", f"minVersion {least} is newer than maxVersion {most}", "minVersion", "exchange them")


def _remedy(text: str) -> str:
    plain = text.removeprefix("v")
    if len(plain) <= _LONGEST and _STRICT.fullmatch(plain):
        return f"write {plain}"
    if len(plain) <= _LONGEST and re.fullmatch(r"[0-9]+\.[0-9]+", plain):
        return f"write all three numbers, as in {plain}.0"
    return "write it as in 4.16.3 or 4.17.0-rc.2"
