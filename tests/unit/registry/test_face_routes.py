"""The grammar of request targets: what is one, what it means, and that no other text gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import DigestInvalid, InvalidRequest, NameInvalid, TagInvalid
from mirror.oci.digest import Digest
from mirror.registry.routes import Kind, Route, parse

HEX = "0123456789abcdef" * 4
SHA = f"sha256:{HEX}"
SHA512 = f"sha512:{HEX}{HEX}"
DIGEST = Digest("sha256", HEX)


@pytest.mark.parametrize(
    ("target", "kind", "prefix", "name", "reference"),
    [
        ("/v2", Kind.PING, None, "", ""),
        ("/v2/", Kind.PING, None, "", ""),
        ("/quay.io/v2", Kind.PING, "quay.io", "", ""),
        ("/quay.io/v2/", Kind.PING, "quay.io", "", ""),
        ("/livez", Kind.LIVE, None, "", ""),
        ("/readyz", Kind.READY, None, "", ""),
        ("/v2/_catalog", Kind.CATALOG, None, "", ""),
        ("/v2/_catalog?n=9000000000", Kind.CATALOG, None, "", ""),
        ("/v2/alpine/manifests/3.20", Kind.MANIFEST, None, "alpine", "3.20"),
        ("/v2/quay.io/a/b/manifests/v1", Kind.MANIFEST, None, "quay.io/a/b", "v1"),
        (f"/v2/quay.io/a/manifests/{SHA}", Kind.MANIFEST, None, "quay.io/a", DIGEST),
        (f"/v2/quay.io/a/manifests/{SHA512}", Kind.MANIFEST, None, "quay.io/a", Digest("sha512", HEX + HEX)),
        (f"/v2/quay.io/a/blobs/{SHA}", Kind.BLOB, None, "quay.io/a", DIGEST),
        (f"/v2/quay.io/a/blobs/sha256%3A{HEX}", Kind.BLOB, None, "quay.io/a", DIGEST),
        (f"/v2/quay.io/a/manifests/sha256%3a{HEX}", Kind.MANIFEST, None, "quay.io/a", DIGEST),
        (f"/quay.io/v2/a/b/blobs/{SHA}", Kind.BLOB, "quay.io", "a/b", DIGEST),
        (f"/v2/a/referrers/{SHA}", Kind.REFERRERS, None, "a", DIGEST),
        ("/v2/a/tags/list", Kind.TAGS, None, "a", ""),
        ("/v2/a/blobs/uploads/", Kind.UPLOAD, None, "a", ""),
        ("/v2/a/blobs/uploads", Kind.UPLOAD, None, "a", ""),
        ("/v2/a/blobs/uploads/0f8fad5b-d9cb-469f-a165-70867728950e", Kind.UPLOAD, None, "a", ""),
        # names that hold the routes' own words: the last ones decide
        (f"/v2/a/blobs/b/blobs/{SHA}", Kind.BLOB, None, "a/blobs/b", DIGEST),
        ("/v2/a/manifests/manifests/latest", Kind.MANIFEST, None, "a/manifests", "latest"),
        ("/v2/tags/list/tags/list", Kind.TAGS, None, "tags/list", ""),
        ("/v2/manifests/tags/list", Kind.TAGS, None, "manifests", ""),
        ("/v2/a/blobs/uploads/manifests/x", Kind.MANIFEST, None, "a/blobs/uploads", "x"),
        ("/v2/uploads/manifests/uploads", Kind.MANIFEST, None, "uploads", "uploads"),
        (f"/v2/uploads/blobs/{SHA}", Kind.BLOB, None, "uploads", DIGEST),
        ("/v2/v2/manifests/v2", Kind.MANIFEST, None, "v2", "v2"),
        ("/v2/a/v2/manifests/x", Kind.MANIFEST, None, "a/v2", "x"),
        ("/a/v2/v2/manifests/x", Kind.MANIFEST, "a", "v2", "x"),
        ("/livez/v2/a/manifests/x", Kind.MANIFEST, "livez", "a", "x"),
        # well-formed, but there is nothing
        ("/", Kind.NOWHERE, None, "", ""),
        ("/favicon.ico", Kind.NOWHERE, None, "", ""),
        ("/livez/", Kind.NOWHERE, None, "", ""),
        ("/v2/a", Kind.NOWHERE, None, "", ""),
        ("/v2/uploads/uploads/x", Kind.NOWHERE, None, "", ""),
        ("/v2/a/tags/other", Kind.NOWHERE, None, "", ""),
        ("/v2/_oci/ext/discover", Kind.NOWHERE, None, "", ""),
        ("/v2x", Kind.NOWHERE, None, "", ""),
        ("/v2x/a/manifests/x", Kind.NOWHERE, None, "", ""),
        ("/v2x/v2/a/manifests/x", Kind.MANIFEST, "v2x", "a", "x"),
        ("/v1/a/manifests/x", Kind.NOWHERE, None, "", ""),
        ("/a/b/v2/c/manifests/x", Kind.NOWHERE, None, "", ""),
    ],
)
def test_takes_apart(target, kind, prefix, name, reference):
    route = parse(target)
    assert (route.kind, route.prefix, route.name, route.reference) == (kind, prefix, name, reference)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("", NameInvalid),
        ("*", NameInvalid),
        ("http://evil/v2/a/manifests/x", NameInvalid),
        ("mirror:5000", NameInvalid),
        ("v2/a/manifests/x", NameInvalid),
        ("/v2/a/../b/manifests/x", NameInvalid),
        ("/v2/a/%2e%2e/b/manifests/x", NameInvalid),
        ("/v2/a%2fb/manifests/x", NameInvalid),
        ("/v2/a%00/manifests/x", NameInvalid),
        ("/v2/a/manifests/%78", NameInvalid),
        ("/v2/a/manifests/x%3A", NameInvalid),
        (f"/v2/a%3Ab/blobs/{SHA}", NameInvalid),
        (f"/v2/a/blobs/sha256%3A{HEX}%3A", NameInvalid),
        (f"/v2/a/blobs/sha256%253A{HEX}", NameInvalid),
        ("/v2//manifests/x", NameInvalid),
        ("/v2/manifests/x", NameInvalid),
        ("/v2/a//b/manifests/x", NameInvalid),
        ("//v2/a/manifests/x", NameInvalid),
        ("/v2/A/manifests/x", NameInvalid),
        ("/v2/a;x=1/manifests/x", NameInvalid),
        ("/v2/a\\b/manifests/x", NameInvalid),
        ("/v2/a\u202e/manifests/x", NameInvalid),
        ("/v2/\u0661/manifests/x", NameInvalid),
        ("/v2/a\n/manifests/x", NameInvalid),
        ("/v2/a/manifests/x#f", NameInvalid),
        ("/v2/a:5000/b/manifests/x", NameInvalid),
        ("/v2/" + "a/" * 129 + "manifests/x", NameInvalid),
        ("/v2/blobs/uploads/", NameInvalid),
        ("/Quay.io/v2/a/manifests/x", NameInvalid),
        ("/v2/..", NameInvalid),
        ("/v2/a/manifests/x\n", NameInvalid),
        ("/v2/a/manifests/", TagInvalid),
        ("/v2/a/manifests/-x", TagInvalid),
        ("/v2/a/manifests/" + "x" * 129, TagInvalid),
        ("/v2/a/manifests/a@b", TagInvalid),
        (f"/v2/a/blobs/{SHA[:-1]}", DigestInvalid),
        (f"/v2/a/blobs/{SHA}0", DigestInvalid),
        (f"/v2/a/blobs/SHA256:{HEX}", DigestInvalid),
        (f"/v2/a/blobs/sha256:{HEX.upper()}", DigestInvalid),
        (f"/v2/a/blobs/sha512:{HEX}", DigestInvalid),
        (f"/v2/a/blobs/md5:{HEX[:32]}", DigestInvalid),
        ("/v2/a/blobs/sha256:../../etc/passwd", NameInvalid),
        ("/v2/a/blobs/latest", DigestInvalid),
        ("/v2/a/referrers/latest", DigestInvalid),
        ("/v2/a/manifests/sha256:short", DigestInvalid),
        ("/v2/a/manifests/sha256%3Ashort", DigestInvalid),
        (f"/v2/a/manifests/xsha256%3A{HEX}", DigestInvalid),
    ],
)
def test_refuses(target, error):
    with pytest.raises(error):
        parse(target)


def test_a_name_of_255_characters_is_the_longest():
    name = "a" * 255
    assert parse(f"/v2/{name}/manifests/x").name == name
    with pytest.raises(NameInvalid):
        parse(f"/v2/{name}a/manifests/x")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", (None, None, "", None)),
        ("ns=docker.io", ("docker.io", None, "", None)),
        ("ns=myreg%3A5000", ("myreg:5000", None, "", None)),
        ("ns=[2001:db8::1]:5000", ("[2001:db8::1]:5000", None, "", None)),
        ("n=10&last=v1.0", (None, 10, "v1.0", None)),
        ("last=&n=0", (None, 0, "", None)),
        ("n=1000", (None, 1000, "", None)),
        ("n=1001", (None, 1000, "", None)),
        ("n=9999999999999999999", (None, 1000, "", None)),
        (
            "artifactType=application%2Fvnd.example.sbom.v1%2Bjson",
            (None, None, "", "application/vnd.example.sbom.v1+json"),
        ),
        ("artifactType=a/b+c", (None, None, "", "a/b+c")),
        ("other=%zz&N=5&ns2=x", (None, None, "", None)),
        ("n%73=evil", (None, None, "", None)),
    ],
)
def test_reads_a_query(query, expected):
    route = parse(f"/v2/a/tags/list?{query}")
    assert (route.ns, route.count, route.last, route.artifact_type) == expected


@pytest.mark.parametrize(
    "query",
    [
        "ns=a&ns=b",
        "ns=quay.io&ns=quay.io",
        "n=1&n=2",
        "last=a&last=a",
        "artifactType=a/b&artifactType=a/b",
        "ns=",
        "ns=a/b",
        "ns=a%2Fb",
        "ns=http://a",
        "ns=user@a",
        "ns=-a",
        "ns=a..%0d%0aX: y",
        "ns=a%00",
        "ns=a:999999",
        "ns=" + "a" * 256,
        "n=",
        "n=-1",
        "n=+1",
        "n=1_0",
        "n=%201",
        "n=1.0",
        "n=\u0661",
        "n=10000000000000000000",
        "last=a/b",
        "last=%0a",
        "last=" + "a" * 129,
        "artifactType=",
        "artifactType=a",
        "artifactType=a/b;c=d",
        "artifactType=a/b%0d%0aX-Y: z",
        "x=" + "a" * 1024,
    ],
)
def test_refuses_a_query(query):
    with pytest.raises(InvalidRequest):
        parse(f"/v2/a/tags/list?{query}")


def test_the_log_gets_the_path_without_the_digest():
    assert parse(f"/quay.io/v2/a/blobs/{SHA}?ns=x").folder == "/quay.io/v2/a/blobs"
    assert parse(f"/v2/a/blobs/sha256%3A{HEX}").folder == "/v2/a/blobs"
    assert parse(f"/v2/a/blobs/{SHA}").digest_text == SHA
    assert parse("/v2/a/manifests/x").folder == "/v2/a/manifests/x"
    assert parse("/v2/a/manifests/x").digest_text == ""


def test_only_a_digest_route_has_a_digest():
    assert parse(f"/v2/a/blobs/{SHA}").digest == DIGEST
    with pytest.raises(TypeError):
        _ = parse("/v2/a/manifests/x").digest


# -- against a slow, independent reading of the same grammar --------------------------------------------------

_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789"
_TAG_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"


def _is_component(text: str) -> bool:
    """Read letter by letter: runs of letters and digits, between them one '.', one or two '_', or any '-'."""
    if not text or text[0] not in _LOWER or text[-1] not in _LOWER:
        return False
    position = 0
    while position < len(text):
        if text[position] in _LOWER:
            position += 1
            continue
        end = position
        while text[end] not in _LOWER:
            end += 1
        separator = text[position:end]
        if separator not in (".", "_", "__") and separator.strip("-"):
            return False
        position = end
    return True


def _is_name(text: str) -> bool:
    return len(text) <= 255 and all(_is_component(part) for part in text.split("/"))


def _is_digest(text: str) -> bool:
    algorithm, colon, encoded = text.partition(":")
    length = {"sha256": 64, "sha512": 128}.get(algorithm)
    return bool(colon) and len(encoded) == length and all(letter in "0123456789abcdef" for letter in encoded)


def _is_tag(text: str) -> bool:
    return 0 < len(text) <= 128 and text[0] not in ".-" and all(letter in _TAG_CHARACTERS for letter in text)


def _expected(path: str) -> tuple[Kind, str | None, str, str] | None:
    """Return what `path` (no query, no escapes) means, or None if it is refused."""
    if not path.startswith("/") or any(not "!" <= letter <= "~" or letter in "%#" for letter in path):
        return None
    parts = path[1:].split("/")
    if parts in (["livez"], ["readyz"]):
        return (Kind.LIVE if parts == ["livez"] else Kind.READY), None, "", ""
    prefix = None
    if parts[0] != "v2":
        if parts[1:2] != ["v2"]:
            return Kind.NOWHERE, None, "", ""
        prefix = parts.pop(0)
        if not _is_component(prefix) or len(prefix) > 255:
            return None
    rest = parts[1:]
    if rest in ([], [""]):
        return Kind.PING, prefix, "", ""
    if rest == ["_catalog"]:
        return Kind.CATALOG, prefix, "", ""
    tails = [
        (Kind.UPLOAD, rest[:-3], "") if rest[-3:-1] == ["blobs", "uploads"] else None,
        (Kind.UPLOAD, rest[:-2], "") if rest[-2:] == ["blobs", "uploads"] else None,
        (Kind.MANIFEST, rest[:-2], rest[-1]) if rest[-2:-1] == ["manifests"] else None,
        (Kind.BLOB, rest[:-2], rest[-1]) if rest[-2:-1] == ["blobs"] else None,
        (Kind.REFERRERS, rest[:-2], rest[-1]) if rest[-2:-1] == ["referrers"] else None,
        (Kind.TAGS, rest[:-2], "") if rest[-2:] == ["tags", "list"] else None,
    ]
    found = next((tail for tail in tails if tail is not None), None)
    if found is None:
        return (Kind.NOWHERE, prefix, "", "") if rest[0].startswith("_") or _is_name("/".join(rest)) else None
    kind, name, reference = found
    if not _is_name("/".join(name)):
        return None
    if kind in (Kind.BLOB, Kind.REFERRERS) and not _is_digest(reference):
        return None
    if kind is Kind.MANIFEST and not (_is_digest(reference) or _is_tag(reference)):
        return None
    return kind, prefix, "/".join(name), reference


_words = st.sampled_from(
    ["v2", "v2", "manifests", "blobs", "uploads", "tags", "list", "referrers", "_catalog", "quay.io", "a", "a__b",
     "a..b", "a---b", "A", "", "..", "latest", "-x", SHA, SHA512, SHA[:-1], "sha256:x", "livez", "_oci", "a:1",
     "x" * 129]
)  # fmt: skip
_tails = ["manifests/x", f"manifests/{SHA}", f"blobs/{SHA}", "tags/list", f"referrers/{SHA}", "blobs/uploads/"]
_paths = st.lists(_words | st.text("ab_.-/:~", max_size=6), max_size=8).map(lambda parts: "/" + "/".join(parts))
_likely = st.builds(
    lambda prefix, name, tail: f"{prefix}/v2/{'/'.join(name)}/{tail}",
    st.sampled_from(["", "", "/quay.io", "/a", "/A"]),
    st.lists(_words | st.text("ab_.-", min_size=1, max_size=5), min_size=1, max_size=4),
    st.sampled_from(_tails),
)


@given(_paths | _likely | st.text(max_size=30).map(lambda text: "/" + text.replace("?", "").replace("%", "")))
def test_agrees_with_a_slow_reading(path):
    expected = _expected(path)
    try:
        route = parse(path)
    except InvalidRequest:
        assert expected is None
        return
    assert (route.kind, route.prefix, route.name, str(route.reference)) == expected
    assert route.path == path


@given(st.text(max_size=60) | st.text("/v2ablobsmnifetg?&=%3A:.ns", max_size=60).map("/v2/a/".__add__))
def test_raises_nothing_but_invalid_request(target):
    try:
        route = parse(target)
    except InvalidRequest:
        return
    assert isinstance(route, Route)
    assert route.path.isascii()
    assert "%" not in route.path


_components = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)


@given(
    st.none() | _components,
    st.lists(_components, min_size=1, max_size=5).map("/".join),
    st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True) | st.just(SHA) | st.just(SHA512),
)
def test_round_trip(prefix, name, reference):
    if prefix == "v2":
        return  # /v2/v2/… is the name v2/…
    route = parse(f"{f'/{prefix}' if prefix else ''}/v2/{name}/manifests/{reference}")
    assert (route.kind, route.prefix, route.name, str(route.reference)) == (Kind.MANIFEST, prefix, name, reference)
