"""The bundle on a fresh Debian without a network, under systemd itself: what an administrator does, in that order."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.install.machine import Machine, MachineError
from tests.tools import images, registries
from tests.tools.images import Manifest
from tests.tools.processes import Daemon, running, wait_until
from tests.tools.programs import Programs
from tests.tools.push import push

HOST = "mirror.lab"
ADMIN = "admin"
PORT = 5000

# The first of them makes a Debian.
pytestmark = pytest.mark.timeout(300)

# `make machines` runs these too, and so does CI.
in_full = pytest.mark.skipif(not os.environ.get("MACHINES"), reason="takes minutes: make machines")


class Upstream(Daemon):
    """docker-registry in the machine's network, which asks for a login."""

    def __init__(self, programs: Programs, machine: Machine, folder: Path) -> None:
        storage = folder / "storage"
        self.images = [images.image([images.layer(images.tree({"a": secrets.token_bytes(300_000)}))]) for _ in range(6)]
        with running(registries.docker_registry(programs, folder / "open", storage)) as filling:
            for number, image in enumerate(self.images):
                push(filling.address, "team/app", image, str(number))
        asking = registries.docker_registry(programs, folder / "asking", storage, basic=True)
        self.address = asking.address
        port = int(asking.address.rpartition(":")[2])
        command = machine.beside(*asking.command)
        super().__init__(command, folder / "asking.log", ready=lambda: machine.listens(port))


