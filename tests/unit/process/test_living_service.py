"""`mirror serve` over its life: reloads under load, changed files in force, several services, sockets left behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import trustme
import yaml

from mirror.cli.asking import NobodyAnswers, ask
from mirror.config import load
from tests.peers.images import noise
from tests.peers.logins import BasicLogin
from tests.peers.process import RunningRegistry, running
from tests.peers.scripted import ScriptedRegistry
from tests.tools.mirror import Mirror
from tests.tools.processes import free_port, wait_until
from tests.tools.programs import ROOT

pytestmark = pytest.mark.timeout(90)

IMAGE = "team/app:v1"
SIZE = 300_000
Make = Callable[..., Mirror]


@pytest.fixture(scope="module")
def upstream() -> Iterator[RunningRegistry]:
    with running(IMAGE, SIZE) as registry:
        yield registry


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Start a service with a folder and a configuration of its own."""
    made: list[Mirror] = []

    def start(document: Mapping[str, Any] | None = None, folder: str = "a") -> Mirror:
        made.append(Mirror(tmp_path / folder, {"workers": 2, **(document or {})}))
        made[-1].start()
        return made[-1]

    yield start
    for mirror in made:
        mirror.kill()


def lab(upstream: RunningRegistry, **more: Any) -> dict[str, Any]:
    return {"lab": {"endpoints": [upstream.url], **more}}


