"""Nobody's word but the configuration's leads into our network: every spelling over redirect, realm and Link."""

import ipaddress
import socket

import pytest

from mirror.errors import UpstreamError, UpstreamInvalid
from mirror.upstream import guard, retry, transport
from mirror.upstream.failures import AddressForbidden
from mirror.upstream.guard import AddressRefusedError, Reach, Zone, may_reach, socket_guard, zone_of, zone_of_text
from tests.peers.faults import Challenge, Redirect, WithHeaders
from tests.peers.scripted import ScriptedRegistry
from tests.peers.settings import client_of

INSIDE = [
    "127.0.0.1",
    "127.0.0.1.",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "127.1",
    "127.0.1",
    "0x7f.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "127.0.0.53",
    "127.255.255.254",
    "0",
    "0.0.0.0",
    "0.0.0.1",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::1%25lo]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:0:0:0:0:80ff:fffe]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "[::ffff:10.0.0.1]",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "240.0.0.1",
    "255.255.255.255",
    "224.0.0.1",
    "[ff02::1]",
    "[fc00::1]",
    "[fd12:3456::1]",
    "169.254.169.254",
    "169.254.0.1",
    "[::ffff:169.254.169.254]",
    "0xa9fea9fe",
    "2852039166",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "robot:pw@127.0.0.1",
    "%31%32%37.0.0.1",
    "127.0.0.1%2f",
]


def public_if(address):
    """Let one loopback address stand for the internet."""
    real = zone_of

    def zone(other):
        return Zone.PUBLIC if other == ipaddress.ip_address(address) else real(other)

    return zone


@pytest.fixture
def internet(monkeypatch):
    """127.0.0.2 counts as public, and nothing is tried twice."""
    zone = public_if("127.0.0.2")
    monkeypatch.setattr(guard, "zone_of", zone)
    monkeypatch.setattr(transport, "zone_of_peer", lambda text: zone(ipaddress.ip_address(text)))
    monkeypatch.setattr(retry, "TRIES", 1)


@pytest.fixture
async def outside(internet):
    async with ScriptedRegistry(host="127.0.0.2") as registry:
        registry.add_image("team/app", "v1")
        yield registry


@pytest.fixture
async def victim():
    """A service on this host's loopback, IPv4 and IPv6."""
    async with ScriptedRegistry() as registry:
        registry.add_image("team/app", "v1")
        if socket.has_ipv6:
            try:
                async with ScriptedRegistry(host="::1", port=registry.port) as six:
                    six.requests = registry.requests
                    yield registry
                    return
            except OSError:
                pass
        yield registry


@pytest.mark.parametrize("host", INSIDE)
async def test_redirects_of_a_public_registry(outside, victim, host):
    outside.fail("manifest", Redirect(f"http://{host}:{victim.port}/v2/team/app/manifests/v1"))
    async with client_of(outside.url) as client:
        with pytest.raises(UpstreamError):
            await client.get_manifest("team/app", "v1")
    assert victim.connections == 0


@pytest.mark.parametrize("host", INSIDE)
async def test_realms_of_a_public_registry(outside, victim, host):
    outside.fail("any", Challenge((f'Bearer realm="https://{host}:{victim.port}/token"',)))
    bare = host.rpartition("@")[2].strip("[]").split("%")[0]
    # Listed as a realm that may see the login, and still inside: only `redirects` opens the way there.
    try:
        listed = (str(ipaddress.IPv4Address(bare)),)
    except ValueError:
        listed = ("localhost",)
    async with client_of(outside.url, auth_realms=listed) as client:
        with pytest.raises(UpstreamError):
            await client.get_manifest("team/app", "v1")
    assert victim.connections == 0


@pytest.mark.parametrize("host", [*INSIDE, "evil.example"])
async def test_links_of_a_public_registry(outside, victim, host):
    outside.repository("team/app").tags["v2"] = "x"
    link = f'<http://{host}:{victim.port}/v2/team/app/tags/list?last=v1&n=5>; rel="next"'
    outside.fail("tags", WithHeaders({"Link": link}), times=1)
    async with client_of(outside.url) as client:
        try:
            assert await client.list_tags("team/app") == ["v1", "v2"]
            assert [one.target for one in outside.requests][1:] == ["/v2/team/app/tags/list?last=v1&n=5"]
        except UpstreamInvalid:
            assert len(outside.requests) == 1  # the link could not even be read
    assert victim.connections == 0


