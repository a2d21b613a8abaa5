"""`mirror init`: from nothing to a configuration that serves, and what it never touches."""

from __future__ import annotations

import base64
import datetime
import http.client
import json
import os
import re
import shlex
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509

from mirror.admin.authority import Pair, make_server
from mirror.cli import main
from mirror.config import load
from mirror.registry.access import Access
from mirror.registry.clients import ANONYMOUS, Principal
from tests.tools.mirror import Mirror
from tests.tools.processes import free_port, wait_until


def init(*arguments, code=0):
    done = CliRunner().invoke(main, ["init", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.stdout if "--json" in arguments else done.output


@pytest.fixture
def begun(tmp_path):
    """Return the report of a first run, and the folder."""
    folder = tmp_path / "etc"
    said = init(
        "--config",
        folder / "mirror.yaml",
        "--host",
        "Mirror.Lab",
        "--host",
        "10.0.0.5",
        "--store",
        tmp_path / "s",
        "--json",
    )
    return json.loads(said), folder


def names(path: Path) -> list[str]:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


def test_everything_is_made_with_the_rights_that_it_needs(begun):
    report, folder = begun
    assert report["ok"]
    assert report["kept"] == []
    assert sorted(report["made"]) == sorted(str(path) for path in folder.iterdir())
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir()}
    assert modes == {
        "mirror.yaml": "0o644",
        "ca.crt": "0o644",
        "ca.key": "0o600",
        "tls.crt": "0o644",
        "tls.key": "0o640",
        "htpasswd": "0o640",
        "pull-secret.json": "0o640",
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert names(folder / "tls.crt") == ["mirror.lab", "10.0.0.5", "localhost", "127.0.0.1", "::1"]
    config = load(folder / "mirror.yaml")
    assert config.clients.anonymous == "none"
    assert config.external_url == "https://mirror.lab:5000"
    assert "mirror init --host mirror.lab --host 10.0.0.5" in (folder / "mirror.yaml").read_text()
    password = report["user"]["password"]
    assert len(password) >= 20
    assert not any(password in path.read_text() for path in folder.iterdir())


def test_a_strict_client_trusts_the_certificate_by_the_ca_alone(begun):
    _, folder = begun
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "mirror.lab"]
    subprocess.run([*command, "-CAfile", folder / "ca.crt", folder / "tls.crt"], check=True, capture_output=True)


def served_from(folder, tmp_path):
    """Return the service of the configuration that was begun, on a port of its own."""
    port, metrics = free_port(), free_port()
    text = (folder / "mirror.yaml").read_text().replace("0.0.0.0:5000", f"127.0.0.1:{port}")
    (folder / "mirror.yaml").write_text(f"{text}\nmetrics: {{listen: 127.0.0.1:{metrics}}}\nworkers: 1\n")
    command = [sys.executable, "-m", "mirror", "serve", "--config", str(folder / "mirror.yaml")]
    served = Mirror(tmp_path / "m", {"tls": {}})
    served.command, served.address = command, f"127.0.0.1:{port}"
    return served, port


def test_an_expired_certificate_is_served_and_replaced_by_what_the_remedy_says(begun, tmp_path):
    _, folder = begun
    authority = Pair((folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes())
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=900)
    old = make_server(authority, ["mirror.lab", "10.0.0.5", "localhost"], long_ago)
    (folder / "tls.crt").write_bytes(old.certificate)
    (folder / "tls.key").write_bytes(old.key)
    served, port = served_from(folder, tmp_path)
    checked = CliRunner().invoke(main, ["check", "--config", str(folder / "mirror.yaml"), "--json"])
    remedies = {one["code"]: one["remedy"] for one in json.loads(checked.stdout)["problems"]}
    away, _, command = remedies["certificate_expired"].partition(" away, then run: mirror ")
    served.start()
    try:
        wait_until(lambda: "event=certificate_expired" in served.log, "the log to say so")
        assert f"mirror {command}" in served.log
        for path in away.removeprefix("move ").split(" and "):
            Path(path).rename(f"{path}.old")
        init(*shlex.split(command)[1:])
        wait_until(lambda: "event=tls_reloaded" in served.log, "the new pair to be taken up")
        trusting = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        connection = http.client.HTTPSConnection("localhost", port, context=trusting, timeout=20)
        connection.request("GET", "/livez")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        served.stop()
    assert names(folder / "tls.crt")[:2] == ["mirror.lab", "10.0.0.5"]


def test_what_it_wrote_serves_over_tls_to_its_user_and_to_nobody_else(begun, tmp_path):
    report, folder = begun
    served, port = served_from(folder, tmp_path)
    served.start()
    try:
        login = base64.b64encode(f"admin:{report['user']['password']}".encode()).decode()
        trusting = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        authorized = {"Authorization": f"Basic {login}"}
        for target, headers, expected in (
            ("/v2/", authorized, 200),
            ("/v2/", {}, 401),
            ("/v2/_catalog", {}, 401),
            ("/api/upgrades_info/v1/graph?channel=stable-4.16", {}, 200),  # clusters have no login for it
        ):
            connection = http.client.HTTPSConnection("localhost", port, context=trusting, timeout=20)
            connection.request("GET", target, headers=headers)
            assert connection.getresponse().status == expected
            connection.close()
    finally:
        served.stop()


def test_the_rules_that_it_shows_do_what_it_says(begun):
    _, folder = begun
    written = (folder / "mirror.yaml").read_text()

    def pulling(text: str) -> set[str]:
        (folder / "mirror.yaml").write_text(text)
        clients = load(folder / "mirror.yaml").clients
        access = Access(clients.anonymous, clients.rules)
        people = [ANONYMOUS, *(Principal(name, "user") for name in ("admin", "NAME", "other"))]
        assert access.may(people[1], "push", "apps/a")
        assert not any(access.may(one, "push", "apps/a") for one in people if one.name != "admin")
        return {one.name for one in people if access.may(one, "pull", "quay.io/org/app")}

    assert pulling(written) == {"admin"}
    assert pulling(written.replace("# - {who: NAME", "- {who: NAME")) == {"admin", "NAME"}
    everybody = pulling(written.replace("# - {who: anonymous", "- {who: anonymous"))
    assert everybody == {"anonymous", "admin", "NAME", "other"}


@pytest.mark.parametrize(
    ("hosts", "url", "listen"),
    [
        ([], None, ("0.0.0.0:5000",)),
        (["Mirror.Lab", "10.0.0.5"], "https://mirror.lab:5000", ("0.0.0.0:5000",)),
        (["10.0.0.5"], "https://10.0.0.5:5000", ("0.0.0.0:5000",)),
        # it is reached there, too
        (["FD00::1"], "https://[fd00::1]:5000", ("0.0.0.0:5000", "[::]:5000")),
        (["mirror.lab", "fd00::1"], "https://mirror.lab:5000", ("0.0.0.0:5000", "[::]:5000")),
    ],
)
def test_the_first_host_is_how_clients_see_it(tmp_path, hosts, url, listen):
    path = tmp_path / "mirror.yaml"
    init("--config", path, "--store", tmp_path / "s", *(word for host in hosts for word in ("--host", host)))
    config = load(path)
    assert (config.external_url, config.listen) == (url, listen)
    token = ["token", "create", "ci", "--expires", "never", "--repositories", "**", "--config", str(path)]
    made = CliRunner().invoke(main, token)
    if url is None:
        assert made.exit_code == 78  # nothing says under which name it is reached
    else:
        assert f'"{url.removeprefix("https://")}"' in made.output


def test_the_way_to_a_token_leads_to_the_first_host(begun, tmp_path):
    _, folder = begun
    port, metrics = free_port(), free_port()
    text = (folder / "mirror.yaml").read_text().replace("0.0.0.0:5000", f"127.0.0.1:{port}")
    text = text.replace("anonymous: none", "anonymous: pull")  # else there is no token to be had
    (folder / "mirror.yaml").write_text(f"{text}\nmetrics: {{listen: 127.0.0.1:{metrics}}}\nworkers: 1\n")
    served = Mirror(tmp_path / "m", {"tls": {}})
    served.command = [sys.executable, "-m", "mirror", "serve", "--config", str(folder / "mirror.yaml")]
    served.address = f"127.0.0.1:{port}"
    served.start()
    try:
        trusting = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        connection = http.client.HTTPSConnection("localhost", port, context=trusting, timeout=20)
        connection.request("GET", "/v2/")
        answer = connection.getresponse()
        challenge = 'Bearer realm="https://mirror.lab:5000/token",service="mirror.lab:5000"'
        assert (answer.status, answer.getheader("WWW-Authenticate")) == (401, challenge)
        connection.close()
    finally:
        served.stop()


def test_the_password_is_shown_once_and_three_commands_follow(tmp_path):
    path = tmp_path / "mirror.yaml"
    said = init("--config", path)
    assert len(re.findall(r"has the password  \S{20}  which", said)) == 1
    commands = [line.strip() for line in said.splitlines() if line.startswith("  ")]
    assert len(commands) == 3
    assert f"mirror check --online --config {path}" in commands[1]
    assert "has the password" not in init("--config", path)


def test_a_second_run_changes_nothing_and_brings_back_what_was_moved_away(begun):
    _, folder = begun
    before = {path: path.read_bytes() for path in folder.iterdir()}
    report = json.loads(init("--config", folder / "mirror.yaml", "--host", "other", "--json"))
    assert report["made"] == []
    assert report["user"] is None
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    for name in ("tls.crt", "tls.key"):
        (folder / name).unlink()
    report = json.loads(init("--config", folder / "mirror.yaml", "--host", "other", "--json"))
    assert sorted(report["made"]) == [str(folder / "tls.crt"), str(folder / "tls.key")]
    assert names(folder / "tls.crt")[0] == "other"
    issuer = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes()).verify_directly_issued_by(issuer)
    kept = [path for path in before if path.name not in ("tls.crt", "tls.key")]
    assert all(path.read_bytes() == before[path] for path in kept)


