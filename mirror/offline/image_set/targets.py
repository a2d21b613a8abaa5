"""Where oc-mirror would push an image: a path and a tag, as image sets write them."""

from __future__ import annotations

from mirror.config.values import SpellingError, expect_text
from mirror.errors import TagInvalid
from mirror.oci.reference import check_name, check_tag
from mirror.offline.image_set.problems import quote


def parse_target(value: object) -> str:
    """Return a repository's path without a tag; raise SpellingError or NameInvalid."""
    text = expect_text(value)
    if ":" in text or "@" in text:
        raise SpellingError(f"{quote(text)} holds a tag, a digest or a port", "write the path alone, and `targetTag`")
    return check_name(text)


def parse_tag(value: object) -> str:
    """Return a tag; raise SpellingError."""
    text = expect_text(value)
    try:
        return check_tag(text)
    except TagInvalid:
        remedy = "use letters, digits and . _ - in at most 128 characters, a letter or a digit first"
        raise SpellingError(f"{quote(text)} is not a tag", remedy) from None
