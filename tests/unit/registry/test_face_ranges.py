"""Range, If-Range and If-None-Match."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from mirror.content.answers import ByteRange
from mirror.oci.digest import Digest
from mirror.registry.ranges import has_already, parse, spans, wanted

DIGEST = Digest.of(b"x")
ETAG = f'"{DIGEST}"'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", [ByteRange(0, 0)]),
        ("bytes=500-1499", [ByteRange(500, 1499)]),
        ("bytes=500-", [ByteRange(500, None)]),
        ("bytes=-500", [ByteRange(None, 500)]),
        ("bytes=-0", [ByteRange(None, 0)]),
        ("BYTES=1-2", [ByteRange(1, 2)]),
        ("Bytes=1-2", [ByteRange(1, 2)]),
        ("bytes=007-08", [ByteRange(7, 8)]),
        ("bytes=0-9999999999999999999", [ByteRange(0, 9999999999999999999)]),
        ("", []),
        ("bytes", []),
        ("bytes=", []),
        ("bytes=-", []),
        ("bytes=0-9,20-29", [ByteRange(0, 9), ByteRange(20, 29)]),
        ("bytes=0-9,", [ByteRange(0, 9)]),
        ("bytes=,0-9", [ByteRange(0, 9)]),
        ("bytes=0-9 ,\t-5, 7-", [ByteRange(0, 9), ByteRange(None, 5), ByteRange(7, None)]),
        ("bytes=" + ",".join(["1-1"] * 256), [ByteRange(1, 1)] * 256),
        ("bytes=" + ",".join(["1-1"] * 257), []),
        ("bytes=0-9,9-5", []),
        ("bytes=0-9,abc", []),
        ("bytes=,", []),
        ("bytes= 0-9", []),
        ("bytes=0-9,\u00a020-29", []),
        ("bytes=abc", []),
        ("bytes=0 - 9", []),
        ("bytes = 0-9", []),
        ("bytes=0-9 ", []),
        ("bytes=0-9\n", []),
        ("bytes=+1-2", []),
        ("bytes=1_0-20", []),
        ("bytes=--5", []),
        ("bytes=\u0661-\u0662", []),
        ("byte\u017f=0-9", []),
        ("bytes=0-10000000000000000000", []),
        ("bytes=10000000000000000000-", []),
        ("items=0-9", []),
    ],
)
def test_parses_ranges_and_ignores_the_rest(value, expected):
    assert parse(value) == tuple(expected)


@pytest.mark.parametrize("value", ["bytes=500-0", "bytes=1-0"])
def test_nothing_satisfies_a_range_that_ends_before_it_starts(value):
    (found,) = parse(value)
    assert found.resolve(2**63) is None


def _slow(value: str, total: int) -> set[int] | str | None:
    """Read a Range letter by letter; return what it selects of `total`, "unsatisfiable", or None to ignore it."""
    digits = "0123456789"
    unit, equals, text = value.partition("=")
    text = text.removesuffix(",")
    if list(unit.encode().lower()) != list(b"bytes") or not equals:
        return None
    first, dash, last = text.partition("-")
    if not dash or any(letter not in digits for letter in first + last) or not first + last:
        return None
    if len(first) > 19 or len(last) > 19:
        return None
    offsets = range(total)
    if not first:
        selected = set(offsets[max(0, total - int(last)) :])
    elif not last:
        selected = {offset for offset in offsets if offset >= int(first)}
    else:
        selected = {offset for offset in offsets if int(first) <= offset <= int(last)}
    return selected or "unsatisfiable"


_numbers = st.text("0123456789", max_size=3) | st.text("0123456789", min_size=18, max_size=21)
_values = st.builds("{}={}{}{}{}".format, st.sampled_from(["bytes", "Bytes", "byte\u017f", "x"]), _numbers,
                    st.sampled_from(["-", "-", "-", "", "--"]), _numbers,
                    st.sampled_from(["", "", "", ",", " "]))  # fmt: skip


@given(_values | st.text(max_size=20), st.integers(0, 60))
@example("bytes=-0", 10)
@example("bytes=0-", 0)
def test_agrees_with_a_slow_reading(value, total):
    expected = _slow(value, total)
    found = parse(value)
    if not found:
        assert expected is None
        return
    span = found[0].resolve(total)
    assert (set(range(*span)) if span else "unsatisfiable") == expected


@given(st.integers(0, 10**19 - 1), st.integers(0, 10**19 - 1))
def test_round_trip(first, last):
    if first <= last:
        assert parse(f"bytes={first}-{last}") == (ByteRange(first, last),)
    assert parse(f"bytes={first}-") == (ByteRange(first, None),)
    assert parse(f"bytes=-{last}") == (ByteRange(None, last),)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], ()),
        ([("Range", "bytes=1-2")], (ByteRange(1, 2),)),
        ([("range", "bytes=1-2"), ("if-range", ETAG)], (ByteRange(1, 2),)),
        ([("Range", "bytes=1-2"), ("If-Range", f'"{Digest.of(b"y")}"')], ()),
        ([("Range", "bytes=1-2"), ("If-Range", f"W/{ETAG}")], ()),
        ([("Range", "bytes=1-2"), ("If-Range", str(DIGEST))], ()),
        ([("Range", "bytes=1-2"), ("If-Range", "Mon, 23 Nov 2026 10:00:00 GMT")], ()),
        ([("Range", "bytes=1-2"), ("Range", "bytes=3-4")], ()),
    ],
)
def test_a_range_holds_only_for_the_content_it_was_begun_with(fields, expected):
    assert wanted(CIMultiDict(fields), DIGEST) == expected


@given(st.lists(st.builds(ByteRange, st.integers(0, 30), st.none() | st.integers(30, 60))
                | st.builds(ByteRange, st.none(), st.integers(0, 60)), min_size=2, max_size=6),
       st.integers(0, 50))  # fmt: skip
def test_spans_hold_what_was_asked_for_and_nothing_else(asked, total):
    found = spans(tuple(asked), total)
    sizes = [span[1] - span[0] for one in asked if (span := one.resolve(total))]
    offsets = {offset for one in asked if (span := one.resolve(total)) for offset in range(*span)}
    if found is None:
        assert sum(sizes) > total or len(offsets) == total
        return
    assert {offset for span in found for offset in range(*span)} == offsets
    assert sum(stop - start for start, stop in found) == len(offsets), "none twice"
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        ([ETAG], True),
        ([f"W/{ETAG}"], True),
        (["*"], True),
        ([f'"other", {ETAG}'], True),
        (['"other"', ETAG], True),
        ([str(DIGEST)], False),
        (['"other"'], False),
        ([f'"{Digest.of(b"y")}"'], False),
        ([f'"x{DIGEST}"'], False),
        ([""], False),
    ],
)
def test_if_none_match(values, expected):
    assert has_already(CIMultiDict([("If-None-Match", value) for value in values]), DIGEST) is expected