def test_a_host_that_a_certificate_that_stays_lacks_is_said(begun):
    _, folder = begun
    said = init("--config", folder / "mirror.yaml", "--host", "10.0.0.5", "--host", "other", "--host", "mirror.lab")
    assert f"{folder / 'tls.crt'} was kept, and does not name other: " in said
    assert "does not name" not in init("--config", folder / "mirror.yaml", "--host", "mirror.lab")
    assert "does not name" not in init("--config", folder / "mirror.yaml")


def test_an_external_url_that_stays_and_is_of_no_stated_host_is_said(begun):
    _, folder = begun
    path = folder / "mirror.yaml"
    written = path.read_text()

    def said(*hosts):
        lines = init("--config", path, *(word for host in hosts for word in ("--host", host))).splitlines()
        return [line for line in lines if "write external_url: " in line]

    assert said() == said("mirror.lab") == said("10.0.0.5", "mirror.lab") == []
    (line,) = said("10.0.0.5")
    assert "its external_url names mirror.lab: " in line
    assert line.endswith("write external_url: https://10.0.0.5:5000")
    for removed, host, right in (
        ("", "fd00::1", "https://[fd00::1]:5000"),
        ("external_url", "other", "https://other:5000"),
        ("external_url|tls", "other", "http://other:5000"),
    ):
        path.write_text(re.sub(rf"^(?:{removed}):.*$", "", written, flags=re.MULTILINE) if removed else written)
        (line,) = said(host)
        assert line.endswith(f"write external_url: {right}")
        # what it says helps
        stated = [one for one in path.read_text().splitlines() if not one.startswith("external_url")]
        path.write_text("\n".join([*stated, line.rpartition(", write ")[2]]))
        assert said(host) == []


