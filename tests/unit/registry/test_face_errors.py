"""The error table: every class has its row, and what a row promises clients."""

from __future__ import annotations

import json
import math

import pytest

from mirror import errors
from mirror.errors import MirrorError, Problem
from mirror.registry import errors as table
from mirror.registry import responses
from mirror.registry.routes import Kind


def _tree(cls: type[MirrorError]) -> set[type[MirrorError]]:
    return {cls}.union(*(_tree(below) for below in cls.__subclasses__()))


# Other rooms keep small subclasses for themselves; what mirror.errors and the face define crosses to clients.
CLASSES = sorted(
    (cls for cls in _tree(MirrorError) if cls.__module__ in ("mirror.errors", "mirror.registry.errors")),
    key=lambda cls: cls.__name__,
)
# distribution-spec, Error Codes, and two of distribution's own where it has none.
CODES = {
    "BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED",
    "UNSUPPORTED", "UNKNOWN", "RANGE_INVALID",
}  # fmt: skip


def _make(cls: type[MirrorError]) -> MirrorError:
    if cls is errors.ConfigurationError:
        return cls([Problem("code", "what went wrong", "/etc/mirror/secret.yaml:3", "what to do")])
    if cls is table.RangeInvalid:
        return cls(12)
    return cls("what went wrong", "what to do")


def test_the_tree_is_found():
    assert len(CLASSES) > 20
    assert errors.UpstreamInterrupted in CLASSES
    assert table.Unauthorized in CLASSES


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_has_a_row(cls):
    row = table.TABLE[cls]
    assert row.status in (400, 401, 403, 404, 405, 413, 416, 500, 502, 503)
    error = _make(cls)
    for kind in Kind:
        assert table.code_of(error, kind) in CODES
    # 429 makes containerd hammer and containers/image stall; a 401 of upstream's would send clients to its realm.
    assert row.status != 429
    if issubclass(cls, (errors.UpstreamError, errors.NotHere)):
        assert row.status in (404, 502, 503)
    assert (row.status == 503) == bool(table.retry_after(error))


def test_no_row_is_for_nothing():
    assert set(table.TABLE) == set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_message_says_what_and_what_to_do_or_nothing_of_either(cls):
    error = _make(cls)
    message = table.message_of(error)
    if cls is table.RangeInvalid:
        assert "12 bytes" in message
    elif table.TABLE[cls].told:
        assert "what went wrong" in message
        assert "what to do" in message
    else:
        assert "what went wrong" not in message
        assert "/etc" not in message


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Kind.MANIFEST, "MANIFEST_UNKNOWN"),
        (Kind.BLOB, "BLOB_UNKNOWN"),
        (Kind.TAGS, "NAME_UNKNOWN"),
        (Kind.REFERRERS, "NAME_UNKNOWN"),
        (Kind.UPLOAD, "BLOB_UPLOAD_UNKNOWN"),
        (Kind.CATALOG, "UNSUPPORTED"),
        (Kind.NOWHERE, "UNSUPPORTED"),
    ],
)
@pytest.mark.parametrize(
    "cls", [errors.NotHere, errors.NameUnknown, errors.Denied, errors.UpstreamNotFound, errors.UpstreamDenied]
)
def test_what_is_not_here_has_the_routes_own_code(cls, kind, code):
    error = cls("no")
    assert table.row_of(error).status == 404
    assert table.code_of(error, kind) == code


def test_a_subclass_without_a_row_is_answered_like_what_is_above_it():
    class Odd(errors.UpstreamInterrupted):
        pass

    assert table.row_of(Odd("no")) == table.TABLE[errors.UpstreamInterrupted]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(0, 5), (0.2, 1), (7, 7), (7.1, 8), (100_000, 300), (math.inf, 5), (math.nan, 5), (-3, 5)],
)
def test_retry_after_is_whole_seconds_within_reason(given, expected):
    assert table.retry_after(errors.UpstreamUnavailable("away", retry_after=given)) == expected


def test_a_body_is_small_ascii_json():
    body = table.body_of("UNKNOWN", 'quote " line\r\n \u202e ' + "x" * 5000)
    assert len(body) < 1200
    assert body.isascii()
    assert b"\r" not in body
    (error,) = json.loads(body)["errors"]
    assert error["code"] == "UNKNOWN"
    assert error["message"].startswith('quote " line\r\n \u202e x')


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("http://127.0.0.1:41681 refuses connections", "upstream refuses connections"),
        ("https://[fd00::1]:5000 sent no answer within 6 s", "upstream sent no answer within 6 s"),
        ("the name of https://bastion.lab cannot be resolved", "the name of upstream cannot be resolved"),
        ("TLS with https://bastion.lab:5000/one failed (expired)", "TLS with upstream failed (expired)"),
        ("no upstream 'gcr.io' is configured here", "no upstream 'gcr.io' is configured here"),
    ],
)
def test_where_an_upstream_is_reached_stays_inside(said, read):
    assert table.message_of(errors.UpstreamUnavailable(said)) == read
    assert f'"{read}"' in responses.warning_field(said)
