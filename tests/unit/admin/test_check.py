"""What `mirror check` finds in a configuration that loads, and what it never does: connect, or show a secret."""

from __future__ import annotations

import base64
import datetime
import json
import os
import shutil
import socket
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from yarl import URL

from mirror.admin.authority import make_authority, make_server
from mirror.admin.check import Report, Surroundings, User, check, report_invalid
from mirror.admin.check.surroundings import read_mounts, read_sealed
from mirror.config import load
from mirror.errors import ConfigurationError, Problem, StoreUnusable, UpstreamUnavailable
from mirror.upstream.credential import hosts_of
from mirror.upstream.pull_secret import PullSecrets

NOW = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
HASH = "$2b$10$abcdefghijklmnopqrstuuvCkPpGYz1Pq1lIwY3J0mC3y7s7mYx9q"


@dataclass(frozen=True)
class Tried:
    endpoint: str
    credential: str
    ok: bool
    what: str
    remedy: str = ""


@pytest.fixture
def folder():
    """A directory that every user may enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    (path / "store").mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def around():
    me = User(os.geteuid(), frozenset(os.getgroups()) | {os.getegid()})
    return Surroundings({}, me, True, {}, NOW)


@pytest.fixture
def checked(folder, around):
    """Check a file with this text, by default as who runs the test, and return the report."""

    async def run(text, *, surroundings=None, online=False, **more):
        path = folder / "mirror.yaml"
        if "storage:" not in text:
            text += "\nstorage: {path: store}\n"
        path.write_text(text)
        environ = more.pop("environ", {})
        return await check(load(path), online=online, environ=environ, surroundings=surroundings or around, **more)

    return run


def found(report: Report, severity: str) -> list[str]:
    return [finding.code for finding in report.findings if finding.severity == severity]


def one(report: Report, code: str):
    (finding,) = [finding for finding in report.findings if finding.code == code]
    return finding


def write(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def issue(
    folder: Path, *, names=("mirror.lab",), start=NOW - DAY, end=NOW + 365 * DAY, stem="tls", password=None
) -> None:
    """Write <stem>.pem and <stem>.key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mirror.lab")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start, end)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), False)
    write(folder / f"{stem}.pem", builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), 0o644)
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    write(folder / f"{stem}.key", key.private_bytes(*form, encryption), 0o640)


def pull_secret(**hosts: str) -> str:
    auths = {host: {"auth": base64.b64encode(login.encode()).decode()} for host, login in hosts.items()}
    return json.dumps({"auths": auths})


GOOD = "listen: 10.0.0.1:5000\nupstreams: {quay.io: }\ntls: {certificate: tls.pem, key: tls.key}"


async def test_a_sound_configuration_has_no_problem(checked, folder):
    issue(folder)
    report = await checked(GOOD)
    assert [str(finding) for finding in report.findings] == []
    assert report.ok
    assert report.exit_code == 0


async def test_a_report_is_one_object_with_the_resolved_configuration(checked, folder):
    report = await checked("upstreams: {lab: {endpoints: [reg.lab:5000]}}\nca: [nothing.pem]")
    shown = json.loads(json.dumps(report.as_dict()))
    assert (shown["schema"], shown["command"], shown["ok"], shown["exit"]) == (1, "check", False, 78)
    assert set(shown["problems"][0]) == {"severity", "code", "what", "where", "remedy"}
    assert shown["problems"][0]["severity"] == "error"
    assert shown["configuration"]["upstreams"]["lab"]["endpoints"] == ["https://reg.lab:5000"]
    assert shown["configuration"]["limits"]["blob"] == "50GiB"
    assert shown["configuration"]["storage"]["path"] == str(folder / "store")
    assert shown["upstreams"][0]["login"] == ""


async def test_a_report_for_people_has_errors_first_and_says_the_remedy(checked):
    text = (await checked("upstreams: {quay.io: }\nca: [nothing.pem]")).render()
    assert text.index("error: ") < text.index("warning: ")
    assert "create it, or correct the path" in text
    assert "fresh_for: 5m" in text
    assert "null" not in text
    assert text.rstrip().endswith("1 error, 1 warning")
    quiet = (await checked("upstreams: {quay.io: }\noffline: true")).render(quiet=True)
    assert "fresh_for" not in quiet
    assert "information" not in quiet


def test_a_file_that_does_not_load_is_reported_in_the_same_form():
    report = report_invalid(ConfigurationError([Problem("unknown_key", "there is no key `x`", "mirror.yaml:3", "y")]))
    assert report.exit_code == 78
    assert report.as_dict()["problems"][0]["where"] == "mirror.yaml:3"
    assert report.render().startswith("error: mirror.yaml:3: there is no key `x`")


async def test_without_online_nobody_is_asked(checked, folder, monkeypatch):
    issue(folder)
    write(folder / "secret.json", pull_secret(**{"quay.io": "a:b"}))

    def refuse(*_args, **_kwargs):
        raise AssertionError("a check without --online went to the network")

    async def probe(_name):
        raise AssertionError("probed")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    text = GOOD + "\npull_secrets: [secret.json]\nclients: {anonymous: pull}\nproxy: proxy.lab:1"
    assert (await checked(text, probe=probe)).ok


