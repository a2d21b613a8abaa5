"""Several ranges in one GET (RFC 9110, 14.2, 14.6, 15.3.7), over plain HTTP and over TLS."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mirror.content.answers import BlobAnswer
from mirror.errors import StoreUnreadable, UpstreamInterrupted
from mirror.oci.digest import Digest
from mirror.registry.sending import Sender
from tests.tools.byteranges import parts
from tests.unit.registry.stage import Chunks, FakeContent, StoredFile, serve_face

LARGE = os.urandom(5 * 1024 * 1024 + 17)  # two windows and a bit
TOTAL = len(LARGE)
SMALL = os.urandom(300)
MIB = 1024 * 1024


@pytest.fixture(params=["plain", "tls"])
async def spoken(request, open_face, server_tls, client_tls):
    if request.param == "plain":
        return await open_face(), None
    return await open_face(tls=server_tls), client_tls


def spread(count: int, size: int, every: int) -> str:
    return "bytes=" + ",".join(f"{at * every}-{at * every + size - 1}" for at in range(count))


@pytest.mark.parametrize(
    ("asked", "spans"),
    [
        ("bytes=1000-1099,150000-150999", [(1000, 1100), (150000, 151000)]),
        ("bytes=0-0,-1", [(0, 1), (TOTAL - 1, TOTAL)]),
        ("bytes=5-9,4000000-", [(5, 10), (4000000, TOTAL)]),
        ("BYTES=0-9,20-29,40-49", [(0, 10), (20, 30), (40, 50)]),
        # What touches stays apart: containers/image fails a pull that gets fewer parts than it asked for.
        ("bytes=0-9,10-19", [(0, 10), (10, 20)]),
        ("bytes=20-29,0-9", [(0, 10), (20, 30)]),
        ("bytes=0-9,5-14,100-109", [(0, 15), (100, 110)]),
        ("bytes=0-99,10-19,5000-5000", [(0, 100), (5000, 5001)]),
        ("bytes=-5,-10,0-0", [(0, 1), (TOTAL - 10, TOTAL)]),
        ("bytes=0-9 ,\t20-29", [(0, 10), (20, 30)]),
        ("bytes=,0-9,,20-29,", [(0, 10), (20, 30)]),
        (f"bytes=0-9,{TOTAL - 5}-{TOTAL + 5}", [(0, 10), (TOTAL - 5, TOTAL)]),
        (f"bytes=0-9,20-29,{TOTAL}-,-0", [(0, 10), (20, 30)]),
        (f"bytes=1-{MIB},{2 * MIB}-{5 * MIB}", [(1, MIB + 1), (2 * MIB, 5 * MIB + 1)]),
        (spread(256, 1, 20_000), [(at * 20_000, at * 20_000 + 1) for at in range(256)]),
    ],
)
async def test_several_ranges(content, spoken, asked, spans):
    face, tls = spoken
    digest = content.add_blob(LARGE)
    wire = await face.connect(tls)
    await wire.send(f"/v2/quay.io/a/blobs/{digest}", Range=asked)
    reply = await wire.read()
    assert reply.status == 206
    found = parts(reply.fields["content-type"], reply.body)
    assert [(part.start, part.stop, part.total) for part in found] == [(*span, TOTAL) for span in spans]
    assert all(part.content == LARGE[part.start : part.stop] for part in found)
    assert "content-range" not in reply.fields
    assert (reply.fields["x-cache"], reply.fields["etag"]) == ("HIT", f'"{digest}"')
    await wire.send("/v2/")
    assert (await wire.read()).body == b"{}"  # not a byte more than was said
    await wire.close()
    line = (await face.noted(2), face.lines.requests[0])[1]
    assert (line["status"], line["bytes"]) == (206, len(reply.body))


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        (f"bytes=10-19,{TOTAL}-", 10, 20),
        ("bytes=-0,-7", TOTAL - 7, TOTAL),
        ("bytes=0-9,5-14", 0, 15),
        ("bytes=3-5,3-5", 3, 6),
        ("bytes=10-19,", 10, 20),
        ("bytes=,10-19", 10, 20),
    ],
)
async def test_one_range_that_is_left_is_a_plain_206(content, face, asked, start, stop):
    digest = content.add_blob(LARGE)
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", Range=asked)
    assert (reply.status, reply.body) == (206, LARGE[start:stop])
    assert reply.fields["content-range"] == f"bytes {start}-{stop - 1}/{TOTAL}"
    assert reply.fields["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("asked", ["bytes=300-,400-500", "bytes=-0,-0", "bytes=300-300,-0,9999-"])
@pytest.mark.parametrize("here", [True, False])
async def test_ranges_of_which_none_can_be_satisfied(content, face, asked, here):
    digest = content.add_blob(SMALL)
    if not here:
        path = content.here.pop(digest)
        content.answers[digest] = lambda: _stored(content, path)
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", Range=asked)
    assert (reply.status, reply.fields["content-range"]) == (416, "bytes */300")


# A 200 as before: it must neither become a 416, which fails a partial pull, nor a body larger than the blob.
@pytest.mark.parametrize(
    "asked",
    [
        spread(257, 1, 20_000),
        f"bytes=0-{TOTAL // 2},1-{TOTAL // 2 + 5}",
        "bytes=0-,0-,0-",
        "bytes=0-99,100-",
        "bytes=0-9,20-29,abc",
        "bytes=0-9,9-5",
        "bytes=9-5,8-4",
        "bytes=0-9;20-29",
        "bytes=0-9,20 - 29",
        "bytes=0-9,\u0661-\u0662",
        "bytes=0-9,\u00a020-29",
        "bytes=0-9,10000000000000000000-",
        "bytes=,",
        "bytes= 0-9,20-29",
        "items=0-9,20-29",
    ],
)
async def test_what_is_better_sent_whole(content, face, asked):
    digest = content.add_blob(LARGE)
    wire = await face.connect()
    wire.writer.write(f"GET /v2/quay.io/a/blobs/{digest} HTTP/1.1\r\nHost: m\r\nRange: {asked}\r\n\r\n".encode())
    reply = await wire.read()
    await wire.close()
    assert (reply.status, reply.body) == (200, LARGE)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("condition", ["", "same", "other"])
async def test_conditions_and_head(content, face, method, condition):
    digest = content.add_blob(LARGE)
    fields = {"If_Range": f'"{digest}"' if condition == "same" else '"other"'} if condition else {}
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", method, Range="bytes=0-1,5-6", **fields)
    several = method == "GET" and condition != "other"
    assert reply.status == (206 if several else 200)
    if not several:
        assert reply.fields["content-length"] == str(TOTAL)


async def test_a_client_of_http_1_0(content, face):
    digest = content.add_blob(LARGE)
    wire = await face.connect()
    await wire.send(f"/v2/quay.io/a/blobs/{digest}", version="1.0", Range="bytes=0-1,5-6")
    reply = await wire.read()
    assert [part.content for part in parts(reply.fields["content-type"], reply.body)] == [LARGE[:2], LARGE[5:7]]
    await wire.close()


async def test_large_ranges_leave_in_windows(content, open_face, server_tls, client_tls):
    """Not whole in memory, nor in one go: the loop is everybody's."""
    digest = content.add_blob(LARGE)
    for arguments, tls, most in (({}, None, 70_000), ({"tls": server_tls}, client_tls, 30_000)):
        face = await open_face(sender=Sender(window=70_000, step=30_000), **arguments)
        reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", tls=tls, Range="bytes=1-2000000,2000002-4000000")
        assert len(parts(reply.fields["content-type"], reply.body)) == 2
        loaded = content._opened[-1].loaded
        assert max(stop - start for start, stop in loaded) <= max(most, 70_000)
        assert len(loaded) > 50


