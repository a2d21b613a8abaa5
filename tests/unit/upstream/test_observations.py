"""What is counted of an upstream."""

import pytest

from mirror.errors import UpstreamError, UpstreamNotFound
from mirror.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.upstream.factory import open_upstreams
from tests.peers.faults import Html, Status
from tests.peers.scripted import BasicLogin, ScriptedRegistry
from tests.peers.settings import client_of, config, upstream


@pytest.fixture
def metrics():
    return Metrics(upstreams=["peer"])


def line(metrics, name):
    """Return the value of a metric of the upstream `peer`."""
    for row in metrics.render().decode().splitlines():
        if row.startswith(name) and 'upstream="peer"' in row:
            return float(row.rpartition(" ")[2])
    return None


async def test_bytes_seconds_and_errors(metrics, impatient, read_whole):
    content = b"x" * 5000
    async with ScriptedRegistry() as registry, client_of(registry.url, metrics=metrics) as client:
        registry.add_image("team/app", "v1")
        digest = Digest.parse(registry.add_blob("team/app", content))
        await read_whole(await client.get_blob("team/app", digest))
        await (await client.get_blob("team/app", digest)).close()
        assert line(metrics, "mirror_upstream_received_bytes_total") == 5000
        with pytest.raises(UpstreamNotFound):
            await client.get_manifest("team/app", "absent")
        assert line(metrics, "mirror_upstream_errors_total") is None
        registry.fail("manifest", Html(), times=1)
        registry.fail("manifest", Status(403), times=1)
        for _ in range(2):
            with pytest.raises(UpstreamError):
                await client.get_manifest("team/app", "v1")
        text = metrics.render().decode()
        assert 'mirror_upstream_errors_total{kind="invalid",upstream="peer"} 1' in text
        assert 'mirror_upstream_errors_total{kind="denied",upstream="peer"} 1' in text
        assert line(metrics, "mirror_upstream_request_seconds_count") == 5


async def test_endpoints_away(metrics, impatient):
    async with ScriptedRegistry() as registry, client_of(registry.url, metrics=metrics) as client:
        registry.fail("any", Status(500))
        for name in ("team/app", "team/other") * 2:
            with pytest.raises(UpstreamError):
                await client.get_manifest(name, "v1")
        assert line(metrics, "mirror_upstream_endpoints_away") == 1


async def test_login_refused(metrics, tmp_path, impatient):
    password = tmp_path / "password"
    password.write_text("wrong")
    own = {"username": "u", "password_file": password}
    async with (
        ScriptedRegistry(login=BasicLogin({"u": "right"})) as registry,
        client_of(registry.url, metrics=metrics, credentials=own) as client,
    ):
        with pytest.raises(UpstreamError):
            await client.get_manifest("team/app", "v1")
        assert line(metrics, "mirror_upstream_login_refused") == 1


async def test_several_upstreams_are_opened_and_closed_together():
    async with ScriptedRegistry() as one, ScriptedRegistry() as two:
        one.add_image("a", "v1")
        two.add_image("b", "v1")
        opened = open_upstreams(config(upstream(one.url, name="one"), upstream(two.url, name="two")), None, {})
        assert (sorted(opened), len(opened)) == (["one", "two"], 2)
        assert await opened["one"].get_manifest("a", "v1")
        assert await opened["two"].get_manifest("b", "v1")
        await opened.close()
