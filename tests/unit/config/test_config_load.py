"""mirror.yaml as a file: what it may hold, and that everything wrong in it is said at once, with its line."""

from __future__ import annotations

import json
import math
import re
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.config import Amount, Config, Credentials, load
from mirror.errors import ConfigurationError


def line_of(problem):
    return int(problem.where.rpartition(":")[2])


def only(problems, code, line):
    assert [(problem.code, line_of(problem)) for problem in problems] == [(code, line)]
    return problems[0]


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\n", "---\n", "{}\n", "listen:\nca:\nlimits:\n", "limits: {blob: }\n"]
)
def test_an_empty_file_is_the_defaults(read, text):
    assert read(text) == Config()


def test_the_defaults_are_those_of_the_contract():
    config = Config()
    assert config.listen == ("127.0.0.1:5000",)
    assert config.workers == "auto"
    assert config.storage.path == Path("/var/lib/mirror")
    assert config.storage.keep_free == Amount(percent=5)
    assert config.storage.tag_history == 10
    assert config.clients.anonymous == "pull"
    assert config.limits.manifest == 4 * 2**20
    assert config.limits.blob == 50 * 2**30
    assert config.limits.memory == 512 * 2**20
    assert (config.limits.header_timeout, config.limits.idle_timeout, config.limits.write_stall) == (10, 75, 60)
    assert config.metrics.listen == "127.0.0.1:9000"


def test_what_a_file_says_is_what_the_configuration_holds(read, tmp_path):
    config = read("""
listen: ["[::]:5000", unix:run/mirror.sock]
external_url: https://mirror.lab:5000/
tls: {certificate: tls.pem, key: /etc/mirror/key.pem}
workers: 3
offline: yes
ca: [lab.pem]
proxy: proxy.lab:3128
pull_secrets: [secret.json]
default_upstream: docker.io
upstreams:
  docker.io:
  lab:
    endpoints: [bastion:5000/lab, "http://reg.lab:5000"]
    plain_http: true
    credentials: {username: robot, password_file: lab.password}
    auth_realms: [auth.example:8443]
    redirects: [s3.lab, 10.0.0.0/8]
    repositories: {allow: [team/**], deny: [team/private/*]}
    tags: {fresh_for: 0s, absent_for: 1m, stale_for: 7d}
aliases: {openshift/: lab/ocp/, web: docker.io/library/nginx}
storage: {path: store, cache_size: 200GiB, keep_free: 20GiB, tag_history: 0}
clients: {anonymous: none}
limits: {connections: 0, blob: 0, write_stall: 0s, trusted_proxies: [10.1.2.3]}
log: {level: debug, format: json}
metrics: {listen: none}
""")
    assert config.listen == ("[::]:5000", f"unix:{tmp_path}/run/mirror.sock")
    assert config.external_url == "https://mirror.lab:5000"
    assert config.tls.certificate == tmp_path / "tls.pem"
    assert config.tls.key == Path("/etc/mirror/key.pem")
    assert config.worker_count == 3
    assert config.offline is True
    assert config.ca == (tmp_path / "lab.pem",)
    assert config.proxy == "http://proxy.lab:3128"
    assert config.pull_secrets == (tmp_path / "secret.json",)
    lab = config.upstreams["lab"]
    assert lab.name == "lab"
    assert lab.endpoints == ("http://bastion:5000/lab", "http://reg.lab:5000")
    assert lab.credentials == Credentials(username="robot", password_file=tmp_path / "lab.password")
    assert lab.auth_realms == ("auth.example:8443",)
    assert lab.redirects == ("s3.lab", "10.0.0.0/8")
    assert lab.repositories.allows("team/web")
    assert not lab.repositories.allows("team/private/x")
    assert (lab.tags.fresh_for, lab.tags.absent_for, lab.tags.stale_for) == (0, 60, 604800)
    assert config.upstreams["docker.io"].endpoints == ("https://registry-1.docker.io",)
    assert config.upstreams["docker.io"].tags.stale_for == math.inf
    assert config.aliases == {"openshift/": "lab/ocp/", "web": "docker.io/library/nginx"}
    assert config.storage.path == tmp_path / "store"
    assert config.storage.cache_size == 200 * 2**30
    assert config.storage.keep_free.of(1) == 20 * 2**30
    assert config.clients.anonymous == "none"
    assert config.limits.connections == 0
    assert config.limits.blob > 2**62
    assert config.limits.write_stall == math.inf
    assert config.limits.trusted_proxies == ("10.1.2.3/32",)
    assert config.metrics.listen is None


