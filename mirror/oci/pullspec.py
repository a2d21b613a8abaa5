"""Pullspecs: an image's name as people and manifests write it, `host[:port]/repository[:tag][@digest]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirror.errors import InvalidRequest, NameInvalid
from mirror.oci.digest import Digest
from mirror.oci.reference import check_name, check_tag

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?")
_TRANSPORT = "docker://"
_HUB = "docker.io"


@dataclass(frozen=True, slots=True, order=True)
class Pullspec:
    """An image: where it is, and which one. Without tag and digest it is the repository alone."""

    host: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.source}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def source(self) -> str:
        """The repository as clients name it: host[:port]/repository."""
        return f"{self.host}/{self.repository}"

    @property
    def reference(self) -> Digest | str:
        """What to ask for: the digest where there is one, else the tag, else `latest`."""
        return self.digest or self.tag or "latest"

    @classmethod
    def parse(cls, text: str) -> Pullspec:
        """Return the pullspec that `text` spells; raise NameInvalid, TagInvalid, DigestInvalid.

        The host must be there: a short name means another image on every machine. Docker Hub's single names get
        their `library/`.
        """
        rest = text.removeprefix(_TRANSPORT)
        rest, at, digest = rest.partition("@")
        host, slash, path = rest.partition("/")
        if not slash or not _is_host(host):
            raise NameInvalid(
                f"'{text[:160]}' names no registry", "write host[:port]/repository[:tag][@digest], the registry first"
            )
        repository, colon, tag = path.partition(":")
        if host == _HUB and "/" not in repository:
            repository = f"library/{repository}"
        return cls(
            host.lower(),
            check_name(repository),
            check_tag(tag) if colon else "",
            Digest.parse(digest) if at else None,
        )


def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None and ("." in text or ":" in text or text == "localhost")


def is_pullspec(text: str) -> bool:
    """Tell whether `text` spells a pullspec."""
    try:
        Pullspec.parse(text)
    except InvalidRequest:
        return False
    return True