def _stored(content: FakeContent, path: Path) -> BlobAnswer:
    file = content.keep(StoredFile(path))
    return BlobAnswer(file.size, 0, file.size, "HIT", file, upstream="quay.io")


class Failing(StoredFile):
    """A file of which what lies behind `good` cannot be read."""

    good = 0

    async def load(self, start: int, stop: int) -> None:
        await super().load(start, stop)
        if stop > self.good:
            raise StoreUnreadable("the disk gives nothing")


@pytest.mark.parametrize("asked", ["bytes=0-9,3000000-3000009", "bytes=0-2000000,3000000-4000000"])
async def test_a_disk_that_fails_in_the_middle_cuts_the_answer(content, spoken, asked):
    face, tls = spoken
    digest = content.add_blob(LARGE)

    def blob_now(target, wanted):
        file = content.keep(Failing(content.here[wanted]))
        file.good = 2_500_000
        return BlobAnswer(TOTAL, 0, TOTAL, "HIT", file)

    content.blob_now = blob_now
    wire = await face.connect(tls)
    await wire.send(f"/v2/quay.io/a/blobs/{digest}", Range=asked)
    wire.writer.write(b"GET /v2/ HTTP/1.1\r\nHost: mirror\r\n\r\n")  # its answer must not land in the body
    head = await wire.head()
    assert head.status == 206
    got = await wire.rest()
    assert len(got) < int(head.fields["content-length"])
    await wire.close()
    line = await face.noted()
    assert line["bytes"] == len(got)
    assert line["why"] != "client left"


