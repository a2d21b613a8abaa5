"""What `mirror.platform` of an image set says: which releases, and which parts of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mirror.config.values import SpellingError, expect_text
from mirror.oci.pullspec import Pullspec
from mirror.offline.image_set.fields import Fields
from mirror.offline.image_set.model import ARCHITECTURES, Channel, Platform
from mirror.offline.image_set.once import Once
from mirror.offline.image_set.platforms import read_architectures, read_platforms
from mirror.offline.image_set.problems import quote
from mirror.offline.image_set.pullspecs import parse_image
from mirror.offline.image_set.versions import check_range, parse_release

_MOST_CHANNELS = 100
_MOST_RELEASES = 1_000
# A channel's name becomes a part of URLs and of file names.
_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Releases by channel and by pullspec (each with its `file:line`), and what of them."""

    channels: tuple[Channel, ...]
    releases: tuple[tuple[Pullspec, str], ...]
    architectures: tuple[str, ...]
    platforms: tuple[Platform, ...]
    graph: bool
    kubevirt: bool

    def __bool__(self) -> bool:
        return bool(self.channels or self.releases or self.graph)


def read_releases(at: Fields) -> Wanted:
    """Return what `mirror.platform` says; what is wrong with it is noted."""
    channels, releases = _read_channels(at), _read_pullspecs(at)
    architectures, platforms = read_architectures(at), read_platforms(at)
    if "architectures" in at and "platforms" in at:
        at.find(
            "contradiction",
            f"{at.name('platforms')} and {at.name('architectures')} exclude each other",
            "architectures",
            "keep `platforms` for parts of the multi payload, or `architectures` for whole payloads",
        )
    for platform in platforms:
        if platform.os != "linux" or platform.architecture not in ARCHITECTURES:
            remedy = f"use linux with {', '.join(ARCHITECTURES[:-1])}"
            at.find("invalid_value", f"no release is made for {platform}", "platforms", remedy)
    if releases and channels:
        why = f"because {at.name('release')} is given, which is what oc-mirror does"
        at.warn(f"{at.name('channels')} are left out {why}", "channels")
        channels = ()
    return Wanted(
        channels,
        releases,
        # Parts are only to be had of the payload that holds all of them.
        ("multi",) if platforms else architectures or ("amd64",),
        platforms,
        at.flag("graph"),
        at.flag("kubeVirtContainer"),
    )


def _read_channels(at: Fields) -> tuple[Channel, ...]:
    found: list[Channel] = []
    once = Once()
    for one in at.sections("channels", _MOST_CHANNELS):
        one.need("name", "name: stable-4.16")
        name = one.parse("name", _parse_name)
        channel = Channel(
            name or "",
            "okd" if one.parse("type", _parse_type) == "okd" else "ocp",
            one.parse("minVersion", parse_release) or "",
            one.parse("maxVersion", parse_release) or "",
            one.flag("shortestPath"),
            one.flag("full"),
            one.where(),
        )
        check_range(one, channel.min_version, channel.max_version)
        said, what = replace(channel, where=""), f"the channel {quote(channel.name)}"
        if name and once.is_new(one, name, said, what, "keep one, with the wider range"):
            found.append(channel)
    return tuple(found)


def _read_pullspecs(at: Fields) -> tuple[tuple[Pullspec, str], ...]:
    """Return the releases that are given by pullspec: one, or a list of them."""
    if not at.is_list("release"):
        one = at.parse("release", parse_image)
        return () if one is None else ((one, at.where("release")),)
    found: dict[Pullspec, str] = {}
    for pullspec, where in at.placed("release", _MOST_RELEASES, parse_image):
        if pullspec in found:
            at.warn(f"the release {pullspec} is listed twice: it is taken once", "release")
        found.setdefault(pullspec, where)
    return tuple(found.items())


def _parse_name(value: object) -> str:
    text = expect_text(value)
    if _CHANNEL.fullmatch(text) is None:
        raise SpellingError(f"{quote(text)} is not the name of a channel", "write it as in stable-4.16")
    return text


def _parse_type(value: object) -> str:
    text = expect_text(value)
    if text not in ("ocp", "okd"):
        raise SpellingError(f"{quote(text)} is not a type of channel", "write ocp (the default) or okd")
    return text