async def test_token_redirects(outside, victim):
    outside.fail("manifest", Challenge(('Bearer realm="{self}/token"',)))
    outside.fail("token", Redirect(f"http://127.0.0.1:{victim.port}/token"))
    async with client_of(outside.url) as client:
        with pytest.raises(UpstreamInvalid):
            await client.get_manifest("team/app", "v1")
    assert victim.connections == 0


async def test_a_chain_is_as_public_as_its_weakest_link(internet, victim):
    """A private registry redirects to a public CDN, and that one redirects back inside."""
    async with ScriptedRegistry() as private, ScriptedRegistry(host="127.0.0.2") as cdn:
        private.fail("manifest", Redirect(f"{cdn.url}{{path}}"))
        cdn.fail("manifest", Redirect(f"{victim.url}{{path}}"))
        async with client_of(private.url) as client:
            with pytest.raises(AddressForbidden):
                await client.get_manifest("team/app", "v1")
    assert victim.connections == 0


@pytest.mark.parametrize("vanity", ["127.0.0.1", "127.0.0.2"])
async def test_a_registry_that_is_redirected_to_leads_to_no_token_service_inside(internet, victim, vanity):
    """Where the realm is listed, so that it might see a login: `redirects` alone opens the way inside."""
    async with ScriptedRegistry(host=vanity) as endpoint, ScriptedRegistry(host="127.0.0.2") as place:
        endpoint.fail("manifest", Redirect(f"{place.url}{{path}}"))
        place.fail("manifest", Challenge((f'Bearer realm="{victim.url}/token"',)))
        async with client_of(endpoint.url, auth_realms=(victim.host,)) as client:
            with pytest.raises(AddressForbidden, match="private network"):
                await client.get_manifest("team/app", "v1")
    assert victim.connections == 0


@pytest.mark.parametrize("entry", ["127.0.0.0/8", "127.0.0.1", "::ffff:127.0.0.1"])
async def test_listed_networks_are_open(outside, victim, entry):
    outside.fail("manifest", Redirect(f"{victim.url}{{path}}"))
    async with client_of(outside.url, redirects=(entry,)) as client:
        if entry.startswith("::"):
            with pytest.raises(AddressForbidden):
                await client.get_manifest("team/app", "v1")
        else:
            assert (await client.get_manifest("team/app", "v1")).body


async def test_listed_names_are_open(outside, victim):
    outside.fail("manifest", Redirect(f"http://localhost:{victim.port}{{path}}"))
    async with client_of(outside.url, redirects=("localhost",)) as client:
        assert (await client.get_manifest("team/app", "v1")).body
    async with client_of(outside.url) as client:
        with pytest.raises(AddressForbidden, match="list the host or its network under `redirects`"):
            await client.get_manifest("team/app", "v1")


async def test_a_private_registry_may_lead_inside(victim):
    async with ScriptedRegistry(host="127.0.0.3") as private:
        private.fail("manifest", Redirect(f"{victim.url}{{path}}"))
        async with client_of(private.url) as client:
            assert (await client.get_manifest("team/app", "v1")).body


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "100.100.100.200", "224.0.0.1"])
async def test_nobody_leads_to_link_local(host):
    async with ScriptedRegistry() as private:
        private.fail("manifest", Redirect(f"http://{host}/latest/meta-data/iam"))
        async with client_of(private.url) as client:
            with pytest.raises(AddressForbidden):
                await client.get_manifest("team/app", "v1")


async def test_a_pooled_connection_widens_nobodys_reach(outside, victim):
    """One upstream is the victim itself; another's redirect must not ride on the connection that is open there."""
    async with client_of(victim.url, outside.url) as client:
        assert (await client.get_manifest("team/app", "v1")).endpoint == victim.url
        outside.fail("manifest", Redirect(f"{victim.url}{{path}}"))
        victim.repositories.clear()
        seen = len(victim.requests)
        with pytest.raises(AddressForbidden):
            await client.get_manifest("team/app", "v1")
        assert len(victim.requests) == seen + 1  # its own question, as an endpoint


