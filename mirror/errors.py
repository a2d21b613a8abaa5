"""The error tree. Every error that leaves a room is one of these.

MirrorError                     what went wrong, in words for the person who reads it
├── ConfigurationError          mirror.yaml (or what it names) is invalid                exit 78
├── InvalidRequest              a client asked for something malformed
│   ├── NameInvalid             a repository name outside the grammar
│   ├── DigestInvalid           a digest outside the grammar
│   ├── TagInvalid              a tag outside the grammar
│   ├── UploadInvalid           an upload that cannot go on like this
│   ├── RangeOutOfOrder         a chunk that does not begin where the upload ends
│   ├── DigestMismatch          what was pushed hashes to another digest
│   ├── SizeMismatch            what was pushed has another length than was said
│   └── ManifestRefused         what was pushed as a manifest is none
├── ManifestInvalid             bytes that are not the manifest they claim to be
├── NotHere                     content that cannot be had now, and why
│   ├── NameUnknown             no upstream takes this name
│   ├── Denied                  configuration does not allow it
│   ├── UploadUnknown           no such upload in this repository
│   └── ManifestBlobUnknown     a pushed manifest names what is not here
├── Forbidden                   a write that this client, or anybody, may not do
│   └── TagImmutable            a tag that keeps the digest it has
├── TooLarge                    a push for which there is no room, or may be none
├── NotYet                      it is coming, but not within this client's time
├── StoreError                  the store on disk
│   ├── StoreUnusable           another owner, a newer format, a file system that keeps no locks   exit 78
│   ├── StoreFull               no room, and nothing may be evicted                      exit 5
│   ├── StoreReadOnly           a file system that takes nothing: what is here is served, and nothing can be changed
│   ├── StoreUnreadable         a file that cannot be read now: it stays where it is, and is not taken for bad
│   │   └── RecordDamaged       a record that was read and makes no sense: it stays there until it is written anew
│   ├── CollectionStopped       a run that would take more than a tenth of the store
│   └── Corrupt                 bytes that do not hash to their name                     exit 4
└── UpstreamError               the other registry
    ├── UpstreamNotFound        404 to a request that it understood
    ├── UpstreamDenied          401 or 403 for this repository, while our login works (or we have none)
    ├── UpstreamLoginRefused    our credential is refused as such
    ├── UpstreamUnavailable     away, too slow, 429 or 5xx: asking again later may help
    │   └── UpstreamInterrupted a body that stopped short: what came is good, the rest is missing
    └── UpstreamInvalid         an answer that is no registry's: HTML, a wrong length, encoded bytes
        └── NotOffered          what a registry answers that has no such API
"""

from __future__ import annotations

import re

_ORIGIN = re.compile(r"https?://(?:\[[0-9A-Fa-f:.]+\]|[^\s/:,;()'\"]+)(?::[0-9]+)?(?:/[^\s:,;()'\"]*)?")


RETRY_AFTER = 5  # seconds after which a client may ask again for what is coming


class MirrorError(Exception):
    """What went wrong and what to do about it.

    `what` is one sentence without secrets or internal names; `remedy` says the next step or is empty.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}" if self.remedy else self.what


class ConfigurationError(MirrorError):
    """The configuration is invalid. Carries every problem that was found, not only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


def without_origins(text: str) -> str:
    """Return a sentence for clients: where an upstream is reached stays inside (names of a private network)."""
    return _ORIGIN.sub("upstream", text)


class Problem:
    """One thing that is wrong: a stable code, what it is, where it is and what mends it."""

    __slots__ = ("code", "remedy", "what", "where")

    def __init__(self, code: str, what: str, where: str = "", remedy: str = "") -> None:
        self.code = code
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}: {self.remedy}" if self.remedy else text

    def __repr__(self) -> str:
        return f"Problem({self.code!r}, {str(self)!r})"

    def as_dict(self) -> dict[str, str]:
        """The form that every `--json` report lists under `problems`."""
        return {"code": self.code, "what": self.what, "where": self.where, "remedy": self.remedy}


class InvalidRequest(MirrorError):
    """A client's request is malformed."""


class NameInvalid(InvalidRequest):
    """A repository name outside the grammar."""


class DigestInvalid(InvalidRequest):
    """A digest outside the grammar."""


class TagInvalid(InvalidRequest):
    """A tag outside the grammar."""


