"""Keys that are well each and do not go together, and the upstreams' own rules."""

from __future__ import annotations

import pytest

from mirror.config import Config, UpstreamConfig


def codes(problems):
    return [problem.code for problem in problems]


@pytest.mark.parametrize("key", ["quay.io", "lab", "registry.access.redhat.com", "a", "my--lab", "my__lab", "10.0.0.1"])
def test_a_key_is_one_component_of_a_repository_name(read, key):
    upstream = read(f'upstreams: {{"{key}": }}').upstreams[key]
    assert upstream.endpoints == (f"https://{key}",)


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("reg.lab:5000", "give it `endpoints: [https://reg.lab:5000]`"),
        ("Quay.io", "write `quay.io`"),
        ("quay.io/org", "use the host alone"),
        ("https://quay.io", "one component"),
        ("-lab", "one component"),
        ("quay..io", "one component"),
        ("v2", "another key"),
        ("", ""),
        ("a" * 300, "one component"),
    ],
)
def test_a_key_that_no_name_can_begin_with_is_refused(refused, key, remedy):
    (problem,) = refused(f'\nupstreams:\n  "{key}": {{}}\n')
    assert problem.where.endswith(":3")
    assert remedy in problem.remedy


def test_a_key_that_is_no_host_needs_endpoints(refused, read):
    (problem,) = refused(f"upstreams: {{{'a' * 70}: {{}}}}")
    assert "endpoints" in problem.remedy
    assert read(f"upstreams: {{{'a' * 70}: {{endpoints: [reg.lab]}}}}")


@pytest.mark.parametrize("key", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_answers_at_its_registry_host(read, key):
    assert read(f"upstreams: {{{key}: }}").upstreams[key].endpoints == ("https://registry-1.docker.io",)


def test_plain_http_changes_only_endpoints_without_a_scheme(read):
    config = read("upstreams: {lab: {plain_http: true}, b: {plain_http: true, endpoints: [https://x, y]}}")
    assert config.upstreams["lab"].endpoints == ("http://lab",)
    assert config.upstreams["b"].endpoints == ("https://x", "http://y")


def test_an_upstream_can_be_made_without_a_file():
    upstream = UpstreamConfig(
        name="lab", endpoints=("http://127.0.0.1:5000",), tags={"fresh_for": 0, "absent_for": 0.2}
    )
    assert upstream.endpoints == ("http://127.0.0.1:5000",)
    assert (upstream.tags.fresh_for, upstream.tags.absent_for) == (0, 0.2)
    assert Config(upstreams={"lab": upstream}).upstreams["lab"] == upstream


def test_an_endpoint_listed_twice_is_refused(refused):
    assert "twice" in refused("upstreams: {lab: {endpoints: [reg.lab, https://reg.lab/]}}")[0].what


def test_two_names_of_docker_hub_are_one_too_many(refused):
    (problem,) = refused("upstreams:\n  docker.io:\n  index.docker.io:\n")
    assert problem.code == "same_upstream"
    assert problem.where.endswith(":3")


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("tls: {certificate: c}", "`key`"),
        ("tls: {key: k}", "`certificate`"),
        ("upstreams: {lab: {client_certificate: c}}\nclients: {anonymous: pull}", "`client_key`"),
        ("upstreams: {lab: {client_key: k}}", "`client_certificate`"),
    ],
)
def test_half_a_pair_is_refused(refused, text, missing):
    (problem,) = refused(text)
    assert problem.code == "missing_key"
    assert missing in problem.remedy


def test_credentials_are_a_user_and_a_file(refused):
    assert codes(refused("upstreams: {lab: {credentials: {username: x}}}")) == ["missing_key"]
    assert codes(refused("upstreams: {lab: {credentials: {}}}")) == ["missing_key", "missing_key"]