def run(mirror: Mirror, *words: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    command = [*mirror.program, words[0], "--config", str(mirror.configuration), *words[1:]]
    return subprocess.run(
        command, cwd=ROOT, user=user, group=user, capture_output=True, text=True, timeout=60, check=False
    )


def told(mirror: Mirror, *words: str) -> dict[str, Any]:
    """Return what a command reports as JSON."""
    found: dict[str, Any] = json.loads(run(mirror, *words, "--json").stdout)
    return found


def status(mirror: Mirror) -> dict[str, Any]:
    """Return what the service says of itself, and the socket that it was asked at."""
    facts, socket_path = ask(load(mirror.configuration), "GET", "/status")
    return {**facts, "socket": str(socket_path)}


def answering(mirror: Mirror) -> int:
    """Return the process that answers at the socket, 0 for none."""
    try:
        return int(status(mirror)["pid"])
    except NobodyAnswers:
        return 0


def reload(mirror: Mirror, event: str = "reloaded") -> None:
    """Send SIGHUP and wait until the log says what came of it."""
    before = mirror.log.count(f"event={event} ")
    os.kill(mirror.pid, signal.SIGHUP)
    wait_until(lambda: mirror.log.count(f"event={event} ") > before, f"{event}\n{mirror.log}")


class Load:
    """Clients that pull without a pause, on connections that they keep; what went wrong is in `failures`."""

    def __init__(self, address: str, paths: list[str], clients: int = 4) -> None:
        self.failures: list[str] = []
        self.answers = 0
        self._address = address
        self._paths = paths
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._pull) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _pull(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        while not self._ended.is_set():
            for path in self._paths:
                try:
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        self.failures.append(f"{path}: {answer.status}")
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(f"{path}: {error!r}")
                    connection.close()
                self.answers += 1
        connection.close()


def test_reloads_under_load_lose_no_request(make: Make, upstream: RunningRegistry, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"auths": {}}')
    mirror = make({"upstreams": lab(upstream), "pull_secrets": [str(secret)]})
    layer = upstream.images[IMAGE]["layers"][0]
    paths = ["/v2/lab/team/app/manifests/v1", f"/v2/lab/team/app/blobs/{layer}", "/readyz", "/v2/"]
    for path in paths:
        assert mirror.get(path)[0] == 200
    assert mirror.get("/v2/second/team/app/manifests/v1")[0] == 404
    with Load(mirror.address, paths) as load:
        mirror.configure({"upstreams": {**lab(upstream), "second.lab": {"endpoints": [upstream.url]}}})
        reload(mirror)
        assert mirror.get("/v2/second.lab/team/app/manifests/v1")[0] == 200
        assert status(mirror)["problems"] == []
        for bad, words in (
            ({"limits": {"blob": "5Gi"}}, "5Gi"),
            ({"ca": [str(tmp_path / "none.pem")]}, "there is no file"),
            ({"storage": {"path": str(tmp_path / "elsewhere")}}, "restart the service"),
        ):
            before = yaml.safe_load(mirror.configuration.read_text())
            mirror.configure(bad)
            reload(mirror, "reload_refused")
            assert words in mirror.log
            if "limits" in bad:
                found = run(mirror, "status")
                assert found.returncode == 1
                assert "ReloadRefused" in found.stdout
                assert "could not start again with this file" in found.stderr
            mirror.configure({"limits": {}, "ca": [], "storage": before["storage"]})
        secret.write_text('{"auths": {"a": {"au')
        reload(mirror, "reload_refused")
        assert "is not JSON" in mirror.log
        secret.write_text('{"auths": {}}')
        mirror.configure({"workers": 3, "log": {"format": "json"}})
        os.kill(mirror.pid, signal.SIGHUP)
        wait_until(lambda: '"event": "reloaded"' in mirror.log or '"event":"reloaded"' in mirror.log, "the last reload")
        assert status(mirror)["workers"]["configured"] == 3
    assert load.answers > 100
    assert load.failures == []
    assert not (tmp_path / "elsewhere").exists()


def test_a_long_pull_outlives_a_reload_and_the_new_workers_go_on_with_the_download(
    make: Make, upstream: RunningRegistry
) -> None:
    mirror = make({"upstreams": lab(upstream)})
    layer = upstream.images[IMAGE]["layers"][0]
    upstream.forget()
    upstream.fail("blob", "Stall", {"at": 200_000, "seconds": 12}, times=1)
    got: list[bytes] = []
    pulling = threading.Thread(target=lambda: got.append(mirror.get(f"/v2/lab/team/app/blobs/{layer}")[2]))
    pulling.start()
    fetches: list[dict[str, Any]] = []

    def is_answered() -> bool:
        fetches[:] = status(mirror)["fetches"]
        return any(one["size"] for one in fetches)  # not known before upstream has answered

    wait_until(is_answered, "the download")
    (fetch,) = fetches
    assert (fetch["digest"], fetch["upstream"], fetch["size"]) == (layer, "lab", SIZE)
    reload(mirror)
    conditions = {one["type"]: one for one in status(mirror)["conditions"]}
    assert (conditions["Progressing"]["status"], conditions["Progressing"]["reason"]) == (True, "Replacing")
    assert mirror.get(f"/v2/lab/team/app/blobs/{layer}")[2] == noise(SIZE)
    pulling.join()
    assert got == [noise(SIZE)]
    assert sum(one["sent"] for one in upstream.requests("blob")) == SIZE
    wait_until(lambda: status(mirror)["workers"]["leaving"] == 0, "the old worker's end")


@contextlib.contextmanager
def registry_with_login(users: dict[str, str]) -> Iterator[str]:
    """Run a registry that asks for a login in a thread; yield its address."""
    ready: list[Any] = []
    started = threading.Event()

    async def serve() -> None:
        async with ScriptedRegistry(login=BasicLogin(users)) as registry:
            registry.add_image("team/app", "v1")
            stop = asyncio.Event()
            ready.extend((registry.url, asyncio.get_running_loop(), stop))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait(10)
    url, loop, stop = ready
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def write_secret(path: Path, host: str, password: str) -> None:
    login = base64.b64encode(f"me:{password}".encode()).decode()
    other = path.with_suffix(".new")
    other.write_text(json.dumps({"auths": {host: {"auth": login}}}))
    other.replace(path)


def test_a_replaced_pull_secret_is_in_force_at_once(make: Make, tmp_path: Path) -> None:
    secret = tmp_path / "pull-secret.json"
    users = {"me": "old"}
    with registry_with_login(users) as url:
        host = url.partition("://")[2]
        write_secret(secret, host, "old")
        tags = {"fresh_for": "0s"}
        mirror = make({"upstreams": {"lab": {"endpoints": [url], "tags": tags}}, "pull_secrets": [str(secret)]})
        manifest = "/v2/lab/team/app/manifests/v1"
        assert mirror.get(manifest)[1]["x-cache"] == "MISS"
        found = told(mirror, "explain", "lab/team/app:v1")
        assert found["upstream"]["endpoints"][0]["credential"] == f"{secret}, entry {host}"
        users["me"] = "new"
        wait_until(lambda: mirror.get(manifest)[1]["x-cache"] == "STALE", "the refusal")
        wait_until(lambda: status(mirror)["problems"], "the status", 20)  # workers say what they know once a second
        report = run(mirror, "status")
        assert report.returncode == 1
        assert "LoginRefused" in report.stdout
        assert "login refused" in report.stdout
        write_secret(secret, host, "new")
        wait_until(lambda: mirror.get(manifest)[1]["x-cache"] == "HIT", "the new secret", 45)
        wait_until(lambda: not status(mirror)["problems"], "the status", 20)
        secrets = (base64.b64encode(b"me:old").decode(), base64.b64encode(b"me:new").decode())
        everything = mirror.log + run(mirror, "explain", "lab/team/app:v1", "--json").stdout
        assert not any(one in everything for one in secrets)


def hashed(password: str) -> str:
    return f"ann:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"


def test_a_replaced_htpasswd_is_in_force_without_a_restart(make: Make, tmp_path: Path) -> None:
    users = tmp_path / "htpasswd"
    users.write_text(hashed("one"))
    # One worker: another one, that nobody asked since, would look at the file only when it is bad.
    mirror = make({"clients": {"anonymous": "none", "htpasswd": str(users)}, "workers": 1})

    def answer(password: str) -> int:
        login = base64.b64encode(f"ann:{password}".encode()).decode()
        return mirror.get("/v2/", headers={"Authorization": f"Basic {login}"})[0]

    assert answer("one") == 200
    users.write_text(hashed("two"))
    wait_until(lambda: answer("two") == 200, "the new password")
    assert answer("one") == 401
    users.write_text("ann:plain\n")
    reload(mirror, "reload_refused")
    assert answer("two") == 200


def test_a_replaced_certificate_is_in_force_without_a_restart_and_at_once_with_a_reload(
    make: Make, tmp_path: Path
) -> None:
    authority = trustme.CA()
    files = {"certificate": str(tmp_path / "tls.crt"), "key": str(tmp_path / "tls.key")}

    def write() -> bytes:
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(files["key"])
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        Path(files["certificate"]).write_bytes(chain)
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())

    first = write()
    mirror = make({"tls": files})
    host, _, port = mirror.address.partition(":")

    def shown() -> bytes:
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port))))

    assert shown() == first
    until = status(mirror)["certificate"]["expires"]
    assert until > time.time()
    second = write()
    reload(mirror)
    assert {shown() for _ in range(5)} == {second}
    third = write()
    # Each worker rereads it by itself, and a few connections may all be taken by the one that has it already.
    wait_until(lambda: {shown() for _ in range(40)} == {third}, "the third certificate", 20)
    Path(files["key"]).write_text("no key")
    reload(mirror, "reload_refused")
    assert shown() == third


