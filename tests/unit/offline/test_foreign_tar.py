"""Tar archives: what honest tools write is read to the byte, and what misleads a reader is refused."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mirror.errors import MirrorError
from mirror.offline import tar as module
from mirror.offline.tar import ArchiveInvalid, FormatUnsupported, Member, Tar

END = bytes(1024)


def header(
    name: str = "file",
    size: int | bytes = 0,
    kind: bytes = b"0",
    *,
    link: str = "",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
) -> bytes:
    """Return a header with any field as wrong as a test wants it, and a checksum that is right."""
    block = bytearray(512)
    block[0 : len(name.encode())] = name.encode()[:100]
    block[100:108] = b"0000644\0"
    block[124:136] = size if isinstance(size, bytes) else f"{size:011o}\0".encode()
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[157 : 157 + len(link)] = link.encode()
    block[257 : 257 + len(magic)] = magic
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def pax(records: dict[str, str], kind: bytes = b"x") -> bytes:
    body = b""
    for key, value in records.items():
        line = f" {key}={value}\n".encode()
        length = len(line) + len(str(len(line) + len(str(len(line)))))
        body += str(length).encode() + line
    return header("pax", len(body), kind) + padded(body)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[type]:
    """Open archives from bytes; all are closed in the end."""
    tars: list[Tar] = []

    class Open:
        def __new__(cls, content: bytes) -> Tar:  # type: ignore[misc]
            path = tmp_path / "archive.tar"
            path.write_bytes(content)
            tars.append(Tar(os.open(path, os.O_RDONLY), "archive.tar"))
            return tars[-1]

    yield Open
    for tar in tars:
        tar.close()


def names(tar: Tar, **options: bool) -> list[str]:
    return [member.name for member in tar.members(**options)]


def refusal(tar: Tar, **options: bool) -> str:
    with pytest.raises(ArchiveInvalid) as caught:
        list(tar.members(**options))
    return str(caught.value)


FILES = {
    "index.json": b"{}",
    "empty": b"",
    "blobs/sha256/" + "a" * 64: b"x" * 513,
    "long/" + "d" * 90 + "/" + "f" * 120: b"deep" * 1000,
    "nach/überall": b"\x00\xff",
}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_python_writes(opened, form):
    buffer = io.BytesIO()
    files = {name: body for name, body in FILES.items() if form != tarfile.USTAR_FORMAT or len(name) < 200}
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        folder = tarfile.TarInfo("blobs")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, body in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(body), 1_700_000_000.5
            archive.addfile(entry, io.BytesIO(body))
    tar = opened(buffer.getvalue())
    assert {member.name: tar.read(member, 10_000) for member in tar.members()} == files


@pytest.mark.parametrize("form", ["ustar", "gnu", "pax", "oldgnu"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_reads_what_gnu_tar_writes(tmp_path, programs, form, prefix):
    program = programs.find("tar")
    source = tmp_path / "source"
    for name, body in FILES.items():
        if form == "ustar" and len(name) > 200:
            continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(body)
    roots = [f"{prefix}{name}" for name in sorted(os.listdir(source))] if prefix else ["."]
    subprocess.run([program, f"--format={form}", "-cf", tmp_path / "a.tar", "-C", source, *roots], check=True)
    expected = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    tar = Tar(os.open(tmp_path / "a.tar", os.O_RDONLY), "a.tar")
    try:
        assert {member.name: tar.read(member, 10_000) for member in tar.members()} == expected
    finally:
        tar.close()


def test_a_reader_gives_a_member_and_no_byte_more(opened):
    tar = opened(header("a", 3) + padded(b"one") + header("b", 700) + padded(b"b" * 700) + END)
    first, second = tar.members()
    read = tar.reader(second)
    assert (first, b"".join(iter(lambda: read(256), b""))) == (Member("a", 512, 3), b"b" * 700)
    assert tar.reader(first)(100) == b"one"
    assert read(10) == b""
    with pytest.raises(ArchiveInvalid, match="more than 100"):
        tar.read(second, 100)


def test_sizes_beyond_octal_are_read_as_gnu_and_pax_write_them(tmp_path):
    """A layer may have more than 8 GiB; the file here is sparse."""
    size = 9 * 2**30
    forms = {
        "gnu": header("big", b"\x80" + size.to_bytes(11, "big"), magic=b"ustar  \0"),
        "go": pax({"size": str(size)}) + header("big", 0),
        "full": pax({"size": str(size), "path": "big"}) + header("b", 8**11 - 1),
    }
    for name, start in forms.items():
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(start)
            file.seek(size, os.SEEK_CUR)
            file.write(END)
        tar = Tar(os.open(path, os.O_RDONLY), name)
        try:
            assert list(tar.members()) == [Member("big", len(start), size)], name
        finally:
            tar.close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pax({"size": "3"}) + header("a", 5) + padded(b"12345"), "two sizes are given"),
        (pax({"size": "512"}) + header("a", 0) + bytes(512), "two sizes are given"),
        (pax({"size": str(9 * 2**30)}) + header("a", 7), "two sizes are given"),
        (pax({"size": "-1"}) + header("a"), "no whole number"),
        (pax({"size": "9" * 30}) + header("a"), "no whole number"),
        (pax({"size": "1e3"}) + header("a"), "no whole number"),
        (pax({"path": "/etc/passwd"}) + header("a"), "absolute"),
        (pax({"path": "a/../../b"}) + header("a"), "climbs"),
        (pax({"path": ""}) + header("a"), "no name"),
        (pax({"path": "b"}, b"g") + header("a"), "global header"),
        (pax({"size": "0"}, b"g") + header("a"), "global header"),
        (pax({"GNU.sparse.major": "1"}) + header("a"), "sparse"),
        (pax({"path": "a"}) + pax({"path": "b"}) + header("c"), "two headers of one kind"),
        (pax({"path": "a"}), "not there"),
        (header("x", 8, b"x") + padded(b"99 a=b\n\0"), "pax header is damaged"),
        (header("x", 6, b"x") + padded(b"6 a=b\0"), "pax header is damaged"),
        (header("x", 4, b"x") + padded(b"4 a\n"), "pax header is damaged"),
        (header("x", 12, b"x") + padded(b"6 a=b\n6 a=c\n"), "pax header is damaged"),
        (header("x", 2**20, b"x"), "precedes a member"),
        (header("x", 5, b"L") + padded(b"/root"), "not there"),
        (header("x", 5, b"L") + padded(b"/root") + header("a"), "absolute"),
        (header("/etc/shadow"), "absolute"),
        (header("a/../b"), "climbs"),
        (header(".."), "climbs"),
        (header("b", prefix=b"../a"), "climbs"),
        (header("b", prefix=b"/a"), "absolute"),
        (header("a\nb"), "control characters"),
        (header("a\x1b[2J"), "control characters"),
        (header(""), "no name"),
        (header("./"), "no name"),
        (header("a/"), "no name"),
        (header("a", kind=b"1", link="b"), "is a link"),
        (header("a", kind=b"2", link="b"), "is a link"),
        (header("a", kind=b"3"), "a character device"),
        (header("a", kind=b"4"), "a block device"),
        (header("a", kind=b"6"), "a named pipe"),
        (header("a", kind=b"7"), "a contiguous file"),
        (header("a", kind=b"S"), "a sparse file"),
        (header("a", kind=b"M"), "another volume"),
        (header("a", kind=b"Z"), "of a kind"),
        (header("a", 4, b"5") + padded(b"1234"), "has content"),
        (header("a") + header("a"), "holds a twice"),
        (header("a") + header("./a"), "holds a twice"),
        (header("a", b"\xff" * 12), "no number"),
        (header("a", b"00000000009\0"), "no number"),
        (header("a", b"\x80" + b"\xff" * 11), "cut short within a"),
        (header("a", 5000) + b"x" * 100, "cut short within a"),
        (header("a"), "its end is missing"),
        (header("a") + bytes(100), "its end is missing"),
        (header("a") + b"rubbish" * 100, "no header where a member should begin"),
        (header("a")[:-1] + b"x", "a header is damaged"),
        (b"plain text " * 100, "this is not a tar archive"),
        (b"", "its end is missing"),
        (header("\udcff".encode("utf-8", "surrogateescape").decode("latin-1")), ""),
    ],
)  # fmt: skip
def test_refuses_what_no_honest_archive_of_images_holds(opened, content, said):
    if not said:
        raw = bytearray(header("aa"))
        raw[0:2] = b"\xff\xfe"
        raw[148:156] = b" " * 8
        raw[148:156] = f"{sum(raw):06o}\0 ".encode()
        content, said = bytes(raw), "not UTF-8"
    end = b"" if said.startswith(("its end", "cut short")) or "cut short" in said else END
    assert said in refusal(opened(content + end))


def test_symbolic_links_are_read_where_a_format_has_them(opened):
    content = header("a/layer.tar", kind=b"2", link="../b/layer.tar") + END
    assert list(opened(content).members(links=True)) == [Member("a/layer.tar", 512, 0, "../b/layer.tar")]
    long = pax({"linkpath": "c" * 150}) + header("a", kind=b"2", link="ccc") + END
    assert list(opened(long).members(links=True)) == [Member("a", len(long) - 1024, 0, "c" * 150)]
    assert "is a link" in refusal(opened(header("a", kind=b"1", link="b") + END), links=True)
    assert "has content" in refusal(opened(header("a", 3, b"2", link="b") + padded(b"123") + END), links=True)


def test_what_follows_the_end_is_nobodys(opened):
    assert names(opened(header("a") + END + header("b") + b"more")) == ["a"]


@pytest.mark.parametrize(
    ("start", "remedy"),
    [(b"\x1f\x8b\x08", "gunzip"), (b"\xfd7zXZ\0", "unxz"), (b"\x28\xb5\x2f\xfd", "unzstd"), (b"BZh9", "bunzip2")],
)
def test_compressed_archives_are_sent_back(opened, start, remedy):
    with pytest.raises(FormatUnsupported) as caught:
        opened(start + bytes(600))
    assert remedy in caught.value.remedy


def test_pipes_are_sent_back():
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(FormatUnsupported, match="not a regular file"):
        Tar(read, "pipe")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)


def test_counts_are_bounded(opened, monkeypatch):
    monkeypatch.setattr(module, "MEMBERS_LIMIT", 10)
    content = b"".join(header(f"f{number}") for number in range(12)) + END
    assert "more than 10 members" in refusal(opened(content))
    extensions = b"".join(pax({"comment": "x"}, b"g") for _ in range(12))
    assert "more than 10 members" in refusal(opened(extensions + header("a") + END))


def test_a_medium_that_fails_is_told_apart(opened, monkeypatch):
    tar = opened(header("a", 3) + padded(b"one") + END)
    (member,) = tar.members()

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(ArchiveInvalid, match="Input/output error") as caught:
        tar.read(member, 100)
    assert "medium" in caught.value.remedy


def test_an_archive_that_shrinks_is_noticed(opened, tmp_path):
    tar = opened(header("a", 3000) + padded(b"x" * 3000) + END)
    (member,) = tar.members()
    os.truncate(tmp_path / "archive.tar", 600)
    with pytest.raises(ArchiveInvalid, match="shorter while it was being read"):
        tar.read(member, 10_000)
    read = tar.reader(member)
    read(100)
    with pytest.raises(ArchiveInvalid, match="shorter while it was being read"):
        read(3000)


def test_a_table_of_many_members_takes_little_memory(tmp_path):
    path = tmp_path / "many.tar"
    with path.open("wb") as file:
        for number in range(20_000):
            file.write(header(f"repositories/openshift/release/_layers/sha256/{number:064x}/"[:90] + str(number)))
        file.write(END)
    tar = Tar(os.open(path, os.O_RDONLY), "many.tar")
    tracemalloc.start()
    try:
        assert sum(1 for _ in tar.members()) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
        tar.close()


@given(st.binary(max_size=512), st.integers(0, 511), st.booleans())
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example(b"\x80", 124, True)
def test_any_header_is_read_or_refused_and_never_escapes(tmp_path, noise, at, mended):
    """Whatever stands in a header, a member is within the archive and its name within a folder."""
    block = bytearray(header("name", 5))
    block[at : at + len(noise)] = noise
    del block[512:]
    if mended:
        block[148:156] = b" " * 8
        block[148:156] = f"{sum(block):06o}\0 ".encode()
    path = tmp_path / "noise.tar"
    path.write_bytes(bytes(block) + padded(b"12345") + header("after") + END)
    try:
        tar = Tar(os.open(path, os.O_RDONLY), "noise.tar")
    except FormatUnsupported:
        return
    try:
        for member in tar.members(links=True):
            assert 0 <= member.offset <= member.offset + member.size <= tar.size
            assert member.name
            assert not member.name.startswith("/")
            assert ".." not in member.name.split("/")
            assert member.name.isprintable() or not any(ord(letter) < 32 for letter in member.name)
    except MirrorError:
        pass
    finally:
        tar.close()


@given(st.dictionaries(st.sampled_from(["path", "size", "linkpath", "comment", "x"]), st.text(max_size=40), max_size=4))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_pax_header_is_read_or_refused(tmp_path, records):
    path = tmp_path / "pax.tar"
    path.write_bytes(pax(records) + header("name", 5) + padded(b"12345") + END)
    tar = Tar(os.open(path, os.O_RDONLY), "pax.tar")
    try:
        (member,) = tar.members()
        assert member.size == 5
        assert member.name == "/".join(part for part in records.get("path", "name").split("/") if part not in ("", "."))
    except ArchiveInvalid:
        pass
    finally:
        tar.close()