# Files and secrets


@pytest.mark.parametrize("key", ["ca: [x]", "pull_secrets: [x]", "upstreams: {lab: {ca: x}}"])
async def test_a_file_that_is_missing_empty_or_none_is_an_error(checked, folder, key):
    assert one(await checked(f"\n{key}"), "file_missing").where == f"{folder}/mirror.yaml:2"
    (folder / "x").mkdir()
    assert "file_unreadable" in found(await checked(key), "error")
    (folder / "x").rmdir()
    write(folder / "x", "")
    assert "file_empty" in found(await checked(key), "error")
    write(folder / "x", b"#" * (2**20 + 1))
    assert "file_too_large" in found(await checked(key), "error")


def stranger(folder: Path, gids=frozenset({99_998})) -> Surroundings:
    return Surroundings({}, User(99_999, frozenset(gids)), False, {}, NOW)


LOGIN = "upstreams: {lab: {credentials: {username: ann, password_file: password}}}"


@pytest.mark.parametrize(
    ("mode", "secret_codes", "public_codes"),
    [
        (0o640, [], []),
        (0o660, [], []),
        (0o600, ["file_unreadable"], ["file_unreadable"]),
        (0o644, ["secret_too_open"], []),
        (0o642, ["file_too_open"], ["file_too_open"]),
        (0o666, ["file_too_open"], ["file_too_open"]),
    ],
)
async def test_a_secret_is_readable_for_the_service_and_for_nobody_else(
    checked, folder, mode, secret_codes, public_codes
):
    group = os.getegid()
    around = Surroundings({}, User(99_999, frozenset({group})), False, {}, NOW)
    write(folder / "password", "hunter2\n", mode)
    shutil.copy(folder / "password", folder / "ca.pem")
    (folder / "ca.pem").chmod(mode)
    files = {"file_unreadable", "secret_too_open", "file_too_open"}
    assert [code for code in found(await checked(LOGIN, surroundings=around), "error") if code in files] == secret_codes
    report = await checked("ca: [ca.pem]", surroundings=around)
    assert [code for code in found(report, "error") if code in files] == public_codes


async def test_a_closed_directory_above_a_secret_is_found(checked, folder):
    (folder / "closed").mkdir(mode=0o700)
    write(folder / "closed" / "password", "x", 0o644)
    text = LOGIN.replace("password}", "closed/password}")
    around = stranger(folder)
    assert "file_unreadable" in found(await checked(text, surroundings=around), "error")
    (folder / "closed").chmod(0o711)
    assert "file_unreadable" not in found(await checked(text, surroundings=around), "error")


async def test_the_remedy_for_an_open_secret_is_the_lines_to_run(checked, folder, around):
    write(folder / "password", "hunter2\n", 0o644)
    finding = one(await checked(LOGIN), "secret_too_open")
    assert f"sudo chmod 0640 {folder}/password" in finding.remedy
    assert finding.where == f"{folder}/mirror.yaml:1"


@pytest.mark.parametrize(
    ("mounts", "environ", "accepted"),
    [
        ({".": "tmpfs"}, {}, True),
        ({"password": "ext4"}, {}, True),
        ({}, {"CREDENTIALS_DIRECTORY": "."}, True),
        ({}, {}, False),
        ({".": "ext4"}, {}, False),
        ({"/tmp": "tmpfs"}, {}, False),
        ({"/": "tmpfs"}, {}, False),
    ],
)
async def test_what_a_secret_is_mounted_as_may_be_readable(checked, folder, around, mounts, environ, accepted):
    write(folder / "password", "x", 0o644)
    points = {Path(os.path.realpath(folder / name)): kind for name, kind in mounts.items()}
    environ = {name: str(folder / value) for name, value in environ.items()}
    surroundings = Surroundings(environ, around.user, True, points, NOW)
    report = await checked(LOGIN, surroundings=surroundings)
    assert ("secret_too_open" not in found(report, "error")) is accepted


async def test_a_volume_of_kubernetes_is_recognised_behind_its_links(checked, folder, around):
    volume = folder / "volume"
    (volume / "..2026").mkdir(parents=True)
    write(volume / "..2026" / "password", "x", 0o644)
    (volume / "..data").symlink_to("..2026")
    (volume / "password").symlink_to("..data/password")
    surroundings = Surroundings({}, around.user, True, {Path(os.path.realpath(volume)): "tmpfs"}, NOW)
    report = await checked(LOGIN.replace("password}", "volume/password}"), surroundings=surroundings)
    assert found(report, "error") == []


def test_mounts_are_read_with_their_escapes(tmp_path):
    info = tmp_path / "mountinfo"
    info.write_text(
        "22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
        "36 22 0:31 / /etc/my\\040secret ro,nosuid shared:2 master:1 - tmpfs tmpfs rw\n"
        "broken\n"
    )
    assert read_mounts(info) == {Path("/"): "ext4", Path("/etc/my secret"): "tmpfs"}
    assert read_mounts(tmp_path / "none") == {}