@dataclass
class Site:
    """The machine with the service on it, as `init` left it, and a client."""

    machine: Machine
    upstream: Upstream
    skopeo: str
    folder: Path
    password: str

    def pull(self, number: int, user: str = "", port: int = PORT) -> None:
        """Pull image `number` of the upstream with a real client, which trusts init's CA; compare every byte."""
        folder = self.folder / f"pull-{secrets.token_hex(4)}"
        certificates = folder / "certs"
        certificates.mkdir(parents=True)
        (certificates / "ca.crt").write_text(self.machine.read("/etc/mirror/ca.crt"))
        (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        source = f"docker://localhost:{port}/lab/team/app:{number}"
        options = ["--src-cert-dir", str(certificates), "--src-creds", user or f"{ADMIN}:{self.password}"]
        command = [self.skopeo, "--policy", str(folder / "policy.json"), "copy", "-q", "--retry-times", "0", *options]
        self.machine.here(*command, source, f"dir:{folder}/image")
        expected: Manifest = self.upstream.images[number]
        assert (folder / "image" / "manifest.json").read_bytes() == expected.body
        for digest, blob in expected.all_blobs().items():
            assert (folder / "image" / digest.partition(":")[2]).read_bytes() == blob.body

    def status(self, path: str = "/readyz", port: int = PORT) -> str:
        """Return the HTTP status that the service answers, 000 where it does not."""
        command = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-m", "10"]
        done = subprocess.run(
            self.machine.beside(*command, f"https://127.0.0.1:{port}{path}"), capture_output=True, text=True
        )
        return done.stdout

    def configure(self, old: str, new: str) -> None:
        """Replace a piece of mirror.yaml."""
        text = self.machine.read("/etc/mirror/mirror.yaml")
        assert old in text
        self.machine.write("/etc/mirror/mirror.yaml", text.replace(old, new))


@pytest.fixture(scope="module")
def machine(machines: Callable[[], Machine]) -> Machine:
    return machines()


@pytest.fixture(scope="module")
def site(programs: Programs, machine: Machine, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    skopeo = programs.find("skopeo")
    programs.find("curl")
    assert machine.run("ls", "/sys/class/net").split() == ["lo"]
    machine.bring(tree, "/root/bundle")
    said = machine.run("/root/bundle/install.sh")
    assert "Next:  mirror init" in said
    begun = json.loads(machine.run("mirror", "init", "--host", HOST, "--json"))
    with running(Upstream(programs, machine, folder)) as upstream:
        made = Site(machine, upstream, skopeo, folder, begun["user"]["password"])
        made.configure("  quay.io: {}\n", f"  lab: {{endpoints: ['http://{upstream.address}']}}\n")
        machine.run("systemctl", "enable", "--now", "mirror")
        yield made


@pytest.fixture
def drop_in(machine: Machine) -> Iterator[Callable[..., None]]:
    """Write a drop-in; it is taken away after the test and the service runs again as shipped."""
    written = []

    def write(text: str, unit: str = "mirror.service") -> None:
        path = f"/etc/systemd/system/{unit}.d/test.conf"
        machine.write(path, text)
        written.append(path)
        machine.run("systemctl", "daemon-reload")

    yield write
    for path in written:
        machine.run("rm", path)
    machine.sh("systemctl daemon-reload; systemctl reset-failed; systemctl restart mirror")


def login(user: str, password: str, address: str) -> str:
    import base64

    entry = {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}
    return json.dumps({"auths": {address: entry}})


def test_it_is_there_with_the_rights_that_it_should_have(site: Site) -> None:
    stat = site.machine.run("stat", "-c", "%n %U:%G %a", "/var/lib/mirror", *(f"/etc/mirror/{name}" for name in FILES))
    assert stat.split("\n")[:-1] == [
        "/var/lib/mirror mirror:mirror 700",
        *(f"/etc/mirror/{name} {owner}" for name, owner in FILES.items()),
    ]
    main = site.machine.show("mirror", "MainPID", "User", "NRestarts")
    assert main[1:] == ["mirror", "0"]
    status = site.machine.run("cat", f"/proc/{main[0]}/status")
    for line in (r"CapEff:\s+0+", r"NoNewPrivs:\s+1", r"Seccomp:\s+2"):
        assert re.search(f"^{line}$", status, re.MULTILINE)
    assert "workers serve" in site.machine.show("mirror", "StatusText")[0]


FILES = {
    "mirror.yaml": "root:mirror 644",
    "tls.crt": "root:mirror 644",
    "tls.key": "root:mirror 640",
    "ca.crt": "root:mirror 644",
    "ca.key": "root:mirror 600",
    "htpasswd": "root:mirror 640",
    "pull-secret.json": "root:mirror 640",
}


def test_a_pull_secret_that_is_put_in_works_without_a_restart(site: Site) -> None:
    with pytest.raises(MachineError):
        site.pull(0)
    secret = login(registries.USER, registries.PASSWORD, site.upstream.address)
    site.machine.write("/etc/mirror/pull-secret.json", secret, 0o640)
    wait_until(lambda: pulls(site, 0), "the pull secret", 20)
    with pytest.raises(MachineError, match=r"unauthorized|authentication"):
        site.pull(0, user="admin:wrong")
    assert site.machine.show("mirror", "NRestarts") == ["0"]


def pulls(site: Site, number: int, **options: object) -> bool:
    try:
        site.pull(number, **options)  # type: ignore[arg-type]
    except MachineError:
        return False
    return True


def test_users_and_certificates_are_taken_up_without_a_restart(site: Site) -> None:
    before = site.machine.show("mirror", "MainPID")
    site.machine.sh("printf secret-of-ann | mirror user add ann --password-file - -q")
    site.configure("who: admin", "who: [admin, ann]")
    site.machine.run("systemctl", "reload", "mirror")
    wait_until(lambda: pulls(site, 0, user="ann:secret-of-ann"), "the new user", 20)
    shown = certificate(site)
    site.machine.sh("cd /etc/mirror && mv tls.crt tls.key /root && mirror init -q --host mirror.lab --host other.lab")
    wait_until(lambda: certificate(site) != shown, "the new certificate", 20)
    site.pull(0)
    assert site.machine.show("mirror", "MainPID", "NRestarts") == [*before, "0"]


def certificate(site: Site) -> str:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{PORT}", "-servername", HOST]
    done = subprocess.run(site.machine.beside(*command), input="", capture_output=True, text=True)
    return done.stdout.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END")[0]


def test_a_reload_takes_what_is_right_and_keeps_what_was_where_it_is_not(site: Site) -> None:
    before = site.machine.show("mirror", "MainPID")
    site.configure("storage:", "aliases: {short/: lab/team/}\nstorage:")
    site.machine.run("systemctl", "reload", "mirror")
    path = "/v2/short/app/manifests/0"
    wait_until(lambda: authorized(site, path) == "200", "the alias", 20)
    site.configure("storage:", "storige:")
    site.machine.run("systemctl", "reload", "mirror")
    assert site.machine.settled() == "active"
    assert authorized(site, path) == "200"
    assert "storige" in site.machine.journal()
    site.configure("storige:", "storage:")
    site.machine.run("systemctl", "reload", "mirror")
    assert site.machine.show("mirror", "MainPID", "NRestarts") == [*before, "0"]


def authorized(site: Site, path: str) -> str:
    command = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-u", f"{ADMIN}:{site.password}"]
    url = f"https://127.0.0.1:{PORT}{path}"
    return subprocess.run(site.machine.beside(*command, url), capture_output=True, text=True).stdout


def test_what_root_fetches_beside_the_service_is_the_services_own(site: Site) -> None:
    listed = f"{site.upstream.address}/team/app:1\n"
    assert site.machine.sh("find /var/lib/mirror ! -user mirror") == ""
    site.machine.write("/root/tools.txt", listed)
    site.machine.run("mirror", "sync", "/root/tools.txt", "-q")
    site.machine.run("mkdir", "/root/parts")
    site.machine.run("mirror", "save", "tools", "--to", "/root/parts", "-q")
    site.machine.run("mirror", "load", "/root/parts", "-q")
    assert site.machine.sh("find /var/lib/mirror ! -user mirror") == ""
    site.upstream.stop()
    try:
        site.pull(1)
    finally:
        site.upstream.start()


def test_a_killed_service_comes_back_and_a_killed_worker_is_replaced(site: Site) -> None:
    main = site.machine.show("mirror", "MainPID")[0]
    worker = site.machine.run("pgrep", "-P", main).split()[0]
    site.machine.run("kill", "-KILL", worker)
    wait_until(lambda: worker not in site.machine.run("pgrep", "-P", main).split(), "another worker")
    assert site.status() == "200"
    assert site.machine.show("mirror", "MainPID", "NRestarts") == [main, "0"]
    site.machine.run("kill", "-KILL", main)
    wait_until(lambda: site.machine.show("mirror", "NRestarts") == ["1"], "the restart", 20)
    assert site.machine.settled() == "active"
    site.pull(0)


@in_full
def test_one_that_hangs_is_killed_by_the_watchdog(site: Site, drop_in: Callable[..., None]) -> None:
    drop_in("[Service]\nWatchdogSec=3\nRestartSec=100ms\n")
    site.machine.sh("systemctl reset-failed mirror; systemctl restart mirror")
    time.sleep(4)
    assert site.machine.show("mirror", "NRestarts") == ["0"]
    site.machine.run("kill", "-STOP", site.machine.show("mirror", "MainPID")[0])
    wait_until(lambda: site.machine.show("mirror", "NRestarts") == ["1"], "the watchdog", 20)
    assert site.machine.settled() == "active"
    site.pull(0)


@in_full
@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        ("[Service]\nUser=nobody-here\n", "217", "status=217/USER"),
        ("[Service]\nReadWritePaths=/not/there\n", "226", "/not/there"),
        ("[Service]\nLoadCredential=a:/not/there\n", "243", "credential"),
        ("[Service]\nEnvironment=MIRROR_CONFIG=/not/there.yaml\n", "78", "/not/there.yaml: there is no such file"),
        ("[Service]\nExecStart=\nExecStart=/opt/mirror/bin/mirror serve --nonsense\n", "2", "No such option"),
    ],
)
def test_a_wrong_drop_in_says_what_and_does_not_loop(
    site: Site, drop_in: Callable[..., None], wrong: str, status: str, said: str
) -> None:
    drop_in(wrong)
    site.machine.run("systemctl", "restart", "mirror", code=1)
    assert site.machine.settled() == "failed"
    assert site.machine.show("mirror", "ExecMainStatus", "NRestarts") == [status, "0"]
    assert said in site.machine.journal()