async def test_a_disk_that_gives_nothing_from_the_start_is_gone_around(content, face):
    digest = content.add_blob(LARGE)

    def blob_now(target, wanted):
        return BlobAnswer(TOTAL, 0, TOTAL, "HIT", content.keep(Failing(content.here[wanted])))

    async def blob_around(target, wanted, asked, error):
        return BlobAnswer(TOTAL, 0, TOTAL, "BYPASS", chunks=content.keep(Chunks(LARGE)))

    content.blob_now, content.blob_around = blob_now, blob_around
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", Range="bytes=0-70000,3000000-3000009")
    assert (reply.status, reply.body) == (200, LARGE)


class Growing(StoredFile):
    """What has come of a blob so far."""

    come = 0

    def ready(self) -> int:
        return self.come


def _under_way(content: FakeContent, digest: Digest, *beside: bytes | BaseException) -> None:
    """Have 1 MiB of LARGE here, and the rest beside it: each later part of it is asked for alone."""
    path = content.here.pop(digest)

    async def blob(target, wanted, asked, may_pull):
        if asked is None:
            return _stored(content, path)
        start, stop = asked.resolve(TOTAL)
        if start < MIB:
            file = content.keep(Growing(path))
            file.come = MIB
            return BlobAnswer(TOTAL, start, stop, "MISS", file)
        parts = beside or (b"", LARGE[start : start + 1], b"", LARGE[start + 1 : stop])
        return BlobAnswer(TOTAL, start, stop, "BYPASS", chunks=content.keep(Chunks(*parts)))

    content.blob = blob


async def test_ranges_of_what_is_on_its_way(content, spoken):
    face, tls = spoken
    digest = content.add_blob(LARGE)
    _under_way(content, digest)
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", tls=tls, Range="bytes=0-9,1000-200000,2000000-4000000,-10")
    assert (reply.status, reply.fields["x-cache"]) == (206, "MISS")
    assert [part.content for part in parts(reply.fields["content-type"], reply.body)] == [
        LARGE[:10],
        LARGE[1000:200_001],
        LARGE[2_000_000:4_000_001],
        LARGE[-10:],
    ]