class UploadInvalid(InvalidRequest):
    """An upload that cannot go on like this."""


class RangeOutOfOrder(InvalidRequest):
    """A chunk that does not begin where the upload ends: at `offset` bytes."""

    def __init__(self, what: str, remedy: str = "", offset: int = 0) -> None:
        super().__init__(what, remedy)
        self.offset = offset


class DigestMismatch(InvalidRequest):
    """What was pushed hashes to another digest."""


class SizeMismatch(InvalidRequest):
    """What was pushed has another length than was said."""


class ManifestRefused(InvalidRequest):
    """What was pushed as a manifest is none."""


class ManifestInvalid(MirrorError):
    """Bytes that are not the manifest they claim to be."""


class NotHere(MirrorError):
    """Content that cannot be had now; `what` says why."""


class NameUnknown(NotHere):
    """No upstream takes this name."""


class Denied(NotHere):
    """Configuration does not allow this repository."""


class UploadUnknown(NotHere):
    """The repository has no such upload (any more)."""


class ManifestBlobUnknown(NotHere):
    """A pushed manifest names what is not here; `digests` are those, as text."""

    def __init__(self, what: str, remedy: str = "", digests: tuple[str, ...] = ()) -> None:
        super().__init__(what, remedy)
        self.digests = digests


class Forbidden(MirrorError):
    """A write that this client, or anybody, may not do."""


class TagImmutable(Forbidden):
    """The tag keeps the digest it has."""


class TooLarge(MirrorError):
    """A push for which there is no room, or for which there may be none: limits.blob, a quota, the disk."""


class NotYet(MirrorError):
    """The content is coming, but not within this client's time. `retry_after` is in seconds."""

    def __init__(self, what: str, remedy: str = "", retry_after: int = RETRY_AFTER) -> None:
        super().__init__(what, remedy)
        self.retry_after = retry_after


class StoreError(MirrorError):
    """The store on disk."""


class StoreUnusable(StoreError):
    """Another owner, a newer format, or a file system that does not keep what the store relies on."""


class StoreFull(StoreError):
    """No room, and nothing that may be evicted."""


class StoreReadOnly(StoreError):
    """A file system that takes nothing now: what is here is served, and nothing can be kept or changed."""


class StoreUnreadable(StoreError):
    """A file at `path` that cannot be read now, for the reason `number` (errno): it may be whole, and stays there."""

    retry_after = 5  # seconds

    def __init__(self, what: str, remedy: str = "", number: int = 0, path: str = "") -> None:
        super().__init__(what, remedy)
        self.number = number
        self.path = path


class RecordDamaged(StoreUnreadable):
    """The record at `path` was read and makes no sense: what it said is not known, which is not that it said nothing.

    So whoever leaves alone what cannot be read leaves this alone, too; only who knows what it says writes it anew.
    """

    retry_after = 30  # seconds


class CollectionStopped(StoreError):
    """A run would take more of the store than one may without being told to."""


class Corrupt(StoreError):
    """Bytes that do not hash to their name."""


class UpstreamError(MirrorError):
    """The other registry; `endpoint` is its base URL without userinfo or query, or empty."""

    def __init__(self, what: str, remedy: str = "", endpoint: str = "") -> None:
        super().__init__(what, remedy)
        self.endpoint = endpoint


class UpstreamNotFound(UpstreamError):
    """404 to a request that upstream understood."""


class UpstreamDenied(UpstreamError):
    """401 or 403 for this repository, while our login works or we have none."""


class UpstreamLoginRefused(UpstreamError):
    """Our credential is refused as such, by the token service or for every repository."""


class UpstreamUnavailable(UpstreamError):
    """Away, too slow, 429 or 5xx. `retry_after` is what upstream asked for, in seconds, or 0."""

    def __init__(self, what: str, remedy: str = "", endpoint: str = "", retry_after: float = 0) -> None:
        super().__init__(what, remedy, endpoint)
        self.retry_after = retry_after


class UpstreamInterrupted(UpstreamUnavailable):
    """A body stopped short: the bytes that came are good, the rest can be resumed."""


class UpstreamInvalid(UpstreamError):
    """An answer that is no registry's: a login page, a wrong length, encoded bytes, a refused redirect."""


class NotOffered(UpstreamInvalid):
    """What a registry answers that has no such API: any status, a page, JSON of another kind."""
