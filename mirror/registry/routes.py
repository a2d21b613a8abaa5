"""A request target becomes one checked value: which route, which repository, which manifest, tag or blob."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from mirror.errors import DigestInvalid, InvalidRequest, NameInvalid, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.reference import check_name, check_tag, is_name, parse_reference

# CVE-2023-2253 was an unbounded n: no page is longer than this.
PAGE_LIMIT = 1000

_QUERY_LIMIT = 1024
# What a path may hold before it is taken apart: visible ASCII, no escapes, nothing that starts a query or fragment.
_PATH = re.compile(r"/[!-\"$&->@-~]*")
# Some clients escape the colon of a digest; no other escape means anything in a path (faults.md E9).
_ESCAPED_COLON = re.compile(r"(sha256|sha512)%3[Aa]")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_KEYS = frozenset(("ns", "n", "last", "artifactType"))
_LONG_QUERY_LIMIT = 8192  # some dozens of tags, each of 128 characters; a name to mount from that is none
_UPLOAD_KEYS = frozenset(("ns", "digest", "digest-algorithm"))
_NUMBER = re.compile(r"[0-9]{1,19}")
_NAMESPACE = re.compile(r"(?:[A-Za-z0-9]+(?:[._-]+[A-Za-z0-9]+)*|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
# Cincinnati's policy engine, and what update services call it; the query stays with who answers.
_GRAPHS = frozenset(("/api/upgrades_info/v1/graph", "/api/upgrades_info/graph"))
# A signature store, with or without a repository before it (containers/image, docs/registries.d).
_SIGNATURE = re.compile(
    r"(?:/[a-z0-9][a-z0-9/._-]{0,254}[@/]|/)sha256=(?P<hex>[0-9a-f]{64})/signature-(?P<number>[1-9][0-9]?)"
)
# RFC 6838 section 4.2: the restricted names of a media type.
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


class Kind(StrEnum):
    """The routes; the value is the metrics' and the log's word for it."""

    PING = "ping"
    MANIFEST = "manifest"
    BLOB = "blob"
    TAGS = "tags"
    REFERRERS = "referrers"
    UPLOAD = "upload"
    CATALOG = "catalog"
    TOKEN = "token"  # noqa: S105 - a route's name
    LIVE = "live"
    READY = "ready"
    GRAPH = "graph"
    SIGNATURE = "signature"
    NOWHERE = "nowhere"


# What a page of each route's list goes on after.
_LAST: Mapping[Kind, tuple[Callable[[str], object], str]] = {
    Kind.CATALOG: (check_name, "a repository's name"),
    Kind.REFERRERS: (Digest.parse, "a digest"),
}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the query of an upload asks for: `digest` to finish it, `mount` of a blob, `source` the name after `from`.

    `algorithm` is that of the digest to come, as far as the client says. A mount that cannot be done is none.
    """

    digest: Digest | None = None
    mount: Digest | None = None
    source: str = ""
    algorithm: str = "sha256"


NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True)
class Route:
    """One request target, checked.

    `path` is the target without its query; `folder` is that without a digest at its end, for the log. `prefix` is
    <upstream> of /<upstream>/v2/…, `ns` the query's. `reference` is a digest or, for a manifest, a tag. `count` is the
    query's n, at most PAGE_LIMIT, or a signature's number. `last` is the query's: a tag, a name or a digest, whatever
    the route lists. `tags` are all of a manifest's query. `upload` is what the path calls an upload, empty where one
    is to be begun; `wishes` what the query of an upload asks for.
    """

    kind: Kind
    path: str
    prefix: str | None = None
    name: str = ""
    reference: Digest | str = ""
    ns: str | None = None
    count: int | None = None
    last: str = ""
    artifact_type: str | None = None
    folder: str = ""
    digest_text: str = ""
    upload: str = ""
    wishes: Wishes = NO_WISHES
    tags: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest:
        """The digest of a blob or of what referrers refer to."""
        if isinstance(self.reference, str):
            raise TypeError(f"a {self.kind} route has no digest")
        return self.reference


def parse(target: str) -> Route:
    """Return the route that a raw request target in origin form names; raise InvalidRequest or one of its kinds."""
    path, _, query = target.partition("?")
    if "%" in path:
        before, slash, last = path.rpartition("/")
        path = before + slash + _ESCAPED_COLON.sub(r"\1:", last, count=1)
    if _PATH.fullmatch(path) is None:
        raise NameInvalid("the path holds what no name, tag or digest holds", "write them plainly, without escapes")
    if path in ("/livez", "/readyz"):
        return Route(Kind.LIVE if path == "/livez" else Kind.READY, path, folder=path)
    if path == "/token":
        return Route(Kind.TOKEN, path, folder=path)
    if path in _GRAPHS:
        return Route(Kind.GRAPH, path, folder=path)
    signature = _SIGNATURE.fullmatch(path)
    if signature is not None:
        digest = Digest("sha256", signature["hex"])
        return Route(Kind.SIGNATURE, path, reference=digest, count=int(signature["number"]), folder=path)
    prefix, rest = _split_version(path)
    if rest is None:
        return Route(Kind.NOWHERE, path, folder=path)
    kind, name, reference = _parse_rest(rest)
    if kind is Kind.UPLOAD:
        found = _split_query(query, _UPLOAD_KEYS, _LONG_QUERY_LIMIT)
        upload = rest.rpartition("/")[2]
        wishes = _parse_wishes(found, query)
        if rest.endswith("/blobs/uploads"):
            upload = ""
        return Route(kind, path, prefix, name, ns=_check_namespace(found), folder=path, upload=upload, wishes=wishes)
    ns, count, last, artifact_type = _parse_query(query, kind)
    tags = _parse_tags(query) if kind is Kind.MANIFEST and query else ()
    text = "" if isinstance(reference, str) else str(reference)
    folder = path[: -len(text) - 1] if text else path
    return Route(kind, path, prefix, name, reference, ns, count, last, artifact_type, folder, text, tags=tags)