@in_full
def test_a_port_in_use_is_waited_for_and_then_an_error(site: Site) -> None:
    site.machine.run("systemctl", "stop", "mirror")
    site.machine.run("systemd-run", "-q", "--unit=holder", "python3", "-m", "http.server", str(PORT))
    try:
        wait_until(lambda: site.machine.listens(PORT), "the other server")
        began = time.monotonic()
        site.machine.run("systemctl", "start", "mirror", code=1)
        assert time.monotonic() - began > 5
        assert site.machine.show("mirror", "ExecMainStatus", "ActiveState", "NRestarts") == ["78", "failed", "0"]
        assert "0.0.0.0:5000 is in use" in site.machine.journal()
    finally:
        site.machine.sh("systemctl stop holder; systemctl reset-failed; systemctl restart mirror")
    assert site.status() == "200"


@in_full
def test_a_port_below_1024_is_opened_by_systemd_and_a_restart_refuses_nobody(
    site: Site, drop_in: Callable[..., None]
) -> None:
    site.configure("listen: 0.0.0.0:5000", "listen: 0.0.0.0:443")
    site.machine.sh("systemctl stop mirror; systemctl start mirror.socket; systemctl start mirror")
    try:
        site.pull(0, port=443)
        asking = "for i in $(seq 40); do curl -sk -o /dev/null -w '%{http_code}\\n' https://127.0.0.1/livez; done"
        client = subprocess.Popen(site.machine.beside("sh", "-c", asking), stdout=subprocess.PIPE, text=True)
        site.machine.run("systemctl", "restart", "mirror")
        answers, _ = client.communicate(timeout=60)
        assert set(answers.split()) == {"200"}
        site.machine.run("systemctl", "stop", "mirror")
        assert site.status(port=443) == "200"  # whoever connects starts it
        # A configuration that is wrong, and a client that waits: tried some times, then given up.
        drop_in("[Unit]\nStartLimitBurst=3\n")
        site.configure("storage:", "storige:")
        site.machine.run("systemctl", "stop", "mirror")
        site.status(port=443)
        wait_until(lambda: site.machine.show("mirror.socket", "ActiveState") == ["failed"], "the end of the loop", 60)
    finally:
        mended = re.sub(r"storige:", "storage:", site.machine.read("/etc/mirror/mirror.yaml"))
        site.machine.write("/etc/mirror/mirror.yaml", mended.replace("0.0.0.0:443", "0.0.0.0:5000"))
        site.machine.sh("systemctl stop mirror.socket; systemctl reset-failed; systemctl restart mirror")
    assert site.status() == "200"