def test_hosts_that_no_certificate_is_wanted_for_are_said(begun):
    _, folder = begun
    path = folder / "mirror.yaml"
    path.write_text(re.sub(r"^tls:.*$", "", path.read_text(), flags=re.MULTILINE))
    for name in ("tls.crt", "tls.key"):
        (folder / name).unlink()
    assert "names no certificate" not in init("--config", path)
    said = init("--config", path, "--host", "mirror.lab")
    assert f"{path} was kept, and names no certificate: " in said
    line = re.search(r"add the line (.*), then run this again", said)[1]
    path.write_text(f"{path.read_text()}\n{line}\n")
    assert "names no certificate" not in init("--config", path, "--host", "mirror.lab")
    assert names(folder / "tls.crt")[0] == "mirror.lab"


def test_a_certificate_of_ones_own_needs_no_ca(tmp_path):
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).write_text("mine")
    report = json.loads(init("--config", tmp_path / "mirror.yaml", "--json"))
    assert report["ca"] is None
    assert not (tmp_path / "ca.crt").exists()
    assert (tmp_path / "tls.crt").read_text() == "mine"


def test_a_configuration_of_ones_own_gets_the_files_that_it_names(tmp_path):
    (tmp_path / "mirror.yaml").write_text("clients: {anonymous: pull, htpasswd: users}\n")
    report = json.loads(init("--config", tmp_path / "mirror.yaml", "--json"))
    assert report["made"] == [str(tmp_path / "users")]
    assert report["kept"] == [str(tmp_path / "mirror.yaml")]