def test_a_second_service_on_one_store_has_a_socket_of_its_own(make: Make, tmp_path: Path) -> None:
    first = make()
    second = make({"storage": {"path": str(first.store)}}, folder="b")
    assert f"event=further_service module=admin.socket path={first.store}/run/serve-{second.pid}.sock" in second.log
    assert status(second)["pid"] == first.pid
    first.stop()
    found = status(second)
    assert (found["pid"], found["socket"]) == (second.pid, f"{first.store}/run/serve-{second.pid}.sock")
    second.kill()
    third = make({"storage": {"path": str(first.store)}}, folder="c")
    assert status(third)["socket"] == f"{first.store}/run/serve.sock"
    assert not (first.store / "run" / f"serve-{second.pid}.sock").exists()


def test_a_socket_that_a_killed_service_left_is_replaced(make: Make) -> None:
    mirror = make()
    path = mirror.store / "run" / "serve.sock"
    assert path.stat().st_mode & 0o777 == 0o660
    mirror.kill()
    assert path.exists()
    found = run(mirror, "status")
    assert found.returncode == 75
    assert "start it: systemctl start mirror" in found.stderr
    mirror.start()
    assert run(mirror, "status").returncode == 0
    assert "further_service" not in mirror.log


def test_the_socket_goes_to_the_next_while_workers_of_a_killed_one_still_answer(
    make: Make, upstream: RunningRegistry
) -> None:
    mirror = make({"upstreams": lab(upstream)})
    layer = upstream.images[IMAGE]["layers"][0]
    upstream.fail("blob", "Stall", {"at": 100_000, "seconds": 12}, times=1)
    pulling = threading.Thread(target=mirror.get, args=(f"/v2/lab/team/app/blobs/{layer}",))
    pulling.start()
    wait_until(lambda: bool(status(mirror)["fetches"]), "the download")
    os.kill(mirror.pid, signal.SIGKILL)
    mirror._process.wait()  # type: ignore[union-attr] # its workers live on for a while
    mirror.start()  # which one of the old workers may have answered for
    wait_until(lambda: answering(mirror) == mirror.pid, "the next service")
    assert status(mirror)["socket"] == str(mirror.store / "run" / "serve.sock")
    pulling.join()


