"""Range, If-Range and If-None-Match."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from mirror.content.answers import ByteRange
from mirror.oci.digest import Digest
from mirror.registry.ranges import has_already, parse, wanted

DIGEST = Digest.of(b"x")
ETAG = f'"{DIGEST}"'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", ByteRange(0, 0)),
        ("bytes=500-1499", ByteRange(500, 1499)),
        ("bytes=500-", ByteRange(500, None)),
        ("bytes=-500", ByteRange(None, 500)),
        ("bytes=-0", ByteRange(None, 0)),
        ("BYTES=1-2", ByteRange(1, 2)),
        ("Bytes=1-2", ByteRange(1, 2)),
        ("bytes=007-08", ByteRange(7, 8)),
        ("bytes=0-9999999999999999999", ByteRange(0, 9999999999999999999)),
        ("", None),
        ("bytes", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=0-9,20-29", None),
        ("bytes=0-9,", None),
        ("bytes=,0-9", None),
        ("bytes=abc", None),
        ("bytes=0 - 9", None),
        ("bytes = 0-9", None),
        ("bytes=0-9 ", None),
        ("bytes=0-9\n", None),
        ("bytes=+1-2", None),
        ("bytes=1_0-20", None),
        ("bytes=--5", None),
        ("bytes=\u0661-\u0662", None),
        ("byte\u017f=0-9", None),
        ("bytes=0-10000000000000000000", None),
        ("bytes=10000000000000000000-", None),
        ("items=0-9", None),
    ],
)
def test_parses_one_range_and_ignores_the_rest(value, expected):
    assert parse(value) == expected


@pytest.mark.parametrize("value", ["bytes=500-0", "bytes=1-0"])
def test_nothing_satisfies_a_range_that_ends_before_it_starts(value):
    found = parse(value)
    assert found is not None
    assert found.resolve(2**63) is None


def _slow(value: str, total: int) -> set[int] | str | None:
    """Read a Range letter by letter; return what it selects of `total`, "unsatisfiable", or None to ignore it."""
    digits = "0123456789"
    unit, equals, text = value.partition("=")
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
                    st.sampled_from(["", "", "", ",1-2", " "]))  # fmt: skip


@given(_values | st.text(max_size=20), st.integers(0, 60))
@example("bytes=-0", 10)
@example("bytes=0-", 0)
def test_agrees_with_a_slow_reading(value, total):
    expected = _slow(value, total)
    found = parse(value)
    if found is None:
        assert expected is None
        return
    span = found.resolve(total)
    assert (set(range(*span)) if span else "unsatisfiable") == expected


@given(st.integers(0, 10**19 - 1), st.integers(0, 10**19 - 1))
def test_round_trip(first, last):
    if first <= last:
        assert parse(f"bytes={first}-{last}") == ByteRange(first, last)
    assert parse(f"bytes={first}-") == ByteRange(first, None)
    assert parse(f"bytes=-{last}") == ByteRange(None, last)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], None),
        ([("Range", "bytes=1-2")], ByteRange(1, 2)),
        ([("range", "bytes=1-2"), ("if-range", ETAG)], ByteRange(1, 2)),
        ([("Range", "bytes=1-2"), ("If-Range", f'"{Digest.of(b"y")}"')], None),
        ([("Range", "bytes=1-2"), ("If-Range", f"W/{ETAG}")], None),
        ([("Range", "bytes=1-2"), ("If-Range", str(DIGEST))], None),
        ([("Range", "bytes=1-2"), ("If-Range", "Mon, 23 Nov 2026 10:00:00 GMT")], None),
        ([("Range", "bytes=1-2"), ("Range", "bytes=3-4")], None),
    ],
)
def test_a_range_holds_only_for_the_content_it_was_begun_with(fields, expected):
    assert wanted(CIMultiDict(fields), DIGEST) == expected


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