def test_what_a_sandbox_made_read_only_is_told_from_what_is(tmp_path):
    info = tmp_path / "mountinfo"
    info.write_text(
        "22 1 8:1 / / ro,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "36 22 8:2 / /media ro,relatime - ext4 /dev/sdb1 ro\n"
        "37 22 8:3 / /data ro,relatime - xfs /dev/sdc1 rw\n"
        "38 37 8:3 /m /data/mirror rw,relatime - xfs /dev/sdc1 rw\n"
    )
    assert read_sealed(info) == {Path("/"), Path("/data")}
    mounts = read_mounts(info)
    me = User(1000, frozenset())
    unit = Surroundings({"INVOCATION_ID": "1"}, me, True, mounts, NOW, read_sealed(info))
    assert unit.is_confined(Path("/srv/mirror"))
    assert unit.is_confined(Path("/data/other"))
    assert not unit.is_confined(Path("/data/mirror/store"))
    assert not unit.is_confined(Path("/media/mirror"))
    assert not replace(unit, environ={}).is_confined(Path("/srv/mirror"))


async def test_a_store_that_the_unit_may_not_write_to_names_the_way_out(checked, folder, around):
    unit = replace(
        around,
        environ={"INVOCATION_ID": "1"},
        mounts={Path("/"): "ext4"},
        sealed=frozenset({Path("/")}),
    )
    report = await checked("", surroundings=unit)
    assert report.exit_code == 78
    assert f"STORE={folder}/store" in one(report, "store_confined").remedy


async def test_the_units_own_store_made_read_only_says_so(checked, around):
    sealed = Path("/var/lib/mirror")
    unit = replace(around, environ={"INVOCATION_ID": "1"}, mounts={sealed: "ext4"}, sealed=frozenset({sealed}))
    found = one(await checked("storage: {path: /var/lib/mirror}", surroundings=unit), "store_confined")
    assert "ReadWritePaths" not in found.what
    assert "ReadOnlyPaths=" in found.remedy


def test_the_first_class_of_a_mode_that_fits_decides():
    def status(mode, uid, gid):
        return os.stat_result((0o100000 | mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))

    ann = User(1000, frozenset({1000, 50}))
    assert ann.may(status(0o400, 1000, 1), 4)
    assert not ann.may(status(0o044, 1000, 50), 4)
    assert ann.may(status(0o040, 1, 50), 4)
    assert not ann.may(status(0o004, 1, 50), 4)
    assert ann.may(status(0o004, 1, 1), 4)
    assert User(0, frozenset()).may(status(0, 1, 1), 4)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_root_judges_for_the_owner_of_the_store(folder):
    os.chown(folder / "store", 99_999, 99_999)
    around = Surroundings.look({}, folder / "store")
    assert around.user.uid == 99_999
    assert not around.is_self
    assert Surroundings.look({}, folder / "none").is_self


# Certificates


async def test_a_certificate_without_names_is_an_error(checked, folder):
    issue(folder, names=())
    assert found(await checked(GOOD), "error") == ["certificate_without_names"]


@pytest.mark.parametrize(
    ("start", "end", "severity", "code"),
    [
        (NOW - 9 * DAY, NOW - DAY, "error", "certificate_expired"),
        (NOW - 9 * DAY, NOW + 29 * DAY, "warning", "certificate_expires"),
        (NOW + DAY, NOW + 99 * DAY, "error", "certificate_not_yet"),
    ],
)
async def test_a_certificate_has_its_days(checked, folder, start, end, severity, code):
    issue(folder, start=start, end=end)
    report = await checked(GOOD)
    assert found(report, severity) == [code]
    assert len(report.findings) == 1


async def test_a_certificate_that_has_expired_leads_to_whoever_made_it(checked, folder):
    issue(folder, end=NOW - DAY)
    finding = one(await checked(GOOD), "certificate_expired")
    assert finding.what.endswith(f"has expired, on {NOW - DAY:%Y-%m-%d %H:%M} UTC")
    remedy = f"put a new pair in place of {folder}/tls.pem and {folder}/tls.key: it is taken up by itself"
    assert finding.remedy == remedy
    # What `mirror init` has made, with an authority that has expired, too.
    authority = make_authority("mirror.lab", NOW - 5000 * DAY)
    server = make_server(authority, ["mirror.lab", "10.0.0.5", "localhost"], NOW - 1000 * DAY)
    for name, pair in (("ca.crt", authority.certificate), ("tls.pem", server.certificate), ("tls.key", server.key)):
        write(folder / name, pair, 0o640)
    finding = one(await checked(GOOD), "certificate_expired")
    assert finding.remedy == (
        f"move {folder}/tls.pem, {folder}/tls.key, {folder}/ca.crt and {folder}/ca.key away, then run: mirror init"
        f" --config {folder}/mirror.yaml --host mirror.lab --host 10.0.0.5; the authority has expired, too, so clients"
        " must then trust the new one"
    )
    # An authority of that name that has not signed it.
    write(folder / "ca.crt", make_authority("mirror.lab", NOW).certificate, 0o644)
    assert one(await checked(GOOD), "certificate_expired").remedy == remedy


