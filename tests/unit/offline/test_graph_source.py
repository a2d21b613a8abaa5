"""Where update graphs come from: a service, a file, a folder."""

import json
from urllib.parse import parse_qsl

import pytest

from mirror.config.model import GRAPH
from mirror.errors import ConfigurationError, UpstreamInvalid, UpstreamUnavailable
from mirror.offline.graph import OKD_GRAPH, ChannelUnknown, GraphInvalid, Graphs
from mirror.offline.graph.document import SIZE_LIMIT
from mirror.upstream.documents import open_documents
from tests.peers import settings
from tests.peers.faults import Status
from tests.peers.scripted import ScriptedRegistry

DOCUMENT = {"nodes": [{"version": "4.16.3", "payload": "quay.io/ocp/release@sha256:" + "0" * 64}]}
CONTENT = json.dumps(DOCUMENT).encode()


@pytest.fixture
async def documents():
    opened = open_documents(settings.config(), {})
    yield opened
    await opened.close()


@pytest.fixture
async def service():
    async with ScriptedRegistry() as peer:
        yield peer


def says(peer, content, status=200):
    peer.heal()
    peer.fail("any", Status(status, {"Content-Type": "application/json"}, content))


async def test_a_service(service, documents):
    says(service, CONTENT)
    graph = await Graphs(documents, f"{service.url}/api/upgrades_info/v1/graph").fetch("stable-4.16", "arm64")
    assert graph.ascending == ("4.16.3",)
    (asked,) = service.requests
    assert asked.path == "/api/upgrades_info/v1/graph"
    assert dict(parse_qsl(asked.query)) == {"channel": "stable-4.16", "arch": "arm64"}
    assert asked.headers["accept"] == "application/json"


@pytest.mark.parametrize("content", [b'{"version": 1, "nodes": [], "edges": []}', b'{"nodes": []}'])
async def test_an_empty_graph_is_an_unknown_channel(service, documents, content):
    says(service, content)
    with pytest.raises(ChannelUnknown, match=r"no release in channel stable-4\.99 for amd64") as error:
        await Graphs(documents, service.url).fetch("stable-4.99", "amd64")
    assert isinstance(error.value, ConfigurationError)
    assert error.value.channel == "stable-4.99"


async def test_what_is_no_graph_names_where_it_came_from(service, documents):
    says(service, b"[]")
    with pytest.raises(
        GraphInvalid, match=f"{service.url}/graph answers for channel stable-4.16, and this is not an update"
    ):
        await Graphs(documents, f"{service.url}/graph").fetch("stable-4.16", "amd64")
    says(service, b" " * (SIZE_LIMIT + 1))
    with pytest.raises(UpstreamInvalid, match=f"over the limit of {SIZE_LIMIT}"):
        await Graphs(documents, f"{service.url}/graph").fetch("stable-4.16", "amd64")


async def test_no_service_there(service, documents):
    graphs = Graphs(documents, f"{service.url}/wrong")
    with pytest.raises(UpstreamInvalid, match=r"no update graph at .*/wrong: check `releases\.graph`"):
        await graphs.fetch("stable-4.16", "amd64")
    await service.stop()
    with pytest.raises(UpstreamUnavailable, match="refuses connections"):
        await graphs.fetch("stable-4.16", "amd64")


@pytest.mark.parametrize("channel", ["", "a b", "../x", "stable-4.16&arch=x", "x" * 200, "/", "."])
async def test_names_that_no_channel_has(service, documents, tmp_path, channel):
    for url in (service.url, f"file://{tmp_path}"):
        with pytest.raises(ChannelUnknown):
            await Graphs(documents, url).fetch(channel, "amd64")
    assert service.requests == []


async def test_a_file_is_the_graph_of_every_channel(documents, tmp_path):
    path = tmp_path / "graph.json"
    graphs = Graphs(documents, f"file://{path}")
    with pytest.raises(UpstreamInvalid, match=f"no update graph at file://{path}"):
        await graphs.fetch("stable-4.16", "amd64")
    path.write_bytes(CONTENT)
    for channel, architecture in (("stable-4.16", "amd64"), ("lab", "multi")):
        assert (await graphs.fetch(channel, architecture)).head == "4.16.3"


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_folder_holds_a_file_a_channel(documents, tmp_path, slash):
    (tmp_path / "amd64-stable-4.16.json").write_bytes(CONTENT)
    graphs = Graphs(documents, f"file://{tmp_path}{slash}")
    assert (await graphs.fetch("stable-4.16", "amd64")).head == "4.16.3"
    with pytest.raises(ChannelUnknown, match=r"put arm64-stable-4\.16\.json into the folder"):
        await graphs.fetch("stable-4.16", "arm64")


@pytest.mark.parametrize(
    ("url", "kind", "asked"),
    [
        (GRAPH, "ocp", GRAPH),
        (GRAPH, "okd", OKD_GRAPH),
        ("https://lab/graph", "okd", "https://lab/graph"),
        ("https://lab/graph", "ocp", "https://lab/graph"),
    ],
)
async def test_okd_has_a_graph_of_its_own_unless_another_is_configured(url, kind, asked):
    seen = []

    class Documents:
        async def get(self, url, **_):
            seen.append(url)
            return CONTENT

    await Graphs(Documents(), url).fetch("stable-4", "amd64", kind)
    assert seen == [asked]
