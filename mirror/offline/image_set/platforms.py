"""Platforms and architectures as image sets write them."""

from __future__ import annotations

from mirror.config.values import SpellingError, expect_text
from mirror.offline.image_set.fields import Fields
from mirror.offline.image_set.model import ARCHITECTURES, GO_ARCHITECTURES, Platform
from mirror.offline.image_set.problems import quote

_MOST = 50


def read_platforms(at: Fields) -> tuple[Platform, ...]:
    """Return the platforms that are asked for under `platforms`: mappings, or text such as linux/amd64."""
    found: list[Platform] = []
    for item in at.mixed("platforms", _MOST, _parse):
        platform = _platform_of(item) if isinstance(item, Fields) else item
        if platform is not None and platform in found:
            at.warn(f"the platform {platform} is listed twice: it is taken once", "platforms")
        elif platform is not None:
            found.append(platform)
    return tuple(found)


def _parse(value: object) -> Platform:
    return Platform.parse(expect_text(value))


def _platform_of(at: Fields) -> Platform | None:
    at.need("os", "os: linux")
    at.need("architecture", "architecture: amd64")
    system, architecture, variant = at.text("os"), at.text("architecture"), at.text("variant")
    if not system or not architecture:
        return None
    return at.parse("architecture", lambda _value: Platform.of(system, architecture, variant))


def read_architectures(at: Fields) -> tuple[str, ...]:
    """Return the payloads that are asked for under `architectures`."""
    found: list[str] = []
    for architecture in at.values("architectures", _MOST, _parse_architecture):
        if architecture in found:
            at.warn(f"{quote(architecture)} is listed twice: it is taken once", "architectures")
        else:
            found.append(architecture)
    return tuple(found)


def _parse_architecture(value: object) -> str:
    text = expect_text(value)
    if text in ARCHITECTURES:
        return text
    remedy = f"write one of {', '.join(ARCHITECTURES)}"
    go = GO_ARCHITECTURES.get(text.lower(), text.lower())
    if go in ARCHITECTURES:
        remedy = f"write {go}, as Go spells it"
    raise SpellingError(f"{quote(text)} is not an architecture that releases are made for", remedy)