@pytest.mark.parametrize(
    "credential",
    [
        "pull_secrets: [secret.json]",
        "upstreams: {quay.io: {credentials: {username: a, password_file: f}}}",
        "upstreams: {quay.io: {client_certificate: c, client_key: k}}",
    ],
)
def test_what_a_credential_opens_to_others_must_be_stated(read, refused, credential):
    for address in ("0.0.0.0:5000", "mirror.lab:5000", '["127.0.0.1:5000", "[::]:5000"]'):
        (problem,) = refused(f"listen: {address}\n{credential}\n")
        assert problem.code == "anonymous_not_stated"
        assert "clients: {anonymous: pull}" in problem.remedy
        assert "clients: {anonymous: none}" in problem.remedy
    for stated in ("pull", "none"):
        assert read(f"listen: 0.0.0.0:5000\nclients: {{anonymous: {stated}}}\n{credential}").clients.anonymous == stated
    for address in ("127.0.0.1:5000", '"[::1]:5000"', "unix:/run/x", "localhost:5000"):
        assert read(f"listen: {address}\n{credential}").clients.anonymous == "pull"


def test_an_empty_statement_is_none(refused):
    assert codes(refused("listen: 0.0.0.0:5000\npull_secrets: [x]\nclients: {anonymous: }")) == ["anonymous_not_stated"]


def test_without_a_credential_nothing_need_be_stated(read):
    assert read("listen: 0.0.0.0:5000\nupstreams: {quay.io: }").clients.anonymous == "pull"


def test_a_wrong_statement_is_one_problem_and_not_two(refused):
    assert codes(refused("listen: 0.0.0.0:5000\npull_secrets: [x]\nclients: {anonymous: all}")) == ["invalid_value"]


@pytest.mark.parametrize(
    "text",
    [
        'listen: ["127.0.0.1:5000", "127.0.0.1:5000"]',
        'listen: ["127.0.0.1:5000", "0.0.0.0:5000"]',
        'listen: ["[::1]:5000", "[::]:5000"]',
        "listen: [unix:/run/x, unix:/run/x]",
        "listen: 127.0.0.1:9000",
        "listen: 0.0.0.0:9000",
        "listen: 127.0.0.1:5000\nmetrics: {listen: 127.0.0.1:5000}",
    ],
)
def test_an_address_is_listened_on_once(refused, text):
    assert codes(refused(text)) == ["address_taken"]


def test_addresses_that_differ_go_together(read):
    assert read('listen: ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:5000", "10.0.0.1:5000", "[::]:5000", unix:/run/x]')
    assert read("listen: 0.0.0.0:9000\nmetrics: {listen: none}")


def test_the_default_upstream_is_one_of_them(refused, read):
    (problem,) = refused("upstreams: {quay.io: }\ndefault_upstream: docker.io")
    assert (problem.code, problem.where[-2:]) == ("no_such_upstream", ":2")
    assert read("upstreams: {docker.io: }\ndefault_upstream: docker.io")


def test_nothing_is_said_of_names_whose_upstreams_cannot_be_read(refused):
    assert codes(refused("upstreams: [docker.io]\ndefault_upstream: docker.io\naliases: {a: docker.io/b}")) == [
        "wrong_type"
    ]
    assert codes(refused("upstreams: {Docker.io: }\ndefault_upstream: Docker.io")) == ["invalid_value"]


@pytest.mark.parametrize(
    ("aliases", "expected"),
    [
        ("{a: quay.io/b}", []),
        ("{a/b/: quay.io/x/y/}", []),
        ("{q/: quay.io/}", []),
        ("{a/b: quay.io/x, a/: quay.io/y/}", []),
        ("{a: gcr.io/b}", ["no_such_upstream"]),
        ("{a: quay.io}", ["invalid_value"]),
        ("{a/: quay.io/b}", ["invalid_value"]),
        ("{a: quay.io/b/}", ["invalid_value"]),
        ("{A: quay.io/b}", ["invalid_value"]),
        ("{a: 'quay.io/b:latest'}", ["invalid_value"]),
        ("{/: quay.io/b/}", ["invalid_value"]),
        ("{a/: quay.io/y/, a/b: quay.io/x}", ["alias_hidden"]),
        ("{a/: quay.io/y/, a/b/: quay.io/x/}", ["alias_hidden"]),
        ("{quay.io/: quay.io/y/}", ["upstream_hidden"]),
    ],
)
def test_an_alias_leads_to_a_repository_of_an_upstream_and_hides_nothing(read, refused, aliases, expected):
    text = f"upstreams: {{quay.io: }}\naliases: {aliases}\n"
    if expected:
        assert codes(refused(text)) == expected
    else:
        assert read(text).aliases