@pytest.mark.parametrize("half", ["tls.crt", "tls.key", "ca.crt", "ca.key"])
def test_half_a_pair_is_an_error(tmp_path, half):
    (tmp_path / half).write_text("")
    assert f"{tmp_path / half} exists but" in init("--config", tmp_path / "mirror.yaml", code=78)
    assert not (tmp_path / "htpasswd").exists()


def test_an_authority_that_is_none_is_an_error(tmp_path):
    for name in ("ca.crt", "ca.key"):
        (tmp_path / name).write_text("nothing")
    assert "not a certificate and its key" in init("--config", tmp_path / "mirror.yaml", code=78)
    assert not (tmp_path / "tls.crt").exists()


def test_an_authority_with_another_ones_key_is_an_error(begun, tmp_path):
    _, folder = begun
    init("--config", tmp_path / "other" / "mirror.yaml")
    (tmp_path / "other" / "ca.key").replace(folder / "ca.key")
    for name in ("tls.crt", "tls.key"):
        (folder / name).unlink()
    assert "not the one of its certificate" in init("--config", folder / "mirror.yaml", code=78)


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path):
    assert "not a host name" in init("--config", tmp_path / "a" / "mirror.yaml", "--host", "a:5000", code=2)
    assert "cannot be written" in init("--config", tmp_path / "a" / "b" / "mirror.yaml", code=78)
    (tmp_path / "mirror.yaml").write_text("lissten: x\n")
    assert "lissten" in init("--config", tmp_path / "mirror.yaml", code=78)
    assert [path.name for path in tmp_path.iterdir()] == ["mirror.yaml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_somebody_who_may_not_write_there_is_told_sudo(tmp_path):
    script = (
        "import os, sys; sys.path.insert(0, os.getcwd()); import mirror.cli.init, mirror.cli.beginning;"
        "from mirror.cli.outcome import Outcome; from pathlib import Path; os.setuid(65534)\n"
        "path, outcome = Path('/etc/mirror-of-nobody/mirror.yaml'), Outcome('init', as_json=True)\n"
        "try: mirror.cli.beginning.begin(path, (), None, outcome)\n"
        "except Exception as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "sudo mirror init" in said
