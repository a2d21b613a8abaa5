"""Durations, sizes and percentages: what is read, what is refused with which advice, and back again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.config.values import (
    Amount,
    SpellingError,
    count,
    format_amount,
    format_duration,
    format_size,
    format_size_limit,
    parse_amount,
    parse_duration,
    parse_duration_or_unlimited,
    parse_size,
    parse_size_limit,
    parse_timeout,
    quote,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604800), ("500ms", 0.5), ("1.5h", 5400), ("10 s", 10)],
)
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("value", [30, "30", "1h30m", "-5s", "5 minutes", "s", "", "unlimited", "٣s", "40000d"])
def test_what_is_no_duration_is_refused_with_advice(value):
    with pytest.raises(SpellingError) as raised:
        parse_duration(value)
    assert raised.value.code == "invalid_value"
    assert raised.value.remedy


@pytest.mark.parametrize("value", [None, True, 1.5, ["30s"], {}])
def test_a_value_of_another_type_is_no_duration(value):
    with pytest.raises(SpellingError) as raised:
        parse_duration(value)
    assert raised.value.code == "wrong_type"


def test_unlimited_is_infinite_where_it_is_allowed():
    assert parse_duration_or_unlimited("unlimited") == math.inf
    assert parse_duration_or_unlimited("0s") == 0


def test_no_time_limit_is_spelled_in_two_ways():
    assert parse_timeout("0s") == parse_timeout("unlimited") == math.inf
    assert parse_timeout("10s") == 10


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("512MiB", 512 * 2**20),
        ("200GiB", 200 * 2**30),
        ("4GB", 4 * 10**9),
        ("64KiB", 65536),
        ("1.5TiB", 3 * 2**39),
        ("7 B", 7),
    ],
)
def test_a_size_is_bytes_or_a_number_and_a_unit(value, size):
    assert parse_size(value) == size


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("5Gi", "write 5GiB"),
        ("5gib", "write 5GiB"),
        ("5G", "write 5GiB (powers of 1024) or 5GB (powers of 1000)"),
        ("5mb", "write 5MiB (powers of 1024) or 5MB (powers of 1000)"),
        ("5XB", "write bytes"),
        ("5%", "write bytes"),
        ("-1", "write bytes"),
        (-1, "write bytes"),
        ("9000000000TiB", "write bytes"),
        ("five", "write bytes"),
    ],
)
def test_what_is_no_size_is_refused_with_advice(text, advice):
    with pytest.raises(SpellingError) as raised:
        parse_size(text)
    assert raised.value.remedy.startswith(advice)


def test_a_limit_of_zero_bytes_means_none():
    assert parse_size_limit(0) > 2**62
    assert format_size_limit(parse_size_limit(0)) == "0"
    assert format_size_limit(parse_size_limit("50GiB")) == "50GiB"


def test_an_amount_is_a_percentage_or_a_size():
    assert parse_amount("5%").of(1000) == 50
    assert parse_amount("0.5 %").of(1000) == 5
    assert parse_amount("20GiB").of(1) == 20 * 2**30
    assert parse_amount(0).of(10**12) == 0


@pytest.mark.parametrize("value", ["100%", "250%", "-5%", "5 percent", True, None])
def test_what_is_no_amount_is_refused(value):
    with pytest.raises(SpellingError):
        parse_amount(value)


@pytest.mark.parametrize("value", [True, "4", 0, 65, None])
def test_a_count_is_a_whole_number_in_its_range(value):
    with pytest.raises(SpellingError):
        count(1, 64)(value)
    assert count(1, 64)(64) == 64


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1))
def test_every_size_is_spelled_and_read_back(size):
    assert parse_size(format_size(size)) == size


@settings(deadline=None)
@given(st.one_of(st.integers(0, 10**9), st.integers(0, 10**6).map(lambda milliseconds: milliseconds / 1000)))
def test_every_duration_is_spelled_and_read_back(seconds):
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (300, "5m"), (86400, "1d"), (math.inf, "unlimited"), (90, "90s")]
)
def test_a_duration_is_spelled_with_the_largest_unit_that_is_exact(seconds, text):
    assert format_duration(seconds) == text


def test_an_amount_is_spelled_as_it_was_written():
    assert format_amount(Amount(percent=5.0)) == "5%"
    assert format_amount(Amount(bytes=2**30)) == "1GiB"


@pytest.mark.parametrize(
    "text",
    ["https://ann:hunter2@reg.lab/x", "ann:hunter2@reg.lab", "https://reg.lab/x?token=hunter2", "password=hunter2"],
)
def test_a_message_shows_no_secret(text):
    assert "hunter2" not in quote(text)


def test_a_message_stays_on_one_short_line():
    assert quote("a\n\x1b[31m" + "b" * 500).isprintable()
    assert len(quote("b" * 500)) < 100