def _split_version(path: str) -> tuple[str | None, str | None]:
    """Return (<upstream> or None, what follows /v2/), or (None, None) where there is no /v2/."""
    if path == "/v2" or path.startswith("/v2/"):
        return None, path[4:]
    prefix, slash, rest = path[1:].partition("/")
    if slash and (rest == "v2" or rest.startswith("v2/")):
        return check_name(prefix), rest[3:]
    return None, None


def _parse_rest(rest: str) -> tuple[Kind, str, Digest | str]:
    """Take apart what follows /v2/. A name may hold the words of the routes, so the last ones decide."""
    if not rest:
        return Kind.PING, "", ""
    if rest == "_catalog":
        return Kind.CATALOG, "", ""
    before, _, last = rest.rpartition("/")
    name, _, noun = before.rpartition("/")
    if noun == "uploads" and (name == "blobs" or name.endswith("/blobs")):
        return Kind.UPLOAD, check_name(name[: -len("/blobs")]), ""
    if noun == "blobs" and last == "uploads":
        return Kind.UPLOAD, check_name(name), ""
    if noun == "manifests":
        return Kind.MANIFEST, check_name(name), parse_reference(last)
    if noun == "blobs":
        return Kind.BLOB, check_name(name), Digest.parse(last)
    if noun == "referrers":
        return Kind.REFERRERS, check_name(name), Digest.parse(last)
    if noun == "tags" and last == "list":
        return Kind.TAGS, check_name(name), ""
    if not rest.startswith("_"):  # extensions (_oci/…) are well-formed, only not offered
        check_name(rest)
    return Kind.NOWHERE, "", ""


def _parse_query(query: str, kind: Kind) -> tuple[str | None, int | None, str, str | None]:
    """Return (ns, n, last, artifactType) of a query."""
    if not query:
        return None, None, "", None
    found = _split_query(query, _KEYS, _LONG_QUERY_LIMIT if kind is Kind.MANIFEST else _QUERY_LIMIT)
    number, last, artifact_type = (found.get(key) for key in ("n", "last", "artifactType"))
    ns = _check_namespace(found)
    if number is not None and _NUMBER.fullmatch(number) is None:
        raise InvalidRequest("n is not a whole number of at most 19 digits")
    if artifact_type is not None and _MEDIA_TYPE.fullmatch(artifact_type) is None:
        raise InvalidRequest("artifactType is not a media type")
    if last:
        check, what = _LAST.get(kind, (check_tag, "a tag"))
        try:
            check(last)
        except (TagInvalid, NameInvalid, DigestInvalid):
            raise InvalidRequest(f"last is not {what}") from None
    return ns, None if number is None else min(int(number), PAGE_LIMIT), last or "", artifact_type


def _parse_tags(query: str) -> tuple[str, ...]:
    """Return the tags that a manifest is to have besides (distribution-spec, Pushing Manifests); raise TagInvalid."""
    pairs = (pair.partition("=") for pair in query.split("&"))
    return tuple(check_tag(_unescape(value)) for key, _, value in pairs if key == "tag")


def _parse_wishes(found: Mapping[str, str], query: str) -> Wishes:
    """Return what the query of an upload asks for (distribution-spec, Pushing blobs). Raises DigestInvalid.

    Without digest-algorithm, a digest that is given says which one the bytes will be hashed with.
    """
    digest = Digest.parse(found["digest"]) if "digest" in found else None
    mount, source = _parse_mount(query)
    known = digest or mount
    algorithm = found.get("digest-algorithm", known.algorithm if known is not None else "sha256")
    if algorithm not in ("sha256", "sha512"):
        raise DigestInvalid(
            f"'{algorithm[:40]}' is no algorithm that digests are made with here", "use sha256 or sha512"
        )
    return Wishes(digest, None if source is None else mount, source or "", algorithm)


def _parse_mount(query: str) -> tuple[Digest | None, str | None]:
    """Return which blob is to be mounted, and from where; None for what is given and cannot be meant.

    Clients mount from wherever they know a blob to be, another registry with its port included. A mount that cannot be
    done is an upload and no error (distribution-spec, Mounting a blob from another repository).
    """
    if "mount=" not in query:
        return None, None
    given = [pair.partition("=")[::2] for pair in query.split("&")]
    mounts = [_unescape(value) for key, value in given if key == "mount"]
    sources = [_unescape(value) for key, value in given if key == "from"] or [""]
    try:
        mount = Digest.parse(mounts[0]) if len(mounts) == 1 else None
    except DigestInvalid:
        mount = None
    is_usable = len(sources) == 1 and (not sources[0] or is_name(sources[0]))
    return mount, sources[0] if is_usable else None


def _split_query(query: str, keys: frozenset[str], limit: int = _QUERY_LIMIT) -> dict[str, str]:
    """Return what a query gives for `keys`; others are ignored, one of these given twice is refused."""
    if len(query) > limit:
        raise InvalidRequest(f"the query has more than {limit} characters")
    found: dict[str, str] = {}
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key in keys:
            if key in found:
                raise InvalidRequest(f"the query gives {key} twice")
            found[key] = _unescape(value)
    return found


def _check_namespace(found: Mapping[str, str]) -> str | None:
    ns = found.get("ns")
    if ns is not None and (len(ns) > 255 or _NAMESPACE.fullmatch(ns) is None):
        raise NameInvalid("ns is not a host name with an optional port")
    return ns


def _unescape(value: str) -> str:
    """Undo percent escapes; every value is then held to a grammar of visible ASCII."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), value) if "%" in value else value
