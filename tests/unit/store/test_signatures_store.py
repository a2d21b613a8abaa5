"""Signatures in the store: numbered without gaps, each once, durable, and whatever else lies there is not one."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from mirror.store.signatures import SIZE_LIMIT, Signatures

RELEASE = Digest.of(b"release")
OTHER = Digest.of(b"another release")


@pytest.fixture
def signatures(tmp_path: Path) -> Signatures:
    return Signatures(Layout(tmp_path))


def test_signatures_are_where_clients_ask_for_them(signatures: Signatures, tmp_path: Path) -> None:
    assert signatures.add(RELEASE, b"first") == 1
    assert signatures.add(RELEASE, b"second") == 2
    assert signatures.add(OTHER, b"first") == 1
    folder = tmp_path / "signatures" / f"sha256={RELEASE.hex}"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "signature-1": b"first",
        "signature-2": b"second",
    }
    assert signatures.list(RELEASE) == [(1, b"first"), (2, b"second")]
    assert signatures.read(RELEASE, 2) == b"second"
    assert signatures.read(RELEASE, 3) is None
    assert signatures.list(Digest.of(b"unknown")) == []


def test_the_same_bytes_are_kept_once(signatures: Signatures) -> None:
    assert [signatures.add(RELEASE, raw) for raw in (b"a", b"b", b"a", b"b")] == [1, 2, 1, 2]


def test_a_gap_is_filled_first(signatures: Signatures) -> None:
    for raw in (b"a", b"b", b"c"):
        signatures.add(RELEASE, raw)
    signatures.path(RELEASE, 2).unlink()
    assert signatures.add(RELEASE, b"c") == 3
    assert signatures.add(RELEASE, b"d") == 2
    assert signatures.list(RELEASE) == [(1, b"a"), (2, b"d"), (3, b"c")]


def test_ten_come_in_the_order_of_their_numbers(signatures: Signatures) -> None:
    for number in range(1, 12):
        signatures.add(RELEASE, b"%d" % number)
    assert [number for number, _ in signatures.list(RELEASE)] == list(range(1, 12))


def test_what_is_no_signature_is_not_listed(signatures: Signatures) -> None:
    signatures.add(RELEASE, b"a")
    folder = signatures.path(RELEASE, 1).parent
    for name in ("signature-0", "signature-01", "signature-", "signature-2~", "signature-100", "other"):
        (folder / name).write_bytes(b"x")
    os.symlink("signature-1", folder / "signature-2")
    (folder / "signature-3").write_bytes(b"x" * (SIZE_LIMIT + 1))
    (folder / "signature-4").mkdir()
    assert signatures.list(RELEASE) == [(1, b"a")]


def test_too_large_and_too_many_are_refused(signatures: Signatures) -> None:
    with pytest.raises(StoreError, match="65537 bytes"):
        signatures.add(RELEASE, b"x" * (SIZE_LIMIT + 1))
    signatures.add(RELEASE, b"0")
    for number in range(2, 100):
        signatures.path(RELEASE, number).write_bytes(b"%d" % number)
    with pytest.raises(StoreError, match="99 signatures"):
        signatures.add(RELEASE, b"one more")
    assert signatures.add(RELEASE, b"57") == 57


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    bodies = [b"%d" % number for number in range(20)] * 2
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda raw: Signatures(Layout(tmp_path)).add(RELEASE, raw), bodies))
    assert numbers[:20] == numbers[20:]
    assert sorted(numbers[:20]) == list(range(1, 21))
    assert sorted(raw for _, raw in Signatures(Layout(tmp_path)).list(RELEASE)) == sorted(set(bodies))


@pytest.mark.parametrize("name", ["graph", "signatures"])
def test_the_folders_are_drawn_in_the_layout(tmp_path: Path, name: str) -> None:
    layout = Layout(tmp_path)
    assert {"graph": layout.graphs, "signatures": layout.signatures}[name] == tmp_path / name
    assert layout.graph("amd64", "stable-4.16") == tmp_path / "graph" / "amd64-stable-4.16.json"