async def test_a_name_that_resolves_inside_between_two_looks(outside, victim, monkeypatch):
    """DNS rebinding: what counts is the address that is dialled."""

    answers = {"outside.example": ["127.0.0.2"], "rebound.example": ["127.0.0.2", "127.0.0.1"]}

    async def resolve(self, host, port, traces=None):
        address = answers[host].pop(0)
        return [{"hostname": host, "host": address, "port": port, "family": socket.AF_INET, "proto": 6, "flags": 0}]

    monkeypatch.setattr("aiohttp.TCPConnector._resolve_host", resolve)
    outside.fail("manifest", Redirect(f"http://rebound.example:{outside.port}{{path}}x"), times=1)
    outside.fail("manifest", Redirect(f"http://rebound.example:{victim.port}{{path}}"), times=1)
    async with client_of(outside.url.replace("127.0.0.2", "outside.example")) as client:
        with pytest.raises(AddressForbidden):
            await client.get_manifest("team/app", "v1")
    assert not any(answers.values())
    assert victim.connections == 0


@pytest.mark.parametrize(
    ("address", "zone"),
    [
        ("8.8.8.8", Zone.PUBLIC),
        ("2606:4700::1111", Zone.PUBLIC),
        ("::ffff:8.8.8.8", Zone.PUBLIC),
        ("64:ff9b::808:808", Zone.PUBLIC),
        ("127.0.0.1", Zone.PRIVATE),
        ("10.1.2.3", Zone.PRIVATE),
        ("::ffff:10.1.2.3", Zone.PRIVATE),
        ("2002:a00:1::", Zone.PRIVATE),
        ("fd00::1", Zone.PRIVATE),
        ("100.64.0.1", Zone.PRIVATE),
        ("0.0.0.0", Zone.PRIVATE),
        ("::", Zone.PRIVATE),
        ("::7f00:1", Zone.PRIVATE),
        ("169.254.169.254", Zone.LINK_LOCAL),
        ("fe80::1%eth0", Zone.LINK_LOCAL),
        ("fd00:ec2::254", Zone.LINK_LOCAL),
        ("168.63.129.16", Zone.LINK_LOCAL),
        ("224.0.0.1", Zone.NEVER),
        ("ff02::1", Zone.NEVER),
        ("255.255.255.255", Zone.NEVER),
    ],
)
def test_zones(address, zone):
    assert zone_of(ipaddress.ip_address(address)) is zone


@pytest.mark.parametrize(
    ("host", "zone"),
    [
        ("quay.io", None),
        ("8.8.8.8", Zone.PUBLIC),
        ("localhost", Zone.PRIVATE),
        ("x.localhost.", Zone.PRIVATE),
        ("0x7f.1", Zone.PRIVATE),
        ("2130706433", Zone.PRIVATE),
        ("0xa9fea9fe", Zone.LINK_LOCAL),
        ("99999999999999", Zone.NEVER),
    ],
)
def test_literals(host, zone):
    assert zone_of_text(host) is zone


def test_reaches():
    ten, local, away = (ipaddress.ip_address(text) for text in ("10.0.0.1", "169.254.1.1", "8.8.8.8"))
    assert [may_reach(reach, away) for reach in Reach] == [True] * 5
    assert [may_reach(reach, ten) for reach in (Reach.ENDPOINT, Reach.PUBLIC, Reach.PRIVATE)] == [True, False, True]
    assert [may_reach(reach, local) for reach in (Reach.ENDPOINT, Reach.PRIVATE, Reach.LISTED)] == [False, False, True]
    assert may_reach(Reach.PUBLIC, local, (ipaddress.ip_network("169.254.0.0/16"),))


def test_the_guard_refuses_before_a_socket_is_made():
    make = socket_guard(Reach.PUBLIC)
    with pytest.raises(AddressRefusedError):
        make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 443)))
    with pytest.raises(AddressRefusedError):
        make((socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1%lo", 443, 0, 1)))
    with make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 443))) as made:
        assert made.family == socket.AF_INET
