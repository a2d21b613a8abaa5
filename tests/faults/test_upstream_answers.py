"""Answers that look right and are not: certificates, manifests, pages, and endpoints that disagree."""

from __future__ import annotations

import base64
import datetime
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.faults.invariants import broken, contents, leftovers
from tests.peers import faults
from tests.peers.images import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, descriptor, digest_of, make_index, noise
from tests.peers.scripted import ScriptedRegistry

pytestmark = [pytest.mark.usefixtures("hurried"), pytest.mark.timeout(30)]

LAYER = noise(70_000, 3)
CONFIG = b'{"architecture":"amd64","os":"linux"}'
NOW = datetime.datetime.now(datetime.UTC)


class TestCertificates:
    """There is no way on without one that is trusted: not by http, not for once."""

    @pytest.mark.parametrize("fault", ["unknown authority", "another name", "expired", "not yet", "no tls"])
    @pytest.mark.parametrize("known", [False, True])
    async def test_refused(
        self, fault: str, known: bool, serve: Callable[..., Any], tmp_path: Path, events: list[Any]
    ) -> None:
        authority, other = trustme.CA(), trustme.CA()
        name = "mirror.example" if fault == "another name" else "127.0.0.1"
        day = datetime.timedelta(days=1)
        begins = NOW + day if fault == "not yet" else None
        ends = NOW - day if fault == "expired" else NOW + 2 * day
        issuer = other if fault == "unknown authority" else authority
        certificate = issuer.issue_cert(name, not_before=begins, not_after=ends)
        good = authority.issue_cert("127.0.0.1")
        (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        good.configure_cert(context)
        async with ScriptedRegistry(tls=context) as upstream:
            image = upstream.add_image("team/app", "v1", layers=[LAYER])
            service = await serve(
                {
                    "lab": {
                        "endpoints": [upstream.url],
                        "ca": str(tmp_path / "ca.pem"),
                        "tags": {"fresh_for": "0s"},
                    }
                }
            )
            if known:
                assert (await service.get("/v2/lab/team/app/manifests/v1")).status == 200
            await upstream.stop(returning=True)
            upstream.forget()
            if fault == "no tls":
                upstream._tls = None
            else:
                upstream._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                certificate.configure_cert(upstream._tls)
            await upstream.restart()
            got = await service.get("/v2/lab/team/app/manifests/v1")
            if known:
                assert (got.status, got.cache, got.body) == (200, "STALE", image.manifest)
                assert "warning" in got.headers
                assert "tag_stale" in [event["event"] for event in events]
            else:
                assert (got.status, got.code) == (503, "UNKNOWN")
            blob = await service.get(f"/v2/lab/team/app/blobs/{digest_of(LAYER)}")
            assert (blob.status, blob.code) == (503, "UNKNOWN")
            assert [one for one in upstream.requests if one.status] == []
            assert leftovers(service.room.layout) == []

    async def test_no_redirect_from_https_to_http(self, serve: Callable[..., Any], tmp_path: Path) -> None:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
        async with ScriptedRegistry(tls=context) as upstream, ScriptedRegistry() as plain:
            for registry in (upstream, plain):
                registry.add_image("team/app", "v1", layers=[LAYER])
            upstream.fail("any", faults.Redirect(f"{plain.url}{{path}}"))
            service = await serve({"lab": {"endpoints": [upstream.url], "ca": str(tmp_path / "ca.pem")}})
            for path in ("manifests/v1", f"blobs/{digest_of(LAYER)}", "tags/list"):
                got = await service.get(f"/v2/lab/team/app/{path}")
                assert (got.status, got.code) == (502, "UNKNOWN")
            assert plain.requests == []


class TestEndpoints:
    """Several endpoints of one upstream: the first that can answers."""

    @pytest.mark.parametrize("path", ["manifests/v1", "blobs/{layer}", "tags/list"])
    @pytest.mark.parametrize(
        "first", ["refuses", "unknown name", "fails", "absent", "denies", "a page", "hangs"], ids=str
    )
    async def test_the_second_answers_for_the_first(self, serve: Callable[..., Any], first: str, path: str) -> None:
        async with ScriptedRegistry() as one, ScriptedRegistry() as two:
            two.add_image("team/app", "v1", layers=[LAYER])
            url = {"refuses": "http://127.0.0.1:1", "unknown name": "http://nowhere.invalid"}.get(first, one.url)
            fault = {
                "fails": faults.Status(500),
                "denies": faults.Status(403),
                "a page": faults.Html(),
                "hangs": faults.HangHeaders(),
            }.get(first)
            if fault is not None:
                one.fail("any", fault)
            service = await serve({"lab": {"endpoints": [url, two.url]}})
            got = await service.get(f"/v2/lab/team/app/{path.format(layer=digest_of(LAYER))}")
            assert (got.status, got.clean) == (200, True), got.body
            assert len(one.requests) <= 3

    async def test_all_away_for_a_while_is_not_for_ever(self, serve: Callable[..., Any]) -> None:
        async with ScriptedRegistry() as upstream:
            upstream.add_image("team/app", "v1", layers=[LAYER])
            service = await serve({"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "0s"}}})
            assert (await service.get("/v2/lab/team/app/manifests/v1")).cache == "MISS"
            await upstream.stop(returning=True)
            for _ in range(4):
                assert (await service.get("/v2/lab/team/app/manifests/v1")).cache == "STALE"
            await upstream.restart()
            upstream.forget()
            # The breaker is open now: nothing reaches upstream.
            assert (await service.get("/v2/lab/team/app/manifests/v1")).cache == "STALE"
            assert upstream.requests == []
            await service.room.content._tags._checks.stop()
            service.room.clients["lab"]._endpoints[0].breaker._open_until = 0
            assert (await service.get("/v2/lab/team/app/manifests/v1")).cache == "HIT"

    async def test_an_open_breaker_is_not_waited_for(self, serve: Callable[..., Any]) -> None:
        async with ScriptedRegistry() as upstream:
            upstream.add_image("team/app", "v1", layers=[LAYER])
            service = await serve({"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "0s"}}})
            assert (await service.get("/v2/lab/team/app/manifests/v1")).cache == "MISS"
            breaker = service.room.clients["lab"]._endpoints[0].breaker
            for _ in range(5):
                breaker.failed()
            assert (await service.get("/v2/lab/team/app/manifests/v1")).cache == "STALE"
            assert not service.room.content._tags._checks.running(("lab/team/app", "v1"))

    async def test_the_name_of_an_upstream_that_has_no_address(self, serve: Callable[..., Any]) -> None:
        service = await serve({"lab": {"endpoints": ["http://nowhere.invalid"]}})
        for path in ("manifests/v1", f"blobs/{digest_of(LAYER)}", "tags/list"):
            got = await service.get(f"/v2/lab/team/app/{path}")
            assert (got.status, got.code) == (503, "UNKNOWN")


def _image(**changes: object) -> dict[str, object]:
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(CONFIG, OCI_CONFIG),
        "layers": [descriptor(LAYER, OCI_LAYER)],
    }
    return {key: value for key, value in {**document, **changes}.items() if value is not None}


def _raw(document: object) -> bytes:
    return json.dumps(document).encode()


_LAYER = descriptor(LAYER, OCI_LAYER)
MALICIOUS = {
    "a list": b"[]",
    "a number": b"2",
    "not UTF-8": b'{"schemaVersion":2,"a":"\xff\xfe"}',
    "a BOM": b"\xef\xbb\xbf" + _raw(_image()),
    "UTF-16": _raw(_image()).decode().encode("utf-16-le"),
    "NaN": _raw(_image())[:-1] + b',"a":NaN}',
    "Infinity": _raw(_image())[:-1] + b',"a":-Infinity}',
    "too many digits": _raw(_image())[:-1] + b',"a":' + b"9" * 5000 + b"}",
    "a key twice": _raw(_image())[:-1] + b',"layers":[]}',
    "a key in another case": _raw(_image())[:-1] + b',"Layers":[]}',
    "image and index": _raw(_image(manifests=[])),
    "index with layers": _raw({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "layers": []}),
    "another media type": _raw(_image(mediaType=OCI_INDEX)),
    "media type of no text": _raw(_image(mediaType=7)),
    "layers of no list": _raw(_image(layers={"digest": "x"})),
    "layers of texts": _raw(_image(layers=["sha256:" + "a" * 64])),
    "negative size": _raw(_image(layers=[{**_LAYER, "size": -1}])),
    "size of a float": _raw(_image(layers=[{**_LAYER, "size": 1.0}])),
    "size of a truth": _raw(_image(layers=[{**_LAYER, "size": True}])),
    "size of a text": _raw(_image(layers=[{**_LAYER, "size": "1"}])),
    "size beyond 2^53": _raw(_image(layers=[{**_LAYER, "size": 2**53 + 1}])),
    "no size": _raw(_image(layers=[{"mediaType": OCI_LAYER, "digest": digest_of(LAYER)}])),
    "digest with a path": _raw(_image(layers=[{**_LAYER, "digest": "sha256:../../../../etc/passwd"}])),
    "digest in upper case": _raw(_image(layers=[{**_LAYER, "digest": digest_of(LAYER).upper()}])),
    "digest of md5": _raw(_image(layers=[{**_LAYER, "digest": "md5:" + "a" * 32}])),
    "digest with a line break": _raw(_image(layers=[{**_LAYER, "digest": digest_of(LAYER) + "\n"}])),
    "no config's digest": _raw(_image(config={"mediaType": OCI_CONFIG, "size": 2})),
    "config of null": _raw(_image(config=7)),
    "too many children": _raw(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(b"", OCI_MANIFEST)] * 10_001}
    ),
}


class TestManifests:
    """What two readers could take for two things, or nobody for one, is not passed on (CVE-2021-41190)."""

    @pytest.mark.parametrize("reference", ["digest", "tag"])
    @pytest.mark.parametrize(
        "name",
        list(MALICIOUS),
    )
    async def test_malicious(
        self, name: str, reference: str, upstream: ScriptedRegistry, serve: Callable[..., Any]
    ) -> None:
        body = MALICIOUS[name]
        media_type = OCI_INDEX if b'"manifests"' in body and b'"config"' not in body else OCI_MANIFEST
        digest = upstream.add_manifest("team/app", body, media_type, "v1")
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        got = await service.get(f"/v2/lab/team/app/manifests/{digest if reference == 'digest' else 'v1'}")
        assert (got.status, got.code) == (502, "UNKNOWN"), got.body[:300]
        assert upstream.count("manifest") <= 2
        assert contents(service.room.layout) == {}
        assert leftovers(service.room.layout) == []
        assert not list(service.room.layout.repositories.glob("**/_tags/*"))

    async def test_of_an_odd_media_type_from_upstream(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any]
    ) -> None:
        """What upstream calls it becomes a header here: nothing in it may end the line or be another type."""
        body = _raw(_image(mediaType=None))
        digest = upstream.add_manifest("team/app", body, f"{OCI_MANIFEST}; charset=utf-8", "v1")
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        got = await service.get(f"/v2/lab/team/app/manifests/{digest}")
        assert (got.status, got.headers["content-type"]) == (200, OCI_MANIFEST)
        assert got.body == body

    async def test_whose_digest_upstream_names_wrong(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any]
    ) -> None:
        image = upstream.add_image("team/app", "v1")
        upstream.fail("manifest", faults.WithHeaders({"Docker-Content-Digest": digest_of(b"else")}))
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        got = await service.get("/v2/lab/team/app/manifests/v1")
        assert (got.status, got.body) == (200, image.manifest)
        assert got.headers["docker-content-digest"] == image.digest
        assert broken(service.room.layout) == []

    @pytest.mark.parametrize("known", [False, True])
    @pytest.mark.parametrize("times", [1, 9])
    async def test_that_were_damaged_under_a_tag(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any], known: bool, times: int
    ) -> None:
        """The damaged one is a manifest as well, and nobody asked for it by digest: found by `make soak`."""
        service = await serve({"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "0s"}}})
        if known:
            upstream.add_image("team/app", "v1", seed=1)
            assert (await service.get("/v2/lab/team/app/manifests/v1")).status == 200
        image = upstream.add_image("team/app", "v1", seed=2)
        upstream.fail("manifest", faults.Html(), method="HEAD")
        upstream.fail("manifest", faults.FlipBit(100), method="GET", times=times)
        got = await service.get("/v2/lab/team/app/manifests/v1")
        if times == 1:
            assert (got.status, got.body) == (200, image.manifest)
        elif known:
            assert (got.status, got.cache) == (200, "STALE")
        else:
            assert (got.status, got.code) == (502, "UNKNOWN")
        upstream.heal()
        got = await service.get("/v2/lab/team/app/manifests/v1")
        assert (got.status, got.body, got.headers["docker-content-digest"]) == (200, image.manifest, image.digest)
        assert broken(service.room.layout) == []

    async def test_whose_tag_moves_between_the_two_questions(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any]
    ) -> None:
        upstream.add_image("team/app", "v1", seed=1)
        newer = upstream.add_image("team/app", "v1", seed=2)
        older = digest_of(b"gone")
        upstream.fail("manifest", faults.WithHeaders({"Docker-Content-Digest": older}), method="HEAD")
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        got = await service.get("/v2/lab/team/app/manifests/v1")
        assert (got.status, got.body, got.headers["docker-content-digest"]) == (200, newer.manifest, newer.digest)

    async def test_of_an_index_whose_tag_moves_while_it_is_pulled(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any]
    ) -> None:
        child = upstream.add_image("team/app", layers=[LAYER], seed=1)
        upstream.add_manifest("team/app", make_index(child), OCI_INDEX, "v1")
        service = await serve({"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "0s"}}})
        index = await service.get("/v2/lab/team/app/manifests/v1")
        other = upstream.add_image("team/app", seed=2)
        upstream.add_manifest("team/app", make_index(other), OCI_INDEX, "v1")
        named = json.loads(index.body)["manifests"][0]["digest"]
        assert (await service.get(f"/v2/lab/team/app/manifests/{named}")).body == child.manifest
        assert (await service.get(f"/v2/lab/team/app/blobs/{digest_of(LAYER)}")).body == LAYER
        assert (await service.get("/v2/lab/team/app/manifests/v1")).body == make_index(other)

    async def test_that_are_signed_schema_1(self, upstream: ScriptedRegistry, serve: Callable[..., Any]) -> None:
        """The digest is of the payload: verified, passed through, never stored."""
        body, payload = schema1(digest_of(LAYER))
        media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws"
        there = upstream.repository("team/app")
        there.manifests[digest_of(payload)] = (body, media_type)
        there.tags["v1"] = digest_of(payload)
        upstream.add_blob("team/app", LAYER)
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        for reference in ("v1", digest_of(payload)):
            for _ in range(2):
                got = await service.get(f"/v2/lab/team/app/manifests/{reference}")
                assert (got.status, got.cache, got.body) == (200, "BYPASS", body)
                assert got.headers["content-type"] == media_type
                assert got.headers["docker-content-digest"] == digest_of(payload)
        assert (await service.get(f"/v2/lab/team/app/blobs/{digest_of(LAYER)}")).body == LAYER
        await service.settled()
        assert set(contents(service.room.layout)) == {digest_of(LAYER)}
        there.manifests[digest_of(payload)] = (body.replace(b"team/app", b"team/bad"), media_type)
        got = await service.get(f"/v2/lab/team/app/manifests/{digest_of(payload)}")
        assert (got.status, got.code) == (502, "UNKNOWN")

    async def test_with_layers_that_name_other_places(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any]
    ) -> None:
        """`urls` of foreign layers are never followed: the registry is asked, and nobody else."""
        async with ScriptedRegistry() as other:
            other.add_blob("x", LAYER)
            foreign = {
                **descriptor(LAYER, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
                "urls": [f"{other.url}/v2/x/blobs/{digest_of(LAYER)}"],
            }
            upstream.add_manifest("team/app", _raw(_image(layers=[foreign])), OCI_MANIFEST, "v1")
            service = await serve({"lab": {"endpoints": [upstream.url]}})
            assert (await service.get("/v2/lab/team/app/manifests/v1")).status == 200
            got = await service.get(f"/v2/lab/team/app/blobs/{digest_of(LAYER)}")
            assert (got.status, got.code) == (404, "BLOB_UNKNOWN")
            assert other.requests == []

    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    async def test_and_blobs_of_both_algorithms(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any], algorithm: str
    ) -> None:
        config = upstream.add_blob("team/app", CONFIG, algorithm)
        body = _raw(_image(config={**descriptor(CONFIG, OCI_CONFIG), "digest": config}, layers=[]))
        digest = upstream.add_manifest("team/app", body, OCI_MANIFEST, "v1", algorithm=algorithm)
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        for reference in (digest, "v1"):
            got = await service.get(f"/v2/lab/team/app/manifests/{reference}")
            assert (got.status, got.body, got.headers["docker-content-digest"]) == (200, body, digest)
        assert (await service.get(f"/v2/lab/team/app/blobs/{config}")).body == CONFIG
        await service.settled()
        assert {config, digest} <= set(contents(service.room.layout))
        assert broken(service.room.layout) == []
        upstream.fail("any", faults.FlipBit(3))
        other = upstream.add_blob("team/app", LAYER, algorithm)
        assert not (await service.get(f"/v2/lab/team/app/blobs/{other}")).clean


def schema1(*layers: str) -> tuple[bytes, bytes]:
    """Return a schema 1 manifest as it is sent, and the payload that its digest is of (libtrust's form)."""
    payload = json.dumps(
        {
            "schemaVersion": 1,
            "name": "team/app",
            "tag": "v1",
            "architecture": "amd64",
            "fsLayers": [{"blobSum": layer} for layer in layers],
            "history": [{"v1Compatibility": "{}"} for _ in layers],
        },
        indent=3,
    ).encode()
    length, tail = len(payload) - 2, payload[-2:]
    protected = json.dumps({"formatLength": length, "formatTail": _b64(tail), "time": "2016-01-01T00:00:00Z"}).encode()
    block = json.dumps(
        [{"header": {"alg": "ES256"}, "signature": "c2ln", "protected": _b64(protected)}], indent=3
    ).encode()
    return payload[:length] + b',\n   "signatures": ' + block + b"\n}", payload


def _b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class TestLists:
    """Tags and referrers: page after page on one origin, bounded, and known ones where upstream fails."""

    @pytest.mark.parametrize("absolute", [False, True])
    async def test_pages_are_followed(self, serve: Callable[..., Any], absolute: bool) -> None:
        async with ScriptedRegistry(page=10, absolute_links=absolute) as upstream:
            image = upstream.add_image("team/app", "v0")
            for number in range(35):
                upstream.repository("team/app").tags[f"t{number:03}"] = image.digest
            service = await serve({"lab": {"endpoints": [upstream.url]}})
            got = await service.get("/v2/lab/team/app/tags/list")
            assert len(json.loads(got.body)["tags"]) == 36
            assert upstream.count("tags") == 4

    @pytest.mark.parametrize(
        "link",
        [
            '</v2/team/app/tags/list>; rel="next"',
            '<http://[::1>; rel="next"',
            '<?last=\xe4>; rel="next"',
        ],
    )
    async def test_links_that_lead_nowhere_end(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any], link: str
    ) -> None:
        upstream.add_image("team/app", "v1")
        upstream.fail("tags", faults.WithHeaders({"Link": link}))
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        got = await service.get("/v2/lab/team/app/tags/list")
        assert got.status == 502
        assert upstream.count("tags") == 1

    @pytest.mark.parametrize("link", ["</v2/team/app/tags/list?n=1&last=a>", "<?n=1&last=a>"])
    async def test_links_that_lead_in_circles_end(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any], link: str
    ) -> None:
        """Artifactory's cursor (renovate#15080): what was read is the list."""
        upstream.add_image("team/app", "v1")
        upstream.fail("tags", faults.WithHeaders({"Link": f'{link}; rel="next"'}))
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        got = await service.get("/v2/lab/team/app/tags/list")
        assert (got.status, json.loads(got.body)["tags"]) == (200, ["v1"])
        assert upstream.count("tags") == 2

    async def test_a_link_to_another_host_is_asked_of_this_one(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any]
    ) -> None:
        async with ScriptedRegistry() as other:
            upstream.add_image("team/app", "v1")
            upstream.fail(
                "tags", faults.WithHeaders({"Link": f'<{other.url}/v2/team/app/tags/list?last=v1>; rel="next"'}), 1
            )
            service = await serve({"lab": {"endpoints": [upstream.url]}})
            assert (await service.get("/v2/lab/team/app/tags/list")).status == 200
            assert other.requests == []
            assert upstream.count("tags") == 2

    async def test_without_end_are_cut_off(self, upstream: ScriptedRegistry, serve: Callable[..., Any]) -> None:
        names = [f"t{number:06}" for number in range(12_000)]
        upstream.add_image("team/app", *names[:1])
        body = json.dumps({"name": "team/app", "tags": names}).encode()
        upstream.fail("tags", faults.Status(200, {"Content-Type": "application/json"}, body))
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        got = await service.get("/v2/lab/team/app/tags/list")
        assert got.status in (200, 502)
        if got.status == 200:
            assert len(json.loads(got.body)["tags"]) <= 10_000

    @pytest.mark.parametrize(
        "body",
        [
            b'{"name":"team/app","tags":null}',
            b'{"name":"team/app"}',
            b'{"name":"team/app","tags":["../../x","v1","\\u202e","' + b"a" * 200 + b'"]}',
        ],
        ids=["null", "none", "names of no grammar"],
    )
    async def test_of_odd_names(self, upstream: ScriptedRegistry, serve: Callable[..., Any], body: bytes) -> None:
        upstream.add_image("team/app", "v1")
        upstream.fail("tags", faults.Status(200, {"Content-Type": "application/json"}, body))
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        got = await service.get("/v2/lab/team/app/tags/list")
        assert got.status in (200, 502)
        if got.status == 200:
            assert set(json.loads(got.body)["tags"]) <= {"v1"}

    @pytest.mark.parametrize(
        ("fault", "status", "known"),
        [
            (faults.Status(404), 404, 404),
            (faults.Status(403), 404, 404),
            (faults.Status(500), 503, 200),
            (faults.Html(), 404, 200),
            (faults.Status(200, {"Content-Type": OCI_INDEX}, b"[]"), 404, 200),
            (faults.Status(200, {"Content-Type": OCI_INDEX}, b'{"schemaVersion":2,"manifests":7}'), 404, 200),
            (faults.Status(200, {"Content-Type": OCI_INDEX}, b"[" * 100_000), 404, 200),
            (faults.Status(200, {"Content-Type": OCI_INDEX}, b"x" * (5 << 20)), 502, 200),
            (faults.WithHeaders({"Content-Encoding": "br"}), 502, 200),
        ],
        ids=["absent", "denied", "fails", "page", "list", "no list", "deep", "huge", "encoded"],
    )
    @pytest.mark.parametrize("query", ["", "?artifactType=application/vnd.example"])
    async def test_of_referrers(
        self,
        upstream: ScriptedRegistry,
        serve: Callable[..., Any],
        fault: faults.Fault,
        status: int,
        known: int,
        query: str,
    ) -> None:
        image = upstream.add_image("team/app", "v1")
        service = await serve({"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "0s"}}})
        target = f"/v2/lab/team/app/referrers/{image.digest}{query}"
        upstream.fail("referrers", fault)
        got = await service.get(target)
        assert got.status == status, got.body
        upstream.heal()
        service.room.clients["lab"]._endpoints[0].breakers.succeeded("team/app")
        assert (await service.get(target)).status == 200
        upstream.fail("referrers", fault)
        later = await service.get(target)
        assert later.status == known
        assert ("warning" in later.headers) == (known == 200)

    @pytest.mark.parametrize("endpoints", ["one", "two"])
    @pytest.mark.parametrize(
        "fault",
        [
            *(faults.Status(code, {}, b"{}") for code in (400, 405, 406, 409, 415, 422, 501)),
            *(faults.Status(code) for code in (204, 300, 304)),
            faults.Status(501, {"Retry-After": "600"}),
            faults.Html(),
            faults.Status(200, {"Content-Type": "application/json"}, b"<html></html>"),
            faults.Status(200, {"Content-Type": "application/json"}, b""),
            faults.Status(200, {"Content-Type": "application/json"}, b"{}"),
            faults.Status(200, {"Content-Type": "application/json"}, b"null"),
            faults.Status(200, {"Content-Type": "application/json"}, b'"no"'),
            faults.Status(200, {"Content-Type": "application/json"}, b'{"ok": true}'),
            faults.Status(200, {"Content-Type": "application/json"}, b'{"errors": [{"code": "UNSUPPORTED"}]}'),
            faults.Status(200, {"Content-Type": OCI_MANIFEST}, b'{"schemaVersion": 2, "config": {}, "layers": []}'),
        ],
        ids=repr,
    )
    async def test_of_referrers_that_are_not_offered(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any], fault: faults.Fault, endpoints: str
    ) -> None:
        """Registries without the API say so in many ways (sigstore-js#1187, rust-oci-client#259, ocx#106)."""
        image = upstream.add_image("team/app", "v1")
        upstream.fail("referrers", fault)
        async with ScriptedRegistry() as other:
            urls = [upstream.url, other.url] if endpoints == "two" else [upstream.url]
            other.add_image("team/app", "v1")
            service = await serve({"lab": {"endpoints": urls}})
            for _ in range(8):  # more than make a breaker open
                got = await service.get(f"/v2/lab/team/app/referrers/{image.digest}")
                if endpoints == "two":
                    assert json.loads(got.body)["manifests"] == []
                    break
                assert got.status == 404, got.body
            assert upstream.count("referrers") == (1 if endpoints == "two" else 8), "it is asked once a question"
            health = service.room.clients["lab"].health()[0]
            assert (health.breaker, health.last_error) == ("closed", "")
            assert (await service.get("/v2/lab/team/app/manifests/v1")).status == 200

    @pytest.mark.parametrize(
        "body",
        [
            b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": null}',
            b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}',
            b'{"schemaVersion": 2}',
            b'{"manifests": null}',
            b'{"manifests": []}',
            b'{"manifests": [null, 1, {}, {"digest": 7}]}',
            b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [null]}',
        ],
    )
    @pytest.mark.parametrize("query", ["", "?artifactType=application/vnd.example"])
    async def test_of_no_referrers(
        self, upstream: ScriptedRegistry, serve: Callable[..., Any], body: bytes, query: str
    ) -> None:
        """Services written in Go send null for an empty list; clients read an index (`manifests: []`)."""
        image = upstream.add_image("team/app", "v1")
        upstream.fail("referrers", faults.Status(200, {"Content-Type": OCI_INDEX}, body))
        service = await serve({"lab": {"endpoints": [upstream.url]}})
        for _ in range(2):  # asked, and remembered
            got = await service.get(f"/v2/lab/team/app/referrers/{image.digest}{query}")
            assert got.status == 200
            assert json.loads(got.body) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