async def test_a_certificate_that_is_not_valid_yet_leads_to_the_clock(checked, folder):
    issue(folder, start=NOW + DAY)
    finding = one(await checked(GOOD), "certificate_not_yet")
    assert finding.remedy.startswith(f"set this host's clock, which says {NOW:%Y-%m-%d %H:%M} UTC, or ")


async def test_a_key_of_another_certificate_is_an_error(checked, folder):
    issue(folder)
    issue(folder, stem="other")
    finding = one(await checked(GOOD.replace("tls.key", "other.key")), "key_mismatch")
    assert finding.severity == "error"
    assert finding.where == f"{folder}/mirror.yaml:3"


async def test_a_key_must_be_plain_pem(checked, folder):
    issue(folder, password=b"hunter2")
    assert found(await checked(GOOD), "error") == ["key_encrypted"]
    write(folder / "tls.key", "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n")
    report = await checked(GOOD)
    assert found(report, "error") == ["key_invalid"]
    assert "hunter2" not in report.render()


async def test_what_is_no_certificate_is_told_once(checked, folder):
    issue(folder)
    write(folder / "tls.pem", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", 0o644)
    assert found(await checked(GOOD), "error") == ["certificate_invalid"]
    (folder / "tls.pem").unlink()
    assert found(await checked(GOOD), "error") == ["file_missing"]


@pytest.mark.parametrize(
    ("names", "url", "fits"),
    [
        (("mirror.lab",), "https://mirror.lab:5000", True),
        (("*.lab",), "https://mirror.lab", True),
        (("*.lab",), "https://a.mirror.lab", False),
        (("other.lab",), "https://mirror.lab", False),
        (("mirror.lab",), "https://10.0.0.1:5000", False),
    ],
)
async def test_a_certificate_is_for_the_public_address(checked, folder, names, url, fits):
    issue(folder, names=names)
    report = await checked(f"{GOOD}\nexternal_url: {url}")
    assert found(report, "warning") == ([] if fits else ["certificate_for_another"])


async def test_a_client_certificate_is_checked_like_the_servers(checked, folder):
    issue(folder, names=(), end=NOW - DAY / 2)
    text = "upstreams: {lab: {client_certificate: tls.pem, client_key: tls.key}}"
    assert found(await checked(text), "error") == ["certificate_expired"]


async def test_a_bundle_of_authorities_is_read_whole(checked, folder):
    authority = trustme.CA()
    good = authority.cert_pem.bytes()
    issue(folder, stem="old", end=NOW - DAY / 2)
    old = (folder / "old.pem").read_bytes()
    write(folder / "ca.pem", good, 0o644)
    assert found(await checked("ca: [ca.pem]"), "error") == []
    write(folder / "ca.pem", good + old, 0o644)
    report = await checked("upstreams: {lab: {ca: ca.pem}}")
    assert found(report, "error") == []
    assert "certificate_expired" in found(report, "warning")
    write(folder / "ca.pem", old, 0o644)
    assert found(await checked("ca: [ca.pem]"), "error") == ["certificate_expired"]
    write(folder / "ca.pem", "no PEM", 0o644)
    assert found(await checked("ca: [ca.pem]"), "error") == ["certificate_invalid"]


# Logins


@pytest.mark.parametrize(
    "content",
    [
        "not json, hunter2",
        '["hunter2"]',
        '{"auths": "hunter2"}',
        '{"auths": ["hunter2"]}',
        '{"quay.io": "hunter2"}',
        b'{"auths": "\xff hunter2"}',
        "[" * 5000,
    ],
)
async def test_a_pull_secret_that_is_none_is_an_error_without_its_text(checked, folder, content):
    write(folder / "secret.json", content)
    report = await checked("pull_secrets: [secret.json]")
    assert found(report, "error") == ["pull_secret_invalid"]
    assert "hunter2" not in report.render() + json.dumps(report.as_dict())


@pytest.mark.parametrize(
    "entry",
    [{"auth": "hunter2!"}, {"auth": 5}, {"auth": "aHVudGVyMg=="}, {"username": "hunter2"}, {"email": "hunter2"}],
)
@pytest.mark.parametrize("key", ["quay.io", "https://quay.io/v1/"])
async def test_an_entry_that_is_no_login_is_an_error_where_it_would_be_used(checked, folder, key, entry):
    write(folder / "secret.json", json.dumps({"auths": {key: entry, "gcr.io": {"auth": "YTpi"}}}))
    used = await checked("pull_secrets: [secret.json]\nupstreams: {quay.io: }")
    assert found(used, "error") == ["pull_secret_entry"]
    assert used.upstreams[0].login == ""
    assert "hunter2" not in used.render()
    other = await checked("pull_secrets: [secret.json]\nupstreams: {gcr.io: }")
    assert found(other, "error") == []
    assert "pull_secret_entry" in found(other, "warning")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("hunter2", "cannot be read: it is not an object"),
        ({"auth": 5}, "cannot be read: its auth is not a text"),
        # The two of base64 were told before.
        ({"auth": "hunter2!"}, "cannot be read: its auth is not the base64 of a text"),
        ({"auth": "YTpi", "identitytoken": 5}, "cannot be read: its identitytoken is not a text"),
        ({"username": 5, "password": "hunter2"}, "cannot be read: its username is not a text"),
        ({"auth": "aHVudGVyMg=="}, "holds no login: its auth is not the base64 of USER:PASSWORD"),
        ({"username": "hunter2"}, "holds no login: it has a user name and no password"),
        ({"username": "hunter2", "password": None}, "holds no login: it has a user name and no password"),
        ({"password": "hunter2", "auth": None}, "holds no login: it has a password and no user name"),
        ({"email": "hunter2", "auth": None}, "holds no login: it has neither auth nor a user name and password"),
    ],
)
async def test_what_is_wrong_with_an_entry_is_said_of_that_one(checked, folder, entry, said):
    write(folder / "secret.json", json.dumps({"auths": {"quay.io": entry, "gcr.io": {"auth": "YTpi"}}}))
    report = await checked("pull_secrets: [secret.json]\nupstreams: {quay.io: , gcr.io: }")
    assert one(report, "pull_secret_entry").what == f"the entry quay.io of {folder}/secret.json {said}"
    assert {upstream.name: bool(upstream.login) for upstream in report.upstreams} == {"quay.io": False, "gcr.io": True}
    assert "hunter2" not in report.render() + json.dumps(report.as_dict())