def test_a_download_whose_upstream_is_silent_is_told_in_words(make: Make, upstream: RunningRegistry) -> None:
    mirror = make({"upstreams": lab(upstream)})
    layer = upstream.images[IMAGE]["layers"][0]
    upstream.fail("blob", "HangHeaders", {"seconds": 60}, times=1)

    def pull() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # it is cut off
            mirror.get(f"/v2/lab/team/app/blobs/{layer}")

    pulling = threading.Thread(target=pull)
    pulling.start()
    wait_until(lambda: bool(status(mirror)["fetches"]), "the download")
    said = run(mirror, "status").stdout
    mirror.kill()
    pulling.join()
    assert f"{layer[:19]}… upstream has not answered yet\n" in said


def test_a_port_in_use_is_tried_for_five_seconds_and_then_named(make: Make) -> None:
    mirror = make()
    port = int(mirror.address.rpartition(":")[2])
    command = [*mirror.program, "serve", "--config", str(mirror.configuration)]
    began = time.monotonic()
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 78
    assert time.monotonic() - began >= 5
    assert f"127.0.0.1:{port} is in use by process {mirror.pid}" in found.stderr
    assert status(mirror)["pid"] == mirror.pid


def test_a_console_is_told_of_requests_as_of_everything_else(make: Make) -> None:
    mirror = make({"log": {"format": "console"}})
    assert mirror.get("/v2/", headers={"User-Agent": "a b"})[0] == 200
    mirror.stop()
    lines = mirror.log.splitlines()
    (request,) = [line for line in lines if "name=/v2/ " in line]
    (starting,) = [line for line in lines if "] starting " in line]
    assert request.index("] request ") == starting.index("] starting ")
    assert " status=200 " in request
    assert request.endswith(" agent='a b'")
    assert "event=" not in mirror.log


def test_the_port_of_metrics_in_use_is_named_as_that_of_metrics(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        mirror = Mirror(tmp_path, {"metrics": {"listen": taken}})
        found = run(mirror, "serve")
        assert found.returncode == 78
        assert f"metrics.listen: {taken} is in use by process {os.getpid()}" in found.stderr
        assert "end it, or change metrics.listen\n" in found.stderr


def test_a_port_that_becomes_free_in_time_is_taken(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, {"workers": 1})
    with socket.create_server(("127.0.0.1", int(mirror.address.rpartition(":")[2]))) as holder:

        def let_go() -> None:
            wait_until(lambda: "event=listen_waiting" in mirror.log, "the mirror to wait")
            holder.close()

        waiting = threading.Thread(target=let_go)
        waiting.start()
        mirror.start()
    waiting.join()
    mirror.stop()


def test_addresses_change_with_a_reload(make: Make) -> None:
    mirror = make()
    old, new = mirror.address, f"127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", int(new.rpartition(":")[2]))):
        mirror.configure({"listen": [old, new]})
        reload(mirror, "reload_refused")
        assert "is in use" in mirror.log
    mirror.configure({"listen": [new]})
    reload(mirror)
    mirror.address = new
    assert mirror.get("/readyz")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(old.rpartition(":")[2])))


def test_what_a_worker_left_out_of_the_log_is_said_when_it_stops(make: Make) -> None:
    mirror = make({"workers": 1})
    for _ in range(70):
        assert mirror.get("/v2/team/app/blobs/uploads/", "POST")[0] in (401, 403)
    assert "event=lines_suppressed" not in mirror.log
    assert mirror.stop() == 0
    said = [line for line in mirror.log.splitlines() if "event=lines_suppressed" in line]
    assert len(said) == 1
    assert said[0].endswith("count=20")


def test_an_upstream_that_is_away_is_degraded_and_explained(make: Make, upstream: RunningRegistry) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    mirror = make({"upstreams": {"lab": {"endpoints": [gone]}}, "workers": 1})
    assert status(mirror)["upstreams"][0]["state"] == "not asked yet"
    for number in range(8):
        mirror.get(f"/v2/lab/team/app/manifests/v{number}")
    found = status(mirror)
    assert found["problems"][0]["code"] == "upstream_away"
    assert run(mirror, "status").returncode == 1
    assert found["upstreams"][0]["endpoints"][0]["breaker"] != "closed"
    explained = told(mirror, "explain", "lab/team/app:v1")
    assert explained["source"] == "service"
    assert explained["pull"]["answer"] == "503"
    assert gone in explained["upstream"]["endpoints"][0]["last_error"]