def test_a_report_of_a_configuration_can_be_read_back_as_one(read):
    config = read(
        "upstreams: {quay.io: {tags: {stale_for: 7d}}}\nstorage: {keep_free: 3%}\nlimits: {idle_timeout: 0s}\n"
    )
    again = read(json.dumps(config.model_dump(mode="json")))
    assert again == config


def test_a_link_to_the_file_is_not_followed_for_what_lies_beside_it(tmp_path):
    real = tmp_path / "..data"
    real.mkdir()
    (real / "mirror.yaml").write_text("storage: {path: store}\n")
    (tmp_path / "mirror.yaml").symlink_to("..data/mirror.yaml")
    assert load(tmp_path / "mirror.yaml").storage.path == tmp_path / "store"


def test_each_key_tells_its_line(read, tmp_path):
    config = read("\nstorage:\n  path: x\nupstreams:\n  quay.io:\n    endpoints:\n      - a\n      - b\n")
    assert config.source.where("storage", "path") == f"{tmp_path}/mirror.yaml:3"
    assert config.source.where("upstreams", "quay.io", "endpoints", 1) == f"{tmp_path}/mirror.yaml:8"
    assert config.source.where("upstreams", "quay.io", "tags", "fresh_for") == f"{tmp_path}/mirror.yaml:5"
    assert config.source.where("tls") == f"{tmp_path}/mirror.yaml"