@pytest.mark.parametrize(
    "fault", [faults.Status(500), faults.HangHeaders(), faults.Status(429), faults.Html()], ids=str
)
@pytest.mark.parametrize("suffix", ["sig", "att", "sbom"])
async def test_a_signature_tag_is_absent_whenever_upstream_cannot_be_asked(
    upstream: ScriptedRegistry, serve: Callable[..., Any], fault: faults.Fault, suffix: str
) -> None:
    upstream.add_image("team/app", "v1")
    upstream.fail("manifest", fault)
    service = await serve({"lab": {"endpoints": [upstream.url]}})
    got = await service.get(f"/v2/lab/team/app/manifests/sha256-{'a' * 64}.{suffix}")
    assert (got.status, got.code) == (404, "MANIFEST_UNKNOWN")


async def test_a_registry_that_refuses_head(upstream: ScriptedRegistry, serve: Callable[..., Any]) -> None:
    """Harbor says 404, public ECR 401, others 405: by GET all is there, and is asked for once."""
    image = upstream.add_image("team/app", "v1", layers=[LAYER])
    service = await serve({"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "0s"}}})
    for status in (401, 404, 405):
        upstream.heal()
        upstream.forget()
        upstream.fail("any", faults.Status(status), method="HEAD")
        got = await service.get("/v2/lab/team/app/manifests/v1")
        assert (got.status, got.body) == (200, image.manifest)
        assert upstream.count("manifest", "GET") == 1
        head = await service.get(f"/v2/lab/team/app/blobs/{digest_of(LAYER)}", "HEAD")
        assert (head.status, head.headers["content-length"], head.cache) == (200, str(len(LAYER)), "BYPASS")
        assert upstream.sent("blob") <= 1


async def test_a_size_that_head_got_wrong_spoils_no_pull(upstream: ScriptedRegistry, serve: Callable[..., Any]) -> None:
    """Proxies that compress answer HEAD with length 0 (cloudflare/serverless-registry#136)."""
    digest = upstream.add_blob("team/app", LAYER)
    upstream.fail("blob", faults.Status(200, {"Content-Length": "0"}), method="HEAD")
    service = await serve({"lab": {"endpoints": [upstream.url]}})
    assert (await service.get(f"/v2/lab/team/app/blobs/{digest}", "HEAD")).status == 200
    got = await service.get(f"/v2/lab/team/app/blobs/{digest}")
    assert (got.status, got.clean, got.body == LAYER) == (200, True, True)


async def test_a_second_tag_of_what_is_here_is_a_hit(upstream: ScriptedRegistry, serve: Callable[..., Any]) -> None:
    upstream.add_image("team/app", "v1", "v2", layers=[LAYER])
    service = await serve({"lab": {"endpoints": [upstream.url]}})
    assert (await service.get("/v2/lab/team/app/manifests/v1")).cache == "MISS"
    assert (await service.get("/v2/lab/team/app/manifests/v2")).cache == "HIT"
    assert upstream.count("manifest") == 2


async def test_pulls_that_are_counted_are_saved(upstream: ScriptedRegistry, serve: Callable[..., Any]) -> None:
    """At Docker Hub a GET of a manifest is a pull, and HEAD costs nothing: also of absence HEAD says all."""
    upstream.extra_headers = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}
    upstream.add_image("team/app", "v1", "v2", layers=[LAYER])
    service = await serve({"lab": {"endpoints": [upstream.url]}})
    assert (await service.get("/v2/lab/team/app/manifests/v1")).cache == "MISS"
    upstream.forget()
    assert (await service.get("/v2/lab/team/app/manifests/v2")).cache == "HIT"
    assert (await service.get("/v2/lab/team/app/manifests/absent")).status == 404
    assert [one.method for one in upstream.seen("manifest")] == ["HEAD", "HEAD"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("tag", ["absent", "v2"])
async def test_a_tag_that_is_not_known_costs_one_request(
    upstream: ScriptedRegistry, serve: Callable[..., Any], tag: str, method: str
) -> None:
    """Registries that cache answer HEAD with 404 for what they have not brought yet, so one GET is asked."""
    upstream.add_image("team/app", "v1", "v2", layers=[LAYER])
    upstream.fail("manifest", faults.Status(404), method="HEAD")
    service = await serve({"lab": {"endpoints": [upstream.url]}})
    assert (await service.get("/v2/lab/team/app/manifests/v1")).status == 200
    upstream.forget()
    got = await service.get(f"/v2/lab/team/app/manifests/{tag}", method)
    assert got.status == (200 if tag == "v2" else 404)
    assert upstream.count("manifest") == 1