@pytest.mark.parametrize(
    "entry", [None, {}, {"auth": None}, {"auth": None, "email": None, "username": None, "password": None}]
)
async def test_an_entry_that_is_null_is_none(checked, folder, entry):
    auths = {"quay.io": entry, "gcr.io": {"auth": "YTpi", "email": None}}
    write(folder / "secret.json", json.dumps({"auths": auths, "credHelpers": None}))
    report = await checked("pull_secrets: [secret.json]\nupstreams: {quay.io: , gcr.io: }")
    assert found(report, "error") == []
    assert not {"pull_secret_entry", "pull_secret_helpers"} & set(found(report, "warning"))
    assert [upstream.login for upstream in report.upstreams] == ["", f"gcr.io of {folder}/secret.json"]


@pytest.mark.parametrize(
    ("endpoint", "files"),
    [
        # Those with plain keys, and with keys that nothing uses, hold both readings to what they were.
        ("https://quay.io", [["quay.io"]]),
        ("https://quay.io", [["https://quay.io/v1/", "quay.io"]]),
        ("https://quay.io", [["quay.io/"]]),
        ("https://quay.io", [["quay.io/v2/"]]),
        ("https://quay.io", [["Quay.IO"]]),
        ("https://quay.io", [["quay.io/team/"]]),
        ("https://quay.io", [["QUAY.io/team/app", "quay.io/team", "https://QUAY.io"]]),
        ("https://quay.io", [["quay.io:443"]]),
        ("https://quay.io", [["quay.io:8443", "quay.com"]]),
        ("https://quay.io", [["quay.io/other"], ["quay.io/team", "quay.io/other"]]),
        ("https://quay.io", [["quay.io"], ["quay.io", "quay.io/team"]]),
        ("http://reg.lab:80", [["reg.lab"]]),
        ("http://reg.lab:5000", [["reg.lab:5000/team", "reg.lab"]]),
        ("https://registry-1.docker.io", [["https://index.docker.io/v1/", "docker.io/team"]]),
        ("https://registry-1.docker.io", [["registry-1.docker.io/v2/", "index.docker.io"]]),
        ("https://registry-1.docker.io", [["registry.hub.docker.com"]]),
    ],
)
async def test_check_finds_the_entries_that_pulls_find(checked, folder, endpoint, files):
    for number, keys in enumerate(files):
        write(folder / f"{number}.json", pull_secret(**{key: f"user{place}:p" for place, key in enumerate(keys)}))
    paths = [folder / f"{number}.json" for number in range(len(files))]
    config = f"pull_secrets: [{', '.join(path.name for path in paths)}]\nupstreams: {{up: {{endpoints: [{endpoint}]}}}}"
    said = (await checked(config)).upstreams[0].login
    secrets = PullSecrets(paths)
    pulled = [
        await secrets.find(hosts_of(URL(endpoint)), name)
        for name in ("team/app", "team/app/x", "team/x", "other/x", "x")
    ]
    used = {one.source for one in pulled if one is not None}
    for path, keys in zip(paths, files, strict=True):
        here = [key for key in keys if f"{path}, entry {key}" in used]
        assert (f"{', '.join(here)} of {path}" in said.split(" and ")) is bool(here)
    assert bool(said) is bool(used)