@in_full
def test_secrets_come_as_credentials_with_the_shipped_drop_in(site: Site, drop_in: Callable[..., None]) -> None:
    drop_in(site.machine.read("/opt/mirror/share/doc/mirror/config/credentials.conf"))
    given = "/run/credentials/mirror.service"
    site.configure("certificate: tls.crt, key: tls.key", f"certificate: {given}/tls.crt, key: {given}/tls.key")
    site.configure("[pull-secret.json]", f"[{given}/pull-secret.json]")
    site.machine.sh("chown root:root /etc/mirror/tls.key /etc/mirror/pull-secret.json; chmod 600 /etc/mirror/tls.key")
    site.machine.sh("chmod 600 /etc/mirror/pull-secret.json; systemctl restart mirror")
    try:
        site.pull(3)
    finally:
        site.configure(f"certificate: {given}/tls.crt, key: {given}/tls.key", "certificate: tls.crt, key: tls.key")
        site.configure(f"[{given}/pull-secret.json]", "[pull-secret.json]")
        site.machine.sh("cd /etc/mirror; chgrp mirror tls.key pull-secret.json; chmod 640 tls.key pull-secret.json")


@in_full
def test_image_sets_are_fetched_by_a_unit(site: Site) -> None:
    image_set = f"{site.upstream.address}/team/app:4\n"
    site.machine.write("/etc/mirror/sets/prod.yaml", image_set)
    site.machine.run("systemctl", "start", "mirror-sync@prod.service")
    assert "prod@1" in site.machine.journal("mirror-sync@prod.service")
    site.machine.run("systemctl", "start", "mirror-sync@prod.timer")
    assert "mirror-sync@prod.service" in site.machine.run("systemctl", "list-timers", "--no-pager")
    site.machine.run("systemctl", "stop", "mirror-sync@prod.timer")
    site.machine.run("systemctl", "start", "mirror-sync@none.service", code=1)
    assert site.machine.show("mirror-sync@none.service", "ExecMainStatus", "NRestarts") == ["78", "0"]


