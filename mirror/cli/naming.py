"""What people name on the command line: a repository, with a tag or a digest or without, and what that means here."""

from __future__ import annotations

from typing import NamedTuple

from mirror.cli.desk import Desk
from mirror.content.answers import Target
from mirror.errors import ConfigurationError, InvalidRequest, NotHere, Problem
from mirror.oci.digest import Digest
from mirror.oci.reference import check_name, check_tag


class Named(NamedTuple):
    """A repository as it was spelled, with a tag (or empty), or a digest (or None)."""

    name: str
    tag: str = ""
    digest: Digest | None = None

    def __str__(self) -> str:
        if self.digest is not None:
            return f"{self.name}@{self.digest}"
        return f"{self.name}:{self.tag}" if self.tag else self.name


def parse_named(text: str) -> Named:
    """Return what NAME[:TAG|@DIGEST] names. Raises ConfigurationError."""
    try:
        name, at, digest = text.partition("@")
        if at:
            return Named(check_name(name), digest=Digest.parse(digest))
        name, colon, tag = text.partition(":")
        return Named(check_name(name), check_tag(tag) if colon else "")
    except InvalidRequest as error:
        raise ConfigurationError([Problem("name_invalid", error.what, text[:160], error.remedy)]) from None


def is_image(text: str) -> bool:
    """Tell whether what follows an @ is a digest, so that no generation of a set is meant."""
    return ":" in text.partition("@")[2]


def find_target(desk: Desk, name: str) -> Target:
    """Return what a name means that a client spells, or the folder's name of a repository that is kept. For threads.

    Raises NotHere where it means nothing.
    """
    kept = any((desk.opened.layout.repositories / name / part).is_dir() for part in ("_tags", "_manifests", "_blobs"))
    try:
        target = desk.opened.content.resolve(name, None, None)
    except NotHere:
        if not kept:
            raise
        return desk.target(name)
    # What an upstream brought that is not configured any more has its name all the same.
    there = any((desk.opened.layout.repositories / target.name / part).is_dir() for part in ("_tags", "_manifests"))
    return target if there or not kept or target.hosted else desk.target(name)