async def test_each_upstream_says_as_whom_it_is_asked(checked, folder):
    entries = {"quay.io/org": "a:hunter2", "https://index.docker.io/v1/": "b:hunter2", "gcr.io": "c:hunter2"}
    write(folder / "secret.json", pull_secret(**entries, **{"cloud.openshift.com": "d:hunter2"}))
    write(folder / "password", "hunter2\n")
    text = """pull_secrets: [secret.json]
upstreams:
  quay.io: {}
  docker.io: {}
  reg.lab: {}
  lab: {endpoints: [gcr.lab], credentials: {username: ann, password_file: password}}
"""
    report = await checked(text)
    logins = {upstream.name: upstream.login for upstream in report.upstreams}
    assert logins == {
        "quay.io": f"quay.io/org of {folder}/secret.json",
        "docker.io": f"https://index.docker.io/v1/ of {folder}/secret.json",
        "reg.lab": "",
        "lab": f"ann with {folder}/password",
    }
    unused = one(report, "pull_secret_unused")
    assert unused.severity == "information"
    assert "gcr.io" in unused.what
    assert "cloud.openshift.com" not in unused.what
    assert "hunter2" not in report.render() + json.dumps(report.as_dict())


async def test_a_registry_that_needs_a_login_and_has_none_is_a_warning(checked, folder):
    text = "upstreams: {registry.redhat.io: }"
    assert "login_missing" in found(await checked(text), "warning")
    assert "login_missing" not in found(await checked(f"offline: true\n{text}"), "warning")
    write(folder / "secret.json", pull_secret(**{"registry.redhat.io": "1|a:b"}))
    assert "login_missing" not in found(await checked(f"{text}\npull_secrets: [secret.json]"), "warning")


@pytest.mark.parametrize(
    ("entry", "upstream", "named"),
    [
        ("lab", "lab: {endpoints: [https://reg.lab:5000]}", "reg.lab:5000"),
        ("lab/team", "lab: {endpoints: [https://reg.lab:5000]}", "reg.lab:5000/team"),
        ("reg.lab", "lab: {endpoints: [https://reg.lab:5000]}", "reg.lab:5000"),
        ("reg.lab:444", "lab: {endpoints: [https://reg.lab:5000]}", "reg.lab:5000"),
        ("reg.lab:5000", "lab: {endpoints: [https://reg.lab]}", "reg.lab"),
        ("quay.io", "quay.io: {endpoints: [https://a.lab, https://b.lab]}", "a.lab or b.lab"),
    ],
)
async def test_an_entry_under_another_name_than_the_endpoints_is_said_with_the_name_that_it_needs(
    checked, folder, entry, upstream, named
):
    write(folder / "secret.json", pull_secret(**{entry: "ann:hunter2"}))
    text = f"upstreams: {{{upstream}}}\npull_secrets: [secret.json]"
    report = await checked(text)
    finding = one(report, "pull_secret_misnamed")
    assert finding.remedy == f"if it is for that, name it {named}"
    assert f"has an entry for {entry}, but" in finding.what
    assert "pull_secret_unused" not in found(report, "information")
    assert report.upstreams[0].login == ""
    write(folder / "secret.json", pull_secret(**{named.partition(" ")[0]: "ann:hunter2"}))
    report = await checked(text)
    assert "pull_secret_misnamed" not in found(report, "information")
    assert report.upstreams[0].login


async def test_an_entry_that_an_upstream_uses_is_no_misnamed_one(checked, folder):
    write(folder / "secret.json", pull_secret(**{"quay.io": "ann:hunter2", "reg.lab": "ann:hunter2"}))
    text = """pull_secrets: [secret.json]
upstreams:
  quay.io: {endpoints: [https://reg.lab:5000, https://quay.io]}
  reg.lab: {}
"""
    assert "pull_secret_misnamed" not in found(await checked(text), "information")


async def test_credential_helpers_are_not_run_and_said_so(checked, folder):
    write(folder / "secret.json", json.dumps({"auths": {"quay.io": {}}, "credsStore": "desktop"}))
    report = await checked("upstreams: {quay.io: }\npull_secrets: [secret.json]")
    assert "pull_secret_helpers" in found(report, "warning")
    assert report.upstreams[0].login == ""


# Storage


async def test_a_store_that_does_not_exist_is_made_later_or_named(checked, folder):
    report = await checked("storage: {path: new/store}")
    assert one(report, "store_new").severity == "information"
    report = await checked("storage: {path: new/store}", surroundings=stranger(folder))
    finding = one(report, "store_unusable")
    assert finding.severity == "error"
    assert finding.remedy.startswith("sudo install -d -o 99999 -m 0700")


async def test_a_store_below_a_closed_directory_is_an_error(checked, folder):
    (folder / "closed").mkdir(mode=0o000)
    try:
        # As another user than the tests': nothing is closed to root.
        report = await checked("storage: {path: closed/a/b}", surroundings=stranger(folder))
        assert found(report, "error") == ["store_unusable"]
    finally:
        (folder / "closed").chmod(0o700)