def test_every_problem_is_said_in_the_order_of_the_lines(refused):
    problems = refused("""
lisen: 127.0.0.1:5000
workers: 65
workers: 2
limits: {blob: 5Gi, idle_timeout: 75}
upstreams:
  reg.lab:5000:
  docker.io: {endpoint: x}
default_upstream: quay.io
admin: {sockt: /run/x}
tls: {key: k.pem}
""")
    assert [(line_of(problem), problem.code) for problem in problems] == [
        (2, "unknown_key"),
        (3, "invalid_value"),
        (4, "duplicate_key"),
        (5, "invalid_value"),
        (5, "invalid_value"),
        (7, "invalid_value"),
        (8, "unknown_key"),
        (9, "no_such_upstream"),
        (10, "unknown_key"),
        (11, "missing_key"),
    ]
    assert all(problem.remedy for problem in problems)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("lisen: x", "did you mean `listen`?"),
        ("cache_size: 5GiB", "it belongs under `storage`"),
        ("storage: {offline: true}", "it belongs at the top level, without indentation"),
        ("fresh_for: 5m", "it belongs under `upstreams.<upstream>.tags`"),
        ("log: {zzz: 1}", "the keys here are level, format"),
        ("upstreams: {quay.io: {endpoint: [x]}}", "did you mean `endpoints`?"),
        (
            "upstreams: {quay.io: {insecure: true}}",
            "certificates are always verified: give `ca`, or an http:// endpoint",
        ),
        ("upstreams: {quay.io: {name: x}}", "the keys here are plain_http,"),
        ("nothing_here:", "the keys here are listen,"),
        ("<<: {offline: true}", "the keys here are listen,"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(refused, text, remedy):
    assert only(refused(text), "unknown_key", 1).remedy.startswith(remedy)


def test_an_inline_password_is_told_where_to_go_and_never_shown(refused):
    text = "upstreams:\n  quay.io:\n    credentials: {username: ann, password: hunter2, password_file: f}\n"
    problem = only(refused(text), "unknown_key", 3)
    assert "password_file" in problem.remedy


@pytest.mark.parametrize(
    "text",
    [
        "upstreams: {quay.io: {credentials: hunter2}}",
        "upstreams: {quay.io: {credentials: [hunter2]}}",
        "upstreams: {quay.io: hunter2}",
        "upstreams: {quay.io: {endpoints: ['https://ann:hunter2@quay.io']}}",
        "upstreams: {quay.io: {endpoints: ['ann:hunter2@quay.io']}}",
        "proxy: http://ann:hunter2@proxy.lab",
        "external_url: https://ann:hunter2@mirror.lab",
        "pull_secrets: hunter2",
        "password: hunter2",
        "upstreams: {quay.io: {credentials: {username: ann, password: hunter2}}}",
        "upstreams: {quay.io: {credentials: {username: 12345678, password_file: f}}}\n# hunter2",
        "upstreams: {quay.io: {credentials: {password: 'hunter2",
        "upstreams: hunter2",
        "aliases: [password: hunter2]",
        "clients: hunter2",
    ],
)
def test_no_message_shows_a_secret_in_the_wrong_place(read, text):
    with pytest.raises(ConfigurationError) as raised:
        read(text)
    assert "hunter2" not in "".join(traceback.format_exception(raised.value)).partition("ConfigurationError")[2]
    assert "hunter2" not in repr(raised.value.problems)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("no: 1", 'put it in quotes: "no"'),
        ("upstreams: {1.10: {}}", 'put it in quotes: "1.10"'),
        ("storage: {path: 4.10}", 'put it in quotes: "4.10"'),
        ("default_upstream: off", 'put it in quotes: "off"'),
        ("clients: {anonymous: no}", 'put it in quotes: "no"'),
        ("storage: {path: 2024-01-01}", 'put it in quotes: "2024-01-01"'),
    ],
)
def test_what_yaml_reads_in_its_own_way_is_to_be_quoted(refused, text, part):
    assert only(refused(text), "wrong_type", 1).remedy == part


