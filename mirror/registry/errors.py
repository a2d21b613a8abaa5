"""One table: which error becomes which status and code, and how it is written (protocol.md 1.6 and 2.7, DESIGN 2.9)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from mirror import errors
from mirror.errors import MirrorError
from mirror.registry.routes import Kind
from mirror.registry.scopes import BASIC

_MESSAGE_LIMIT = 1000
_DETAIL_LIMIT = 100
_RETRY_AFTER = 5
_RETRY_AFTER_LIMIT = 300


class Unauthorized(MirrorError):
    """The client must say who it is, as `challenge` (a WWW-Authenticate value) says."""

    def __init__(self, what: str, remedy: str = "", challenge: str = BASIC) -> None:
        super().__init__(what, remedy)
        self.challenge = challenge


class Unsupported(MirrorError):
    """The method is not one of `allowed` for this route."""

    def __init__(self, what: str, remedy: str = "", allowed: tuple[str, ...] = ("GET", "HEAD")) -> None:
        super().__init__(what, remedy)
        self.allowed = allowed


class RangeInvalid(MirrorError):
    """The range lies outside the blob; `total` is the blob's size in bytes."""

    def __init__(self, total: int) -> None:
        super().__init__(f"the range lies outside the blob of {total} bytes")
        self.total = total


class Row(NamedTuple):
    """How one class of error is answered.

    `code` empty means the route's own word for "not here". What is not `told` is said to the log only: the client
    reads that something failed, and its request's id. `retry` is the Retry-After in seconds where the error has none.
    """

    status: int
    code: str = ""
    told: bool = True
    retry: int = 0


# A 404 on a manifest must say MANIFEST_UNKNOWN: with NAME_UNKNOWN containers/image does not take a signature for
# absent (protocol.md 1.6). A refused login of ours is 404 too, never 401 or 403 (2.7): no client may be sent to fetch a
# token for us, and all of them go on to their next mirror at once.
TABLE: Mapping[type[MirrorError], Row] = MappingProxyType(
    {
        MirrorError: Row(500, "UNKNOWN", told=False),
        errors.ConfigurationError: Row(500, "UNKNOWN", told=False),
        errors.InvalidRequest: Row(400, "UNSUPPORTED"),
        errors.NameInvalid: Row(400, "NAME_INVALID"),
        errors.DigestInvalid: Row(400, "DIGEST_INVALID"),
        errors.TagInvalid: Row(400, "MANIFEST_INVALID"),
        errors.UploadInvalid: Row(400, "BLOB_UPLOAD_INVALID"),
        errors.RangeOutOfOrder: Row(416, "BLOB_UPLOAD_INVALID"),
        errors.DigestMismatch: Row(400, "DIGEST_INVALID"),
        errors.SizeMismatch: Row(400, "SIZE_INVALID"),
        errors.ManifestRefused: Row(400, "MANIFEST_INVALID"),
        errors.ManifestInvalid: Row(502, "MANIFEST_INVALID"),
        errors.NotHere: Row(404),
        errors.NameUnknown: Row(404),
        errors.Denied: Row(404),
        errors.UploadUnknown: Row(404, "BLOB_UPLOAD_UNKNOWN"),
        errors.ManifestBlobUnknown: Row(404, "MANIFEST_BLOB_UNKNOWN"),
        errors.Forbidden: Row(403, "DENIED"),
        errors.TagImmutable: Row(403, "DENIED"),
        errors.TooLarge: Row(413, "SIZE_INVALID"),  # the specification has no code for "no room"
        errors.NotYet: Row(503, "UNKNOWN", retry=_RETRY_AFTER),
        errors.StoreError: Row(503, "UNKNOWN", told=False, retry=30),
        errors.StoreUnusable: Row(503, "UNKNOWN", told=False, retry=30),
        errors.StoreFull: Row(503, "UNKNOWN", retry=30),
        errors.CollectionStopped: Row(503, "UNKNOWN", told=False, retry=30),
        errors.StoreReadOnly: Row(503, "UNKNOWN", retry=30),
        errors.StoreUnreadable: Row(503, "UNKNOWN", told=False, retry=_RETRY_AFTER),
        errors.RecordDamaged: Row(503, "UNKNOWN", retry=30),
        errors.Corrupt: Row(503, "UNKNOWN", told=False, retry=_RETRY_AFTER),
        errors.UpstreamError: Row(502, "UNKNOWN"),
        errors.UpstreamNotFound: Row(404),
        errors.UpstreamDenied: Row(404),
        errors.UpstreamLoginRefused: Row(404),
        errors.UpstreamUnavailable: Row(503, "UNKNOWN", retry=_RETRY_AFTER),
        errors.UpstreamInterrupted: Row(503, "UNKNOWN", retry=_RETRY_AFTER),
        errors.UpstreamInvalid: Row(502, "UNKNOWN"),
        errors.NotOffered: Row(404),
        Unauthorized: Row(401, "UNAUTHORIZED"),
        Unsupported: Row(405, "UNSUPPORTED"),
        RangeInvalid: Row(416, "RANGE_INVALID"),  # distribution's code: the specification has none for a read
    }
)

_ABSENT: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.MANIFEST: "MANIFEST_UNKNOWN",
        Kind.BLOB: "BLOB_UNKNOWN",
        Kind.UPLOAD: "BLOB_UPLOAD_UNKNOWN",
        Kind.TAGS: "NAME_UNKNOWN",
        Kind.REFERRERS: "NAME_UNKNOWN",
    }
)


def row_of(error: MirrorError) -> Row:
    """Return the row of an error's class, or of the nearest class above it."""
    return next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def code_of(error: MirrorError, kind: Kind) -> str:
    """Return the error's code on a route of this kind."""
    return row_of(error).code or _ABSENT.get(kind, "UNSUPPORTED")


def retry_after(error: MirrorError) -> int:
    """Return Retry-After in whole seconds, 0 for none: what the error carries, else its row's."""
    seconds = getattr(error, "retry_after", 0)
    if not isinstance(seconds, (int, float)) or not math.isfinite(seconds) or seconds <= 0:
        return row_of(error).retry
    return min(max(math.ceil(seconds), 1), _RETRY_AFTER_LIMIT)


def body_of(code: str, message: str, detail: object = None) -> bytes:
    """Return the body of an error answer (distribution-spec, Error Codes); `detail` is anything that JSON can say."""
    if len(message) > _MESSAGE_LIMIT:
        message = message[:_MESSAGE_LIMIT] + "…"
    error = {"code": code, "message": message}
    if detail is not None:
        return json.dumps({"errors": [{**error, "detail": detail}]}, separators=(",", ":")).encode("ascii")
    return json.dumps({"errors": [error]}, separators=(",", ":")).encode("ascii")


def detail_of(error: MirrorError) -> object:
    """Return what an error answer says in detail, None where it says all in its message."""
    if isinstance(error, errors.ManifestBlobUnknown) and error.digests:
        return [{"digest": digest} for digest in error.digests[:_DETAIL_LIMIT]]
    return None


def message_of(error: MirrorError) -> str:
    """Return what a client may read about an error."""
    if row_of(error).told:
        return errors.without_origins(str(error))
    again = "ask again; " if retry_after(error) else ""
    return f"this registry has a fault: {again}its log says more under the request's X-Request-Id"