async def test_a_store_of_another_user_names_the_right_sudo_line(checked, folder):
    report = await checked("", surroundings=stranger(folder))
    assert f" mirror check --config {folder}/mirror.yaml" in one(report, "store_owner").remedy
    assert one(report, "store_owner").remedy.startswith("sudo -u ")
    assert report.exit_code == 78


async def test_a_store_is_a_directory_that_its_owner_writes_and_nobody_else_reads(checked, folder, around):
    write(folder / "file", "x")
    assert found(await checked("storage: {path: file}"), "error") == ["store_unusable"]
    assert found(await checked("storage: {path: file/below}"), "error") == ["store_unusable"]
    (folder / "store").chmod(0o755)
    assert "store_too_open" in found(await checked(""), "warning")
    if os.geteuid():
        (folder / "store").chmod(0o500)
        assert found(await checked(""), "error") == ["store_unusable"]


async def test_less_room_than_is_kept_free_is_a_warning(checked, folder, monkeypatch):
    figures = os.statvfs(folder)

    def little(path):
        fields = list(figures)
        fields[os.statvfs_result.n_fields - 11 + 4] = 1  # f_bavail
        return os.statvfs_result(fields)

    assert little(folder).f_bavail == 1
    monkeypatch.setattr(os, "statvfs", little)
    report = await checked("storage: {path: store, keep_free: 1GiB}")
    assert "store_full" in found(report, "warning")
    assert "0.0 GiB" not in one(report, "store_full").what
    assert report.ok


async def test_amounts_that_were_hardly_meant_are_told(checked):
    report = await checked("storage: {path: store, keep_free: 5, cache_size: 900TiB}")
    assert "keep_free_small" in found(report, "warning")
    assert "cache_size_large" in found(report, "information")


async def test_the_stores_own_probe_is_asked_only_of_a_store_that_is_ours(checked, folder):
    asked = []

    def probe(path):
        asked.append(path)
        return [Problem("store_limited", "it is on nfs")]

    report = await checked("", probe_store=probe)
    assert asked == [folder / "store"]
    assert found(report, "warning")[0] == "store_limited"
    assert report.ok
    await checked("", probe_store=probe, surroundings=stranger(folder))
    await checked("storage: {path: new}", probe_store=probe)
    assert len(asked) == 1


async def test_root_is_told_of_folders_that_are_not_the_services(checked, folder):
    (folder / "store" / "blobs").mkdir()
    report = await checked("", surroundings=stranger(folder))
    assert f"{folder}/store/blobs in the store belongs to " in one(report, "store_unusable").what


async def test_a_file_system_that_does_not_keep_locks_is_an_error(checked):
    def probe(path):
        raise StoreUnusable("the file system keeps no locks", "use a local disk")

    report = await checked("", probe_store=probe)
    assert one(report, "store_unusable").remedy == "use a local disk"
    assert report.exit_code == 78


# Who reaches what


@pytest.mark.parametrize(
    ("text", "severity", "codes"),
    [
        ("", "warning", ["loopback_only"]),
        ("", "information", ["no_upstreams"]),
        ("listen: unix:/run/x", "warning", ["loopback_only"]),
        ("listen: 0.0.0.0:5000", "warning", ["no_tls"]),
        ("listen: '[::]:5000'\nexternal_url: https://mirror.lab", "warning", ["no_tls"]),
        ("listen: 10.0.0.1:5000", "warning", ["no_tls"]),
        ("listen: 10.0.0.1:5000\nexternal_url: https://mirror.lab", "warning", []),
        ("listen: [127.0.0.1:5000, 10.0.0.1:5000]\nexternal_url: https://mirror.lab", "warning", []),
        ("clients: {anonymous: none}", "warning", ["loopback_only", "nobody_can_pull"]),
        ("offline: true", "information", ["offline", "no_upstreams"]),
        ("upstreams: {lab: {endpoints: ['http://reg.lab']}}", "warning", ["loopback_only", "plain_http"]),
        ("upstreams: {lab: {endpoints: ['http://127.0.0.1:5001']}}", "warning", ["loopback_only"]),
        ("upstreams: {lab: {endpoints: ['http://[::1]']}}", "warning", ["loopback_only"]),
        ("upstreams: {lab: }", "information", ["short_host"]),
        ("upstreams: {quay.io: {repositories: {allow: []}}}", "warning", ["loopback_only", "nothing_allowed"]),
        ("upstreams: {quay.io: {repositories: {deny: [quay.io/x]}}}", "warning", ["loopback_only", "pattern_with_key"]),
    ],
)
async def test_what_is_valid_and_perhaps_not_meant_does_not_fail_the_check(checked, text, severity, codes):
    report = await checked(text)
    assert found(report, severity) == codes
    assert report.exit_code == 0


