"""The servers that are measured, each as it comes: default configuration, request log on, to a file."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.content import MANIFEST_TYPE, REPOSITORY, TAG
from bench.processes import ROOT, BenchError, Server, get
from tests.tools.processes import free_port

_UPSTREAM = "bench"  # ours: the upstream's key, and so the first component of its names

Certificate = tuple[Path, Path]


def find(program: str) -> str:
    """Return the path of a program, looked for in .tools/ and on PATH; raise BenchError."""
    places = os.pathsep.join(
        [str(ROOT / ".tools" / "bin"), str(ROOT / ".tools"), os.environ.get("PATH", ""), "/usr/sbin"]
    )
    found = shutil.which(program, path=places)
    if found is None:
        raise BenchError(f"{program} is not installed")
    return found


class Nginx(Server):
    """Debian's nginx over a tree of files, with the headers that a registry sends.

    `taken()` is for the one that is everybody's upstream: its log says what each request took.
    """

    def __init__(self, folder: Path, tree: Path, digest: str, tls: Certificate | None = None) -> None:
        folder.mkdir()
        port = free_port()
        configuration = folder / "nginx.conf"
        command = [find("nginx"), "-c", str(configuration), "-e", str(folder / "error.log")]
        super().__init__("nginx", folder, command, port, f"/v2/{REPOSITORY}", "/v2/", secure=tls is not None)
        listen = f"listen 127.0.0.1:{port};"
        if tls is not None:
            listen = f"listen 127.0.0.1:{port} ssl; ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]};"
        configuration.write_text(_NGINX % {
            "user": "user root;" if os.geteuid() == 0 else "",
            "folder": folder,
            "tree": tree,
            "listen": listen,
            "tag": f"/v2/{REPOSITORY}/manifests/{TAG}",
            "digest": digest,
            "type": MANIFEST_TYPE,
        })  # fmt: skip

    def taken(self, digest: str) -> int:
        """Return the bytes of bodies that were sent of a digest so far."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return sum(int(line.rsplit(" ", 1)[1]) for line in lines if digest in line and line.startswith("GET"))


class Distribution(Server):
    """distribution's registry over its file system driver; with `remote` (a port) as a pull-through cache of it."""

    def __init__(
        self, folder: Path, storage: Path, *, remote: int | None = None, tls: Certificate | None = None
    ) -> None:
        folder.mkdir()
        port = free_port()
        configuration = folder / "config.yml"
        command = [find("registry"), "serve", str(configuration)]
        name = "distribution" if remote is None else "distribution as proxy"
        super().__init__(name, folder, command, port, f"/v2/{REPOSITORY}", "/v2/", secure=tls is not None)
        self.environment = {"OTEL_TRACES_EXPORTER": "none"}  # else it looks for a collector that is not there
        http = {"addr": f"127.0.0.1:{port}", "headers": {"X-Content-Type-Options": ["nosniff"]}}
        document = {
            "version": 0.1,
            "log": {"fields": {"service": "registry"}},
            "storage": {
                "cache": {"blobdescriptor": "inmemory"},
                "filesystem": {"rootdirectory": str(storage)},
                "tag": {"concurrencylimit": 8},
            },
            "http": {**http, **({"tls": {"certificate": str(tls[0]), "key": str(tls[1])}} if tls else {})},
            "health": {"storagedriver": {"enabled": True, "interval": "10s", "threshold": 3}},
        }
        if remote is not None:
            document["proxy"] = {"remoteurl": f"http://127.0.0.1:{remote}"}
        configuration.write_text(json.dumps(document))  # YAML takes JSON as it is


class Mirror(Server):
    """Ours, pulling through from the base URL `upstream`, open to pushes; everything else is its default.

    `command` is how `mirror` is called where it is not this checkout's, `workers` their number where it is fixed.
    """

    def __init__(
        self,
        folder: Path,
        store: Path,
        upstream: str,
        tls: Certificate | None = None,
        *,
        command: Sequence[str] = (),
        workers: int | None = None,
    ) -> None:
        folder.mkdir()
        port, self._metrics_port = free_port(), free_port()
        configuration = folder / "mirror.yaml"
        serve = [*(command or mirror_command()), "serve", "--config", str(configuration)]
        super().__init__(
            "ours", folder, serve, port, f"/v2/{_UPSTREAM}/{REPOSITORY}", "/readyz", secure=tls is not None
        )
        self.environment = bytecode(folder.parent / "bytecode")
        document: dict[str, object] = {
            "listen": f"127.0.0.1:{port}",
            "metrics": {"listen": f"127.0.0.1:{self._metrics_port}"},
            "storage": {"path": str(store)},
            "clients": {"anonymous": "push"},
            "upstreams": {_UPSTREAM: {"endpoints": [upstream], "plain_http": True}},
        }
        if tls is not None:
            document["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
        if workers is not None:
            document["workers"] = workers
        configuration.write_text(json.dumps(document))

    def workers(self) -> int:
        """Return how many processes answer requests."""
        return max(1, len(self.pids()) - 1)

    def loop_lag(self) -> Counter[float]:
        """Return how many samples of all event loops fell under each bound in seconds, but not under a lower one."""
        samples: Counter[float] = Counter()
        below = 0
        for line in get(self._metrics_port, "/metrics")[1].decode().splitlines():
            if line.startswith("mirror_loop_lag_seconds_bucket"):
                bound = float(line.split('le="')[1].split('"')[0])
                count = int(float(line.rsplit(" ", 1)[1]))
                samples[bound] = count - below
                below = count
        return samples


def bytecode(folder: Path) -> dict[str, str]:
    """Return the environment in which modules are compiled once, as an installation has them."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder)}


def mirror_command() -> list[str]:
    """Return how `mirror` is called: the installed command beside this interpreter, else the module."""
    installed = Path(sys.executable).with_name("mirror")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "mirror"]


_NGINX = """
%(user)s
daemon off;
worker_processes auto;
pid %(folder)s/nginx.pid;
events { worker_connections 768; }
http {
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    log_format bytes '$request_method $uri $status $body_bytes_sent';
    access_log %(folder)s/access.log bytes;
    client_body_temp_path %(folder)s/body; proxy_temp_path %(folder)s/proxy; fastcgi_temp_path %(folder)s/fastcgi;
    uwsgi_temp_path %(folder)s/uwsgi; scgi_temp_path %(folder)s/scgi;
    map $uri $content_digest {
        ~(?<named>sha256:[0-9a-f]+)$ $named;
        %(tag)s %(digest)s;
    }
    server {
        %(listen)s
        root %(tree)s;
        add_header Docker-Distribution-API-Version registry/2.0;
        add_header X-Content-Type-Options nosniff;
        add_header Docker-Content-Digest $content_digest;
        location = /v2/ { return 200 '{}'; }
        location ~ ^/v2/.+/manifests/ { default_type %(type)s; }
        location ~ ^/slow(?<rest>/v2/.+)$ { limit_rate 200m; alias %(tree)s$rest; }
        location ~ ^/v2/.+/blobs/ {
            add_header Docker-Distribution-API-Version registry/2.0;
            add_header X-Content-Type-Options nosniff;
            add_header Docker-Content-Digest $content_digest;
            add_header Cache-Control "max-age=31536000, immutable";
        }
    }
}
"""
