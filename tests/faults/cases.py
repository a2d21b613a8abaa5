"""The matrix: what an upstream does, and what a client of each plane gets for it."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tests.peers import faults

PLANES = ("blob", "small", "digest", "tag", "known", "tags", "listed")


@dataclass(frozen=True)
class Want:
    """What a client gets: status, error code or X-Cache word, and the most requests that upstream may see for it."""

    status: int
    word: str = ""
    requests: int = 1
    warned: bool = False


def _planes(**wants: Want) -> Mapping[str, Want]:
    return wants


def _asked(wants: Mapping[str, Want], requests: int) -> Mapping[str, Want]:
    return {plane: replace(want, requests=requests) for plane, want in wants.items()}


# 404, and 401/403 without a login that could help: believed at once, and clients fall through.
ABSENT = _planes(
    blob=Want(404, "BLOB_UNKNOWN"),
    small=Want(404, "BLOB_UNKNOWN"),
    digest=Want(404, "MANIFEST_UNKNOWN"),
    tag=Want(404, "MANIFEST_UNKNOWN"),
    known=Want(404, "MANIFEST_UNKNOWN", 2),
    tags=Want(404, "NAME_UNKNOWN"),
    listed=Want(404, "NAME_UNKNOWN"),
)
# Away, too slow, 429, 5xx: asked again at most twice, then what is known, else 503.
AWAY = _planes(
    blob=Want(503, "UNKNOWN", 3),
    small=Want(503, "UNKNOWN", 3),
    digest=Want(503, "UNKNOWN", 3),
    tag=Want(503, "UNKNOWN", 3),
    known=Want(200, "STALE", 3, warned=True),
    tags=Want(503, "UNKNOWN", 3),
    listed=Want(200, "", 3, warned=True),
)
# A HEAD that is answered so is followed by a GET.
FAILS = {**AWAY, "known": Want(200, "STALE", 6, warned=True)}
# An answer that is no registry's: not asked again, not believed, not kept.
INVALID = _planes(
    blob=Want(502, "UNKNOWN"),
    small=Want(502, "UNKNOWN"),
    digest=Want(502, "UNKNOWN"),
    tag=Want(502, "UNKNOWN"),
    known=Want(200, "STALE", 2, warned=True),
    tags=Want(502, "UNKNOWN"),
    listed=Want(200, "", 1, warned=True),
)
# Lists are asked for without the size of a page then.
REFUSED = {**INVALID, "tags": Want(502, "UNKNOWN", 2), "listed": Want(200, "", 2, warned=True)}
# A blob's digest is of what was asked for, so nothing is decoded.
INVALID_BLOB = _planes(blob=Want(502, "UNKNOWN", 2), small=Want(502, "UNKNOWN", 2))
# The connection ends without an answer: aiohttp asks once more by itself before that counts as one try.
CLOSED = _asked(AWAY, 6)
# What is over after one answer is asked again and never seen by a client.
PASSES = _planes(
    blob=Want(200, "MISS", 2),
    small=Want(200, "MISS", 2),
    digest=Want(200, "MISS", 2),
    tag=Want(200, "MISS", 2),
    known=Want(200, "HIT", 2),
    tags=Want(200, "", 2),
    listed=Want(200, "", 2),
)
# What needs no second question.
AT_ONCE = _planes(
    blob=Want(200, "MISS"),
    small=Want(200, "MISS"),
    digest=Want(200, "MISS"),
    tag=Want(200, "MISS"),
    known=Want(200, "HIT"),
    tags=Want(200),
    listed=Want(200),
)
# Of a gzipped answer to HEAD the length is no manifest's.
DECODED = {**AT_ONCE, "known": Want(200, "HIT", 2)}
PASSES_LATER = _asked(PASSES, 4)


@dataclass(frozen=True)
class Case:
    """One misbehaviour of one plane. `times` None: from now on."""

    name: str
    fault: faults.Fault
    wants: Mapping[str, Want]
    times: int | None = None
    method: str = ""
    planes: tuple[str, ...] = PLANES
    goes_on: bool = False  # the fetch does, after its client was told to come again


def _date(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


FEW = ("blob", "tag", "known")  # for what differs from another case in the wire only
_READ = ("digest", "tag", "known", "tags", "listed")  # bodies that are parsed
_BODIED = ("digest", "tags")
_DEEP = b'{"schemaVersion":2,"a":' + b"[" * 5000 + b"]" * 5000 + b"}"
_HUGE = b'{"schemaVersion":2,"config":"' + b"x" * (5 << 20) + b'"}'
_OCI = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}

CASES: tuple[Case, ...] = (
    Case("404", faults.Status(404), ABSENT),
    Case("410", faults.Status(410), ABSENT, planes=FEW),
    Case("401 without a challenge", faults.Status(401), ABSENT),
    Case("403", faults.Status(403), ABSENT),
    Case("402", faults.Status(402), ABSENT, planes=FEW),
    Case("451", faults.Status(451), ABSENT, planes=FEW),
    Case("403 with a page", faults.Status(403, {"Content-Type": "text/html"}, b"<html>"), ABSENT, planes=FEW),
    Case("429", faults.TooMany(), AWAY),
    Case("429 seconds", faults.TooMany(40), _asked(AWAY, 1)),
    Case(
        "429 date",
        faults.TooMany(_date(3000)),
        _asked(AWAY, 1),
    ),
    Case("429 nonsense", faults.TooMany("soon"), AWAY, planes=FEW),
    Case("500", faults.Status(500), FAILS),
    Case(
        "502 with a page",
        faults.Status(502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>"),
        FAILS,
        planes=FEW,
    ),
    Case("501", faults.Status(501), INVALID, planes=FEW),
    Case("503", faults.Status(503), AWAY),
    Case("503 with Retry-After", faults.Status(503, {"Retry-After": "120"}), AWAY, planes=FEW),
    Case("504", faults.Status(504), AWAY, planes=FEW),
    Case("408", faults.Status(408), AWAY, planes=FEW),
    Case("500 once", faults.Status(500), PASSES, times=1),
    Case("503 once", faults.Status(503), PASSES, times=1, planes=FEW),
    Case("closed", faults.CloseBeforeHeaders(), CLOSED),
    Case("reset", faults.CloseBeforeHeaders(rst=True), CLOSED, planes=FEW),
    Case("closed twice", faults.CloseBeforeHeaders(), PASSES_LATER, times=2),
    Case("reset twice", faults.CloseBeforeHeaders(rst=True), PASSES_LATER, times=2),
    Case("no headers", faults.HangHeaders(), AWAY, goes_on=True, planes=("blob", "tag", "known", "listed")),
    Case("400", faults.Status(400), REFUSED),
    Case("405", faults.Status(405), INVALID, planes=FEW),
    Case("418", faults.Status(418), INVALID, planes=FEW),
    Case("204", faults.Status(204), INVALID, planes=FEW),
    Case("304", faults.Status(304), INVALID, planes=FEW),
    Case("a login page", faults.Html(), INVALID),
    Case("a login page once", faults.Html(), INVALID, times=2, planes=FEW),
    Case(
        "redirect loop",
        faults.Redirect("{self}{path}"),
        _asked(INVALID, 12),
    ),
    Case("redirect to nowhere", faults.Redirect(None), INVALID),
    Case("redirect to link-local", faults.Redirect("http://169.254.169.254/latest/meta-data/"), INVALID),
    Case("redirect to metadata by name of a number", faults.Redirect("http://2852039166/latest/"), INVALID, planes=FEW),
    Case("redirect to ftp", faults.Redirect("ftp://127.0.0.1/x"), INVALID, planes=FEW),
    Case("redirect to file", faults.Redirect("file:///etc/passwd"), INVALID, planes=FEW),
    Case("redirect with a login", faults.Redirect("http://user:secret@127.0.0.1/x"), INVALID, planes=FEW),
    Case("redirect to a closed port", faults.Redirect("http://127.0.0.1:1/x"), AWAY),
    Case("encoded", faults.WithHeaders({"Content-Encoding": "br"}), _asked(INVALID, 4)),
    Case("encoded once", faults.WithHeaders({"Content-Encoding": "br"}), PASSES, times=1),
    Case("gzipped", faults.Gzip(), INVALID_BLOB, planes=("blob", "small")),
    Case("gzipped document", faults.Gzip(), DECODED, planes=_READ),
    Case("stored with a coding", faults.WithHeaders({"Content-Encoding": "aws-chunked"}), AT_ONCE),
    Case(
        "manifest of another digest",
        faults.Status(200, _OCI, b'{"schemaVersion":2,"config":{},"layers":[]}'),
        INVALID,
        planes=("digest",),
    ),
    Case(
        "JSON error with 200",
        faults.Status(200, {"Content-Type": "application/json"}, b'{"errors":[{"code":"DENIED"}]}'),
        INVALID,
        planes=_READ,
    ),
    Case(
        "no JSON",
        faults.Status(200, _OCI, b"\x1f\x8b\x08\x00"),
        INVALID,
        planes=_READ,
    ),
    Case("empty", faults.Status(200, _OCI, b""), INVALID, planes=_READ),
    Case("deep JSON", faults.Status(200, _OCI, _DEEP), INVALID, planes=_READ),
    Case("huge", faults.Status(200, _OCI, _HUGE), INVALID, planes=_READ),
    Case("truncated always", faults.Truncate(30), AWAY, method="GET", planes=_BODIED),
    Case("truncated by reset always", faults.Truncate(30, rst=True), AWAY, method="GET", planes=_BODIED),
    Case("truncated once", faults.Truncate(30), PASSES, method="GET", times=1, planes=("digest", "tag", "tags")),
    Case("flipped", faults.FlipBit(40), INVALID, method="GET", planes=("small", "digest", "tag")),
)