@pytest.mark.parametrize(
    ("clients", "codes"),
    [
        ("{htpasswd: users}", []),
        ("{anonymous: none, htpasswd: users}", []),
        ("{anonymous: none, htpasswd: nobody}", ["nobody_can_pull"]),
        ("{anonymous: none, rules: [{who: '*', repositories: '**', may: pull}]}", []),
        ("{anonymous: push}", []),
        ("{htpasswd: users, rules: [{who: alice, repositories: 'apps/**', may: push}]}", []),
        ("{htpasswd: users, rules: [{who: bob, repositories: 'apps/**', may: push}]}", ["nobody_is_called_so"]),
        ("{rules: [{who: alice, repositories: 'apps/**', may: pull}]}", ["nobody_is_called_so"]),
        ("{rules: [{who: robot+ci, repositories: 'apps/**', may: pull}]}", ["nobody_is_called_so"]),
        ("{rules: [{who: 'cert:node', repositories: 'apps/**', may: pull}]}", ["nobody_is_called_so"]),
        ("{htpasswd: users, rules: [{who: alice, repositories: 'lab/**', may: [pull, push]}]}", ["push_to_proxied"]),
        ("{htpasswd: users, rules: [{who: alice, repositories: 'lab/**', may: pull}]}", []),
    ],
)
async def test_who_may_do_what_is_possible(checked, folder, clients, codes):
    write(folder / "users", f"alice:{HASH}\n")
    write(folder / "nobody", "")
    upstream = "upstreams: {lab: {endpoints: ['https://lab.example']}}"
    report = await checked(f"clients: {clients}\n{upstream}")
    assert found(report, "warning") == ["loopback_only", *codes]
    assert found(report, "error") == []


async def test_doors_that_stand_open_are_said(checked, folder):
    write(folder / "users", f"alice:{HASH}\n")
    listen = "listen: 10.0.0.1:5000"
    assert found(await checked(f"{listen}\nclients: {{anonymous: push}}"), "warning") == ["no_tls", "anybody_can_push"]
    report = await checked(f"{listen}\nclients: {{htpasswd: users}}")
    assert found(report, "warning") == ["no_tls", "logins_in_the_clear"]


async def test_each_line_of_a_file_of_users_that_is_wrong_is_an_error_and_no_hash_is_shown(checked, folder):
    write(folder / "users", "alice:$apr1$x$hunter2hunter2\nbob\n")
    report = await checked("clients: {htpasswd: users}")
    assert found(report, "error") == ["htpasswd", "htpasswd"]
    assert "hunter2" not in report.render()


@pytest.mark.parametrize(
    "text", ["clients: {htpasswd: users}", "notifications: [{url: 'https://ci.lab', header_file: users}]"]
)
async def test_files_of_logins_are_closed_to_others(checked, folder, text):
    write(folder / "users", f"alice:{HASH}\n", 0o644)
    assert found(await checked(text), "error") == ["secret_too_open"]


async def test_a_password_over_plain_http_is_said(checked, folder):
    write(folder / "password", "x\n")
    text = "upstreams: {lab: {plain_http: true, credentials: {username: a, password_file: password}}}"
    assert "passwords" in one(await checked(text), "plain_http").what


async def test_a_proxy_is_shown_with_its_source_and_without_its_password(checked):
    environ = {"HTTPS_PROXY": "http://ann:hunter2@proxy.lab:3128"}
    report = await checked("upstreams: {quay.io: , lab: {proxy: own.lab:1}}", environ=environ)
    text = report.render() + json.dumps(report.as_dict())
    assert "HTTPS_PROXY of the environment" in text
    assert "upstreams.lab.proxy" in text
    assert "hunter2" not in text


async def test_an_environment_with_a_broken_proxy_is_an_error(checked):
    report = await checked("upstreams: {quay.io: }", environ={"https_proxy": "socks5://ann:hunter2@x"})
    assert found(report, "error") == ["proxy"]
    assert "hunter2" not in report.render()


# Online


async def test_online_tries_each_upstream_and_fails_with_what_failed(checked):
    async def probe(name):
        if name == "quay.io":
            return [Tried("https://quay.io", "", True, "answers")]
        return [Tried("https://lab", "ann", False, "the login is refused", "renew the password")]

    report = await checked("upstreams: {quay.io: , lab: }", online=True, probe=probe)
    finding = one(report, "upstream_failed")
    assert (finding.severity, finding.remedy) == ("error", "renew the password")
    assert finding.what == "https://lab: the login is refused"
    assert report.exit_code == 1, "the file is valid; a script can tell an outage from a bad file"
    assert [[probe.ok for probe in upstream.probes] for upstream in report.upstreams] == [[True], [False]]
    assert report.as_dict()["upstreams"][0]["probes"][0]["what"] == "answers"
    assert "https://quay.io: ok, answers" in report.render()


async def test_a_probe_that_cannot_even_ask_is_an_error(checked):
    async def probe(name):
        raise UpstreamUnavailable("quay.io does not answer", "look at the network")

    report = await checked("upstreams: {quay.io: }", online=True, probe=probe)
    assert one(report, "upstream_failed").remedy == "look at the network"


async def test_offline_wins_over_online(checked):
    async def probe(name):
        raise AssertionError("asked although offline")

    report = await checked("upstreams: {quay.io: }\noffline: true", online=True, probe=probe)
    assert report.ok