@pytest.mark.parametrize(
    "text",
    [
        "workers: 1.5",
        "workers: yes",
        "offline: 'true'",
        "offline: 1",
        "limits: {connections: '5'}",
        "limits: {connections: 0755}",
        "limits: {connections: 1:30}",
        "limits: {connections: 1_000}",
        "limits: []",
        "upstreams: [quay.io]",
        "upstreams: {quay.io: true}",
        "ca: lab.pem",
        "ca: {a: b}",
        "ca: [[a]]",
        "ca: [null]",
        "aliases: {a: }",
        "aliases: {a: [b]}",
        "listen: {a: b}",
        "upstreams: {quay.io: {tags: {fresh_for: 300.0}}}",
        "upstreams: {quay.io: {credentials: {username: 12345, password_file: f}}}",
        "[a, b]",
        "just text",
        "? [a]\n: b",
    ],
)
def test_a_wrong_type_is_refused_and_never_converted(refused, text):
    only(refused(text), "wrong_type", 1)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("upstreams: [quay.io, docker.io]", "write `upstreams: {quay.io: {}, docker.io: {}}`"),
        ("upstreams:\n  - quay.io: {}\n  - docker.io:\n", "write `upstreams: {quay.io: {}, docker.io: {}}`"),
        ("upstreams: quay.io", "write `upstreams: {quay.io: {}}`"),
        ("upstreams:\n  quay.io\n  docker.io", "write `upstreams: {quay.io: {}, docker.io: {}}`"),
        ("upstreams: {lab: https://reg.lab:5000}", "write `lab: {endpoints: [https://reg.lab:5000]}`"),
        ("upstreams: {lab: [https://a.lab, http://b.lab]}", "write `lab: {endpoints: [https://a.lab, http://b.lab]}`"),
        ("aliases:\n  - a/b: quay.io/b\n  - x/: quay.io/y/", "write `aliases: {a/b: quay.io/b, x/: quay.io/y/}`"),
        ("pull_secrets: /etc/mirror/pull-secret.json", "write `pull_secrets: [/etc/mirror/pull-secret.json]`"),
        ("pull_secrets: secret.json", "write `pull_secrets: [secret.json]`"),
        ("ca: lab-ca.pem", "write `ca: [lab-ca.pem]`"),
        ("storage: /data/mirror", "write `storage: {path: /data/mirror}`"),
        ("storage: [/data/mirror]", "write `storage: {path: /data/mirror}`"),
        ("storage: {path: [/data/mirror]}", "write `path: /data/mirror`"),
        ("metrics: 10.0.0.5:9000", "write `metrics: {listen: 10.0.0.5:9000}`"),
        ("metrics: {listen: ['10.0.0.5:9000']}", "write `listen: 10.0.0.5:9000`"),
        ("metrics: {listen: ['[::]:9000']}", 'write `listen: "[::]:9000"`'),
        ("metrics: {listen: ['unix:/run/m.sock']}", "write `listen: unix:/run/m.sock`"),
        ("external_url: [https://mirror.lab]", "write `external_url: https://mirror.lab`"),
        ("upstreams: [{key: quay.io}]", "write `upstreams: {quay.io: {}}`"),
        ("upstreams:\n  - host: quay.io\n  - docker.io", "write `upstreams: {quay.io: {}, docker.io: {}}`"),
    ],
)
def test_a_list_for_a_mapping_or_the_other_way_round_is_shown_as_it_should_be(read, refused, text, remedy):
    problem = only(refused(text), "wrong_type", 1)
    assert problem.remedy == remedy
    form = remedy.removeprefix("write `").removesuffix("`")
    within = {"lab": "upstreams", "path": "storage"} | ({"listen": "metrics"} if "metrics" in text else {})
    if section := within.get(form.partition(":")[0]):
        form = f"{section}: {{{form}}}"
    needed = "" if form.startswith("upstreams:") else "upstreams: {quay.io: {}}\nclients: {anonymous: none}\n"
    read(f"{needed}{form}\n")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (
            "upstreams:\n  - quay.io: {}\n  - lab:\n      endpoints: [https://reg.lab]",
            "leave out the dashes: write `quay.io:`, `lab:` directly below `upstreams:`, with the keys of each",
        ),
        (
            "upstreams:\n  - name: lab\n    endpoints: [https://reg.lab]",
            "leave out the dashes: write `lab:` directly below `upstreams:`, with the keys of each below it",
        ),
        (
            "upstreams:\n  - key: quay.io\n    ca: [a.pem]",
            "leave out the dashes: write `quay.io:` directly below `upstreams:`, with the keys of each below it",
        ),
        ("upstreams: [{key: hunter2}]", "leave out the dashes: write `key:` directly below `upstreams:`"),
        ("upstreams: [{quay.io: mirror.lab}]", "leave out the dashes: write `quay.io:` directly below `upstreams:`"),
        ("metrics: {listen: [a]}", "write one value, without brackets or dashes"),
        ("metrics: {listen: ['10.0.0.5:9000', '10.0.0.6:9000']}", "write one value, without brackets or dashes"),
        ("ca: [[a.pem]]", "write one value, without brackets or dashes"),
        ("notifications: [{url: ['https://a.lab/hunter2']}]", "write one value, without brackets or dashes"),
        ("upstreams: {quay.io: {credentials: {username: [/hunter2]}}}", "write one value, without brackets or dashes"),
        ("log: {level: [debug]}", "write one value, without brackets or dashes"),
        ("tls: {certificate: {file: tls.crt}}", "write one value"),
        ("storage: hunter2", "its keys are path, "),
        ("aliases: [a]", "write lines of `name: what it stands for`, without dashes"),
        (
            "clients: {rules: {ci: {repositories: ['apps/**'], may: [pull]}}}",
            "write `- {who: ci, repositories: […], may: […]}` in place of `ci: …`, a line for each",
        ),
        (
            "clients: {rules: {who: ci, repositories: 'apps/**', may: pull}}",
            "write `- ` before its first key, or brackets around it: `rules: [{…}]`",
        ),
        (
            "pull_secrets: {quay.io: {auth: hunter2}}",
            "logins are files: write `pull_secrets: [FILE]`, and the entries for hosts into that file",
        ),
        ("pull_secrets: hunter2", "write it in brackets: [...]"),
        ("listen: {host: a}", "write `listen: [VALUE, …]`"),
        ("tls: [a.pem, b.pem]", "its keys are certificate, key, client_ca"),
        ("log: debug", "its keys are level, format"),
        ("log: [level: debug]", "leave out the dashes: its keys (level, format) stand directly below it"),
        ("notifications: {url: 'https://x.lab'}", "write `- ` before its first key"),
    ],
)
def test_what_cannot_be_shown_whole_says_what_to_do_with_it(refused, text, remedy):
    problem = refused(text)[0]
    assert problem.remedy.startswith(remedy)
    assert "hunter2" not in str(problem)