@pytest.mark.parametrize(
    "beside",
    [
        [LARGE[2_000_000:2_000_005], UpstreamInterrupted("it stopped")],
        [LARGE[2_000_000:2_000_005]],
        [LARGE[2_000_000:2_000_050]],
    ],
    ids=["raises", "short", "long"],
)
async def test_a_part_that_does_not_come_cuts_the_answer(content, face, beside):
    digest = content.add_blob(LARGE)
    _under_way(content, digest, *beside)
    wire = await face.connect()
    await wire.send(f"/v2/quay.io/a/blobs/{digest}", Range="bytes=0-9,2000000-2000009,-10")
    head = await wire.head()
    assert head.status == 206
    assert len(await wire.rest()) < int(head.fields["content-length"])
    await wire.close()
    assert (await face.noted())["why"] != "client left"


@pytest.mark.parametrize("total", [TOTAL, None])
async def test_what_is_only_passed_through_comes_whole(content, face, total):
    """Guards against a request to upstream for each of the ranges, and against a 206 without a total."""
    digest = Digest.of(LARGE)
    content.answers[digest] = lambda: BlobAnswer(total, 0, total, "BYPASS", chunks=content.keep(Chunks(LARGE)))

    async def blob(target, wanted, asked, may_pull):
        return content.answers[digest]()

    content.blob = blob
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", Range="bytes=0-9,20-29")
    assert (reply.status, reply.body) == (200, LARGE)


# -- a model ---------------------------------------------------------------------------------------------------

BODY = os.urandom(70_000)  # more than leaves in one piece

_offsets = st.integers(0, 40) | st.integers(0, len(BODY) + 9) | st.integers(len(BODY) - 9, len(BODY) + 9)
_one = (
    st.builds("{}-".format, _offsets)
    | st.builds("-{}".format, _offsets)
    | st.builds(lambda first, count: f"{first}-{first + count}", _offsets, st.integers(0, 40) | _offsets)
)
_lists = st.lists(_one | st.just("7-3"), min_size=1, max_size=6)


def _model(asked: list[str]) -> set[int] | None:
    """Return the offsets that are asked for, one by one; None where the field is malformed."""
    wanted: set[int] = set()
    for one in asked:
        first, _, last = one.partition("-")
        if first and last and int(last) < int(first):
            if len(asked) > 1:
                return None
            continue
        if not first:
            wanted.update(range(max(0, len(BODY) - int(last)), len(BODY)))
        else:
            wanted.update(range(int(first), min(int(last) + 1 if last else len(BODY), len(BODY))))
    return wanted


def test_every_byte_that_is_sent_is_the_one_at_its_place(tmp_path):
    with asyncio.Runner() as runner:
        content = FakeContent(tmp_path)
        digest = content.add_blob(BODY)
        face = runner.run(serve_face(content))

        @given(_lists, st.sampled_from([",", ", ", " ,"]))
        @example(["0-", "7-3"], ",")
        @example(["7-3"], ",")
        @example(["0-34999", "35000-69999"], ",")
        @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        def holds(asked, comma):
            reply = runner.run(face.ask(f"/v2/quay.io/a/blobs/{digest}", Range="bytes=" + comma.join(asked)))
            expected = _model(asked)
            if reply.status == 416:
                assert expected == set()
            elif reply.status == 200:
                assert reply.body == BODY
                assert expected is None or len(asked) > 1
            elif reply.fields["content-type"].startswith("multipart/"):
                found = parts(reply.fields["content-type"], reply.body)
                assert len(found) > 1
                offsets = [offset for part in found for offset in range(part.start, part.stop)]
                assert len(offsets) == len(set(offsets)), "a byte was sent twice"
                assert set(offsets) == expected
                assert all(part.content == BODY[part.start : part.stop] for part in found)
                assert {part.total for part in found} == {len(BODY)}
            else:
                span, _, total = reply.fields["content-range"].removeprefix("bytes ").partition("/")
                first, last = map(int, span.split("-"))
                assert (set(range(first, last + 1)), int(total)) == (expected, len(BODY))
                assert reply.body == BODY[first : last + 1]

        holds()
        runner.run(face.close())
        assert content.open_files() == []