@in_full
def test_a_store_elsewhere_needs_its_drop_in_and_install_writes_it(site: Site) -> None:
    site.configure("path: /var/lib/mirror", "path: /data/mirror")
    site.machine.run("install", "-d", "-o", "mirror", "-g", "mirror", "-m", "0700", "/data/mirror")
    site.machine.run("systemctl", "restart", "mirror", code=1)
    assert site.machine.show("mirror", "ExecMainStatus", "NRestarts") == ["78", "0"]
    assert "store_confined" in site.machine.journal()
    site.machine.run("env", "STORE=/data/mirror", "/root/bundle/install.sh")
    site.machine.sh("systemctl reset-failed; systemctl restart mirror")
    site.pull(5)
    assert site.machine.run("ls", "-A", "/data/mirror/blobs/sha256").split()
    site.machine.sh("systemctl stop mirror; chown -R root:root /data/mirror")
    site.machine.run("systemctl", "restart", "mirror", code=1)
    assert site.machine.show("mirror", "ExecMainStatus", "NRestarts") == ["78", "0"]
    assert "/data/mirror" in site.machine.journal().splitlines()[-4]
    site.machine.sh("chown -R mirror:mirror /data/mirror; systemctl reset-failed; systemctl start mirror")


def test_uninstall_leaves_what_is_not_the_programs(site: Site) -> None:
    (store,) = re.findall(r"^  path: (.*)$", site.machine.read("/etc/mirror/mirror.yaml"), re.MULTILINE)
    said = site.machine.run("/opt/mirror/share/mirror/install.sh", "--uninstall")
    assert f"The store {store}, /etc/mirror and the user mirror are still here" in said
    assert not site.machine.listens(PORT)
    site.machine.sh("test ! -e /opt/mirror && test ! -e /usr/local/bin/mirror && test -e /etc/mirror/mirror.yaml")
    assert site.machine.sh("find /usr/local /etc/systemd -name '*mirror*'") == ""
    assert site.machine.run("ls", "-A", f"{store}/blobs/sha256").split()
    assert site.machine.run("id", "-un", "mirror").strip() == "mirror"


@in_full
def test_where_no_python_fits_the_container_image_is_taken(site: Site) -> None:
    # What podman makes of it is tried with the image itself.
    site.machine.write("/usr/local/bin/podman", '#!/bin/sh\necho "$@" >>/root/podman.log\necho 0123abcd\n', 0o755)
    missing = site.machine.run("env", "PYTHON=python2", "/root/bundle/install.sh", code=1)
    assert "this bundle brings no container image. Install Python 3.11" in missing
    site.machine.write("/root/bundle/image/mirror.oci.tar", "an image")
    said = site.machine.run("env", "PYTHON=python2", "/root/bundle/install.sh")
    assert "Next:  /root/bundle/docs/container.md" in said
    version = site.machine.read("/root/bundle/VERSION").split()[0]
    assert site.machine.read("/root/podman.log").splitlines() == [
        "pull -q oci-archive:/root/bundle/image/mirror.oci.tar",
        f"tag 0123abcd localhost/mirror:{version} localhost/mirror:latest",
    ]
    quadlets = "/etc/containers/systemd"
    assert site.machine.run("ls", quadlets).split() == ["mirror.container", "mirror.volume"]
    site.machine.run("/root/bundle/install.sh", "--uninstall")
    assert site.machine.run("ls", quadlets) == ""