def test_explain_says_the_same_with_and_without_a_service(make: Make, upstream: RunningRegistry) -> None:
    mirror = make({"upstreams": lab(upstream)})
    assert mirror.get("/v2/lab/team/app/manifests/v1")[0] == 200
    running = told(mirror, "explain", "lab/team/app:v1")
    assert (running["kind"], running["pull"]["answer"]) == ("proxied", "HIT")
    assert running["here"]["contents"]["missing"] > 0
    mirror.stop()
    stored = told(mirror, "explain", "lab/team/app:v1")
    assert (running.pop("source"), stored.pop("source")) == ("service", "store")
    for found in (running, stored):
        found["here"]["tag"].pop("why")
        found["upstream"].pop("endpoints")
    assert running == stored
    wrong = run(mirror, "explain", "NO//such", "--json")
    assert wrong.returncode == 78


def test_reload_by_the_socket_and_the_file_that_changed(make: Make) -> None:
    mirror = make()
    assert not status(mirror)["configuration"]["changed"]
    mirror.configure({"workers": 1})
    assert status(mirror)["configuration"]["changed"]
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(mirror.store / "run" / "serve.sock"))
    connection.request("POST", "/reload")
    assert connection.getresponse().status == 202
    connection.close()
    wait_until(lambda: "event=reloaded " in mirror.log, "the reload")
    found = status(mirror)
    assert (found["configuration"]["changed"], found["workers"]["configured"]) == (False, 1)


def test_a_reload_names_the_key_that_takes_a_restart_and_no_other(make: Make, tmp_path: Path) -> None:
    mirror = make()
    at, other = mirror.store, tmp_path / "other"
    for changes, refused in (
        ({"storage": {"path": str(other)}}, f"`storage.path` cannot change while the service runs, from {at} to "),
        ({"admin": {"socket": str(other)}}, f"`admin.socket` cannot change while the service runs, from {at}/run/"),
    ):
        mirror.configure({"storage": {"path": str(at)}, "admin": {}, **changes})
        reload(mirror, "reload_refused")
        said = [line for line in mirror.log.splitlines() if "event=reload_refused" in line]
        assert refused in said[-1]
    assert len(said) == 2


@pytest.fixture
def python_for_all(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a Python that every user may run, with the packages of this one."""
    python = "/usr/bin/python3"
    monkeypatch.setenv("PYTHONPATH", sysconfig.get_path("purelib"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    tried = subprocess.run(
        [python, "-c", "import mirror.app"], user=65534, group=65534, cwd=ROOT, capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip("no Python here that other users may run")
    return python


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_root_and_the_owner_may_ask_and_others_are_told_how(python_for_all: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        mirror = Mirror(Path(folder), {"workers": 1})
        mirror.program = (python_for_all, "-m", "mirror")
        mirror.command[0] = python_for_all
        mirror.store.mkdir(0o700)
        os.chown(mirror.store, 1234, 1234)
        mirror.start()
        try:
            assert (mirror.store / "run" / "serve.sock").stat().st_uid == 1234
            for user, code, words in (
                (0, 0, "Available    True"),
                (1234, 0, "Available    True"),
                (4321, 78, "sudo -u"),
            ):
                found = run(mirror, "status", user=user)
                assert (found.returncode, words in found.stdout + found.stderr) == (code, True), found
            reload(mirror)
        finally:
            mirror.stop()


# -- lines of the log


SHOWN = [
    (manual, line)
    for manual in ("README.md", "docs/operations.md", "docs/access.md")
    for line in (ROOT / manual).read_text().splitlines()
    if re.match(r"(?:time=\S+ level=\S+ )?event=\w+ ", line)
]


def fields(line: str) -> list[str]:
    return re.findall(r"(?:^| )([a-z_]+)=", re.sub(r'"[^"]*"', "", line))


def test_lines_are_those_that_the_manuals_show(make: Make, upstream: RunningRegistry) -> None:
    """Their fields come in that order; a line may leave some out."""
    mirror = make({"upstreams": lab(upstream)})
    assert mirror.get("/v2/lab/team/app/manifests/v1")[0] == 200
    assert mirror.get("/v2/apps/web/blobs/uploads/", method="POST")[0] == 403
    events = {re.findall(r"event=(\w+)", line)[0] for _, line in SHOWN}
    assert {"starting", "worker_started", "worker_ready", "request", "audit"} <= events
    lines = {event: f" event={event} " for event in events}
    wait_until(lambda: all(one in mirror.log for one in lines.values()), "a line of each event")
    for manual, shown in SHOWN:
        event = re.findall(r"event=(\w+)", shown)[0]
        said = iter(fields(next(one for one in mirror.log.splitlines() if lines[event] in one)))
        assert all(name in said for name in fields(shown)), f"{manual}: {shown}"