def test_a_duplicate_key_names_the_first(refused):
    problem = only(
        refused("upstreams:\n  quay.io: {}\n  docker.io: {}\n  quay.io: {plain_http: true}\n"), "duplicate_key", 4
    )
    assert "line 2" in problem.remedy


@pytest.mark.parametrize(
    "text",
    [
        "ca: &x [a]\npull_secrets: *x",
        "ca: *x",
        "listen: *:5000",
        "offline: !!bool true",
        "offline: !x true",
        "a: 1\n---\nb: 2",
        "listen: [::]:5000",
        "listen: [",
        "a:\n\tb: 1",
        "a: b: c",
        "'unclosed",
        "a: \x07",
        "%YAML 9.9\n---\na: 1",
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        b"\xff\xfe",
        b"a: caf\xe9",
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(refused, text):
    problems = refused(text)
    assert {problem.code for problem in problems} == {"syntax"}
    assert all(line_of(problem) >= 1 for problem in problems)


def test_a_syntax_error_shows_its_line_and_not_what_stands_there(refused):
    problem = only(refused("offline: true\nupstreams: {a: 'hunter2: }\n# hunter2\n"), "syntax", 3 + 1)
    assert "hunter2" not in str(problem)


def test_a_huge_file_is_refused_unread(refused):
    assert [problem.code for problem in refused("#" * (2**20 + 1))] == ["too_large"]


def test_a_list_of_problems_stays_one_that_a_person_reads(refused):
    assert len(refused("a: 1\n" * 10_000)) <= 102


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(read):
    assert read(b"\xef\xbb\xbfoffline: true\r\nworkers: 2\r\n").workers == 2


def test_a_file_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path / "mirror.yaml")
    assert [(problem.code, problem.where) for problem in raised.value.problems] == [
        ("unreadable", str(tmp_path / "mirror.yaml"))
    ]
    assert "mirror init" in raised.value.problems[0].remedy
    with pytest.raises(ConfigurationError):
        load(tmp_path)


def test_the_admin_socket_is_in_the_store_unless_it_is_stated(read, tmp_path):
    assert read("storage: {path: /srv/m}").admin_socket == Path("/srv/m/run/serve.sock")
    assert read("admin: {socket: here.sock}").admin_socket == tmp_path / "here.sock"


def test_what_is_pushed_here_may_be_stated(read, tmp_path):
    text = """
hosted: apps/**
tls: {client_ca: people.crt}
clients:
  anonymous: push
  htpasswd: users
  rules: [{who: ci, repositories: ["apps/**"], may: [pull, push], quota: 1GiB}]
  catalog: true
notifications: [{url: "https://ci.lab/hook", batch: 5}]
storage: {sparse_indexes: true, immutable_tags: "apps/**:v*"}
"""
    config = read(text)
    assert config.hosted == ("apps/**",)
    assert config.tls.client_ca == tmp_path / "people.crt"
    assert (config.clients.anonymous, config.clients.catalog) == ("push", True)
    assert config.clients.htpasswd == tmp_path / "users"
    assert [(rule.who, rule.may, rule.quota) for rule in config.clients.rules] == [(("ci",), ("pull", "push"), 2**30)]
    assert [(one.url, one.batch) for one in config.notifications] == [("https://ci.lab/hook", 5)]
    assert (config.storage.sparse_indexes, config.storage.immutable_tags) == (True, ("apps/**:v*",))


@pytest.mark.parametrize(
    "pattern", ["apps/***", "apps:", "apps:a/b", ":v1", "Apps:v1", "apps:v1:v2", "apps:***", "apps/"]
)
def test_a_pattern_of_tags_is_refused(refused, pattern):
    only(refused(f"storage: {{immutable_tags: ['{pattern}']}}"), "invalid_value", 1)


def test_releases_are_found_where_it_says(read, tmp_path):
    text = """
releases:
  graph: https://Graph.example:8443/api/upgrades_info/v1/graph/
  signature_stores: [file:///srv/signatures, "http://10.0.0.1/release"]
  keyring: keys/own.asc
  require_signature: false
  public: false
"""
    releases = read(text).releases
    assert releases.graph == "https://graph.example:8443/api/upgrades_info/v1/graph"
    assert releases.signature_stores == ("file:///srv/signatures", "http://10.0.0.1/release")
    assert releases.keyring == tmp_path / "keys/own.asc"
    assert releases.require_signature is False
    assert releases.public is False
    assert read("").releases.public is True


@pytest.mark.parametrize(
    "value",
    ["ftp://example/x", "example", "file://relative/path", "https://user:hunter2@example/x", '"https://a b/"', "7"],
)
def test_a_graph_is_an_address(refused, value):
    (problem,) = refused(f"releases: {{graph: {value}}}")
    assert "releases.graph" in problem.what
    assert "hunter2" not in str(problem)


def test_workers_are_the_cores_at_hand_and_at_most_four(monkeypatch):
    for cores, workers in ((1, 1), (3, 3), (64, 4)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert Config().worker_count == workers


def test_a_configuration_cannot_be_changed():
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.offline = True


PIECES = [
    *re.findall(r"\S+", "upstreams quay.io listen endpoints ca aliases tags limits blob 5m 1.5 no null x/ https://a"),
    *":{}[],'@*-#& \n",
    "\n  ",
]
KEYS = [*Config.model_fields, "quay.io", "path", "endpoints", "tags", "credentials"]
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10))
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner)),
    max_leaves=12,
)
FILES = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    DOCUMENTS.map(json.dumps),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES)
def test_whatever_a_file_holds_it_is_a_configuration_or_a_list_of_problems(read, text):
    problems = []
    try:
        config = read(text.encode("utf-8", "surrogatepass"))
    except ConfigurationError as error:
        problems = error.problems
        assert problems
        config = None
    assert (config is None) or isinstance(config, Config)
    assert all(problem.code and problem.what and problem.where for problem in problems)


@pytest.mark.parametrize(
    ("text", "memory"), [("256MiB", 2**28), ("2GiB", 2**31), ("0", 2**63 - 1), ("255MiB", None), ("1", None)]
)
def test_a_worker_needs_some_memory(tmp_path, text, memory):
    path = tmp_path / "mirror.yaml"
    path.write_text(f"limits: {{memory: {text}}}\n")
    if memory is None:
        with pytest.raises(ConfigurationError, match="256MiB"):
            load(path)
    else:
        assert load(path).limits.memory == memory
