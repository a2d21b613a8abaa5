"""Parts are plain tars of at most the size that was asked for, the same for every run, and say what they hold."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirror.errors import ConfigurationError, MirrorError
from mirror.oci.digest import Digest
from mirror.offline import part, ustar
from mirror.offline.part import Index, Member, PartDamaged, PartUnsupported
from mirror.offline.part_file import PartFile
from mirror.offline.part_layout import LEAST_SPAN, plan_save
from mirror.offline.plan import Plan, PlannedBlob
from mirror.outside import Direct
from tests.unit.offline.gap_bed import KIB, LAYER, PART, Site, made_up, never_sync, parts_of

SHA512 = Digest.of(b"", "sha512")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    never_sync(monkeypatch)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "store")
    yield site
    site.close()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 3000), st.integers(0, 3_000_000)), min_size=1, max_size=12),
    part_size=st.integers(120 * KIB, 2000 * KIB),
    long=st.booleans(),
)
@example([0] * 6 + [2523, 947_714], 167_424, False)  # the last of them is empty, and its line is one too many
def test_every_byte_has_one_place_and_no_part_is_too_large(sizes: list[int], part_size: int, long: bool) -> None:
    algorithm = "sha512" if long else "sha256"
    blobs = {Digest.of(str((number, size)).encode(), algorithm): size for number, size in enumerate(sizes)}
    plan = Plan.build("prod", blobs=[PlannedBlob(digest, LAYER, size) for digest, size in blobs.items()])
    planned = plan_save(plan, 7, part_size=part_size)
    placed: dict[Digest, list[tuple[int, int]]] = {}
    for one in planned.parts:
        assert one.size <= part_size
        for span in one.spans:
            assert span.total == blobs[span.digest]
            placed.setdefault(span.digest, []).append((span.offset, span.length))
    for digest, size in blobs.items():
        position = 0
        for offset, length in placed.pop(digest):
            assert offset == position
            position += length
        assert position == size
    assert placed == {}
    assert [one.name for one in planned.parts] == [
        f"prod-7-{number:03}-of-{len(planned.parts):03}.tar" for number in range(1, len(planned.parts) + 1)
    ]
    # No more parts than the bytes need: each but the last is full, up to what no piece is worth.
    least = LEAST_SPAN + 2 * ustar.BLOCK + 1024
    assert all(one.size > part_size - least for one in planned.parts[:-1])
    for one in planned.parts:
        index = planned.index(one, {})
        assert index.size == one.size
        assert Index.parse(index.dump()) == index


def test_the_same_save_has_the_same_parts_and_another_has_other_ones() -> None:
    plan, _ = made_up(1, [1000, 300_000, 500_000])
    first = plan_save(plan, 2, part_size=PART)
    assert plan_save(plan, 2, part_size=PART) == first
    others = [
        plan_save(plan, 3, part_size=PART),
        plan_save(plan, 2, part_size=PART + 512),
        plan_save(plan, 2, have={plan.blobs[0].digest}, how="have", part_size=PART),
        plan_save(plan, 2, wanted={plan.blobs[0].digest}, how="want", part_size=PART),
    ]
    assert len({one.id for one in [first, *others]}) == 5


def test_what_the_other_side_has_is_presumed_and_what_it_wants_is_all_that_goes() -> None:
    plan, _ = made_up(1, [1000, 2000, 3000, 4000])
    some = {one.digest for one in plan.blobs[:2]}
    have = plan_save(plan, 2, have=some, how="have")
    assert set(have.presumed) == some
    assert have.carried.keys() | some == plan.content.keys()
    want = plan_save(plan, 2, wanted=some | {Digest.of(b"of another set")}, how="want")
    assert set(want.carried) == some
    assert want.presumed.keys() | some == plan.content.keys()
    nothing = plan_save(plan, 2, have=plan.content.keys(), how="have")
    assert (nothing.carried, len(nothing.parts)) == ({}, 1)


def test_a_part_size_that_holds_nothing_is_refused_with_one_that_does() -> None:
    plan, _ = made_up(1, [1000] * 300)
    with pytest.raises(ConfigurationError) as caught:
        plan_save(plan, 1, part_size=64 * KIB)
    remedy = caught.value.problems[0].remedy
    least = int(remedy.split()[-1].removesuffix("MiB")) * KIB * KIB
    assert plan_save(plan, 1, part_size=least).parts
    for size, said in ((0, "parts of 0 bytes hold"), (1, "parts of 1 byte hold")):
        with pytest.raises(ConfigurationError, match=said):
            plan_save(plan, 1, part_size=size)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("plan.json", 0),
        ("blobs/sha256/" + "a" * 64 + ".9007199254740992", 5),
        (part.blob_name(SHA512, 12345), 8**11 - 512),
        (part.blob_name(SHA512, None), 1),
        (part.signature_name(SHA512, 999_999), 77),
        (part.signature_name(Digest.of(b""), 999_999), 77),
    ],
)
def test_headers_are_what_tar_reads(name: str, size: int) -> None:
    found = tarfile.TarInfo.frombuf(ustar.header(name, size), "ascii", "strict")
    assert (found.name, found.size, found.type, found.mode) == (name, size, tarfile.REGTYPE, 0o444)
    assert (found.uid, found.gid, found.uname, found.gname, found.linkname) == (0, 0, "", "", "")


def test_names_of_content_are_read_back() -> None:
    for digest in (Digest.of(b"x"), SHA512):
        for offset in (None, 0, 512, 2**52):
            held = part.piece(part.blob_name(digest, offset))
            assert held == part.Piece(digest, offset)
    plain = "blobs/sha256/" + "a" * 64
    for odd in (
        plain[:-1],
        plain + ".",
        plain + ".01",
        plain + ".-1",
        plain.upper(),
        "../" + plain,
        "/" + plain,
        "./" + plain,
        plain + "/" + "a" * 64,
        plain.replace("256", "512"),
        plain + "\n",
        "blobs/sha256/../sha256/" + "a" * 64,
    ):
        assert part.piece(odd) is None, odd


def good_index() -> Index:
    digest = Digest.of(b"x")
    return Index(
        "prod", 1, 1, 2, "0" * 64, digest, "all", "",
        (
            Member("plan.json", 5, "1" * 64),
            Member("contents.txt", 6, "2" * 64),
            Member(part.signature_name(digest, 1), 7, "3" * 64),
            Member(part.blob_name(digest, None), 8, digest.hex),
            Member(part.blob_name(Digest.of(b"y"), 512), 9, "4" * 64),
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"generation": 0},
        {"generation": "1"},
        {"generation": True},
        {"part": 3},
        {"part": 0},
        {"parts": 10**9},
        {"set": "../x"},
        {"set": 5},
        {"save": "x"},
        {"plan": "sha256:x"},
        {"how": "else"},
        {"because": 5},
        {"because": "x" * 2000},
        {"members": {}},
        {"members": []},
        {"members": "x"},
        {"members[0]": {"name": "plan.json", "size": -1, "sha256": "1" * 64}},
        {"members[0]": {"name": "plan.json", "size": 2**60, "sha256": "1" * 64}},
        {"members[0]": {"name": "plan.json", "size": 1.5, "sha256": "1" * 64}},
        {"members[0]": {"name": "plan.json", "size": 2**31, "sha256": "1" * 64}},
        {"members[0]": {"name": "contents.txt", "size": 1, "sha256": "1" * 64}},
        {"members[1]": {"name": "etc/passwd", "size": 1, "sha256": "1" * 64}},
        {"members[2]": {"name": "signatures/sha256=../signature-1", "size": 1, "sha256": "1" * 64}},
        {"members[2]": {"name": f"signatures/sha256={'a' * 64}/signature-0", "size": 1, "sha256": "1" * 64}},
        {"members[2]": {"name": f"signatures/sha256={'a' * 64}/signature-1", "size": 10**6, "sha256": "1" * 64}},
        {"members[2]": {"name": f"signatures/sha256={'a' * 63}/signature-1", "size": 1, "sha256": "1" * 64}},
        {"members[3]": {"name": "../blobs/sha256/" + "a" * 64, "size": 1, "sha256": "a" * 64}},
        {"members[3]": {"name": "/etc/shadow", "size": 1, "sha256": "a" * 64}},
        {"members[3]": {"name": "blobs/sha256/" + "a" * 64, "size": 1, "sha256": "b" * 64}},
        {"members[3]": {"name": "blobs/sha256/" + "a" * 64 + ".0", "size": 0, "sha256": "b" * 64}},
        {"members[4]": {"name": f"signatures/sha256={'a' * 64}/signature-2", "size": 1, "sha256": "1" * 64}},
        {"members[4]": {"name": part.blob_name(Digest.of(b"x"), None), "size": 1, "sha256": Digest.of(b"x").hex}},
    ],
    ids=repr,
)  # fmt: skip
def test_an_index_that_makes_no_sense(wrong: dict[str, object]) -> None:
    document = json.loads(good_index().dump())
    for key, value in wrong.items():
        name, _, number = key.partition("[")
        if number:
            document[name][int(number[:-1])] = value
        else:
            document[name] = value
    with pytest.raises(PartDamaged):
        Index.parse(json.dumps(document).encode())


def test_an_index_of_another_kind_or_time() -> None:
    assert Index.parse(good_index().dump()) == good_index()
    for raw in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"kind": "plan"}', b"null"):
        with pytest.raises(PartDamaged):
            Index.parse(raw)
    document = json.loads(good_index().dump())
    with pytest.raises(PartUnsupported, match="newer release"):
        Index.parse(json.dumps({**document, "schema": 2}).encode())


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=400) | st.text(alphabet='{}[]":,0123456789schemakindpartmembers ', max_size=300).map(str.encode)
)
def test_no_bytes_make_the_index_fail_otherwise(raw: bytes) -> None:
    with pytest.raises(MirrorError):
        Index.parse(raw)


def test_contents_are_read_back_and_other_lines_are_none() -> None:
    contents: part.Contents = {Digest.of(b"a"): ((1, 0), (2, 512), (2, 1024)), SHA512: ((7, 0),), Digest.of(b"b"): ()}
    raw = part.dump_contents(contents, 4096)
    assert len(raw) == 4096
    assert part.parse_contents(raw) == part.parse_contents(part.dump_contents(contents)) == contents
    one = str(Digest.of(b"a"))
    for wrong in (
        "\xff", "sha256:x presumed", "x", f"{one}", f"{one} 0", f"{one} 1@0", f"{one} 1@0 1@0", f"{one} 1@5 2@9",
        f"{one} 2@0 1@5", f"{one} 1 2", f"{one}  1", f"{one} 1@0 x", f" {one} 1", f"{one} 100000",
    ):  # fmt: skip
        with pytest.raises(PartDamaged):
            part.parse_contents(wrong.encode("latin-1"))


def test_parts_are_tars_that_anybody_reads(site: Site, tmp_path: Path) -> None:
    plan, contents = made_up(3, [5, 700_000, 40_000])
    site.fill(plan, contents)
    planned = plan_save(plan, 1, part_size=PART)
    report = site.save(planned, tmp_path / "disk")
    assert report.complete
    found: dict[str, bytes] = {}
    for path, one in zip(parts_of(tmp_path / "disk"), planned.parts, strict=True):
        assert path.stat().st_size == one.size <= PART
        with tarfile.open(path, "r:") as archive:
            members = archive.getmembers()
            assert all(member.isreg() for member in members)
            bodies = {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr] # regular
        index = json.loads(bodies["mirror-part.json"])
        assert bodies["mirror-part.sha256"] == part.checksum(bodies["mirror-part.json"])
        assert [member["name"] for member in index["members"]] == [member.name for member in members[2:]]
        for member in index["members"]:
            assert len(bodies[member["name"]]) == member["size"]
            assert hashlib.sha256(bodies[member["name"]]).hexdigest() == member["sha256"]
        assert bodies["plan.json"] == plan.dump()
        found |= bodies
    for digest, raw in contents.items():
        spans = sorted(
            (int(name.rpartition(".")[2]), body)
            for name, body in found.items()
            if name.startswith(f"blobs/sha256/{digest.hex}.")
        )
        assert (b"".join(body for _, body in spans) or found[f"blobs/sha256/{digest.hex}"]) == raw
    assert sum(f"blobs/sha256/{digest.hex}" not in found for digest in contents) > 0, "some go in pieces"


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar")
def test_gnu_tar_and_sha256sum_agree(site: Site, tmp_path: Path) -> None:
    plan, contents = made_up(3, [5, 700_000, 40_000])
    site.fill(plan, contents)
    site.save(plan_save(plan, 1, part_size=PART), tmp_path / "disk")
    for path in parts_of(tmp_path / "disk"):
        out = subprocess.run(["tar", "-tvf", path], capture_output=True, text=True, check=True)
        assert out.stderr == ""
    folder = tmp_path / "unpacked"
    folder.mkdir()
    subprocess.run(["tar", "-xf", parts_of(tmp_path / "disk")[0], "-C", folder], check=True)
    subprocess.run(["sha256sum", "--strict", "-c", "mirror-part.sha256"], cwd=folder, check=True, capture_output=True)
    subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path / "disk", check=True, capture_output=True
    )


def test_every_part_alone_says_what_its_fellows_bring(site: Site, tmp_path: Path) -> None:
    plan, contents = made_up(3, [5, 700_000, 40_000, 9])
    site.fill(plan, contents)
    presumed = plan.blobs[0].digest
    planned = plan_save(plan, 1, have={presumed}, how="have", because="by inventory", part_size=PART)
    site.save(planned, tmp_path / "disk")
    for number, path in enumerate(parts_of(tmp_path / "disk"), 1):
        with PartFile(Direct(), path) as opened:
            assert list(opened.defects()) == []
            where = part.parse_contents(opened.content("contents.txt"))
            assert where.keys() == plan.content.keys()
            assert where[presumed] == ()
            held = {one.digest for member in opened.index.members if (one := part.piece(member.name))}
        says = {digest for digest, spans in where.items() if number in {one for one, _ in spans}}
        assert held == says
