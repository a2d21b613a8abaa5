"""The ground of one run: content, an upstream that counts, and every server over it, warm."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.content import TAG, Blob, Content
from bench.peers import Certificate, Distribution, Mirror, Nginx
from bench.processes import BenchError, Server, get

_SETTLED = 0.3  # seconds without a change after which the upstream's log is complete


class Ground:
    """Everything that the rows measure, with its files in `folder`.

    `upstream` serves nothing but what the others pull through. Its files are in `memory`, so that a disk with a
    limit is left to those who store.
    """

    def __init__(self, folder: Path, memory: Path, running: ExitStack, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._running = running
        say("making content")
        self.content = content = Content(memory / "content")
        self._tree = folder / "tree"
        content.lay_out_static(self._tree)
        self._storage = folder / "distribution-storage"
        content.lay_out_distribution(self._storage)
        self._store = folder / "store"
        self.certificate = _certificate(folder)
        say("starting servers")
        self.upstream = Nginx(folder / "upstream", memory / "content", content.manifest.digest)
        running.enter_context(self.upstream)
        self.upstream.name = "direct"
        self.upstream.start()
        remote = self.upstream.port
        self.nginx = self._start(Nginx(folder / "nginx", self._tree, content.manifest.digest))
        self.distribution = self._start(Distribution(folder / "distribution", self._storage))
        self.proxy = self._start(Distribution(folder / "proxy", folder / "proxy-storage", remote=remote))
        self.ours = Mirror(folder / "ours", self._store, f"http://127.0.0.1:{remote}")
        self._start(self.ours)
        say("pulling once through each")
        for server in (self.nginx, self.distribution, self.proxy, self.ours):
            warm_up(server, content)
        self.settle()

    def _start(self, server: Server) -> Server:
        self._running.enter_context(server)
        server.start()
        return server

    def secure(self) -> list[Server]:
        """Start nginx, distribution and ours anew over the same content, with TLS."""
        folder, tls = self.folder, self.certificate
        upstream = f"http://127.0.0.1:{self.upstream.port}"
        servers = [
            self._start(Nginx(folder / "nginx-tls", self._tree, self.content.manifest.digest, tls)),
            self._start(Distribution(folder / "distribution-tls", self._storage, tls=tls)),
            self._start(Mirror(folder / "ours-tls", self._store, upstream, tls)),
        ]
        for server in servers:
            warm_up(server, self.content)
        return servers

    def slow(self) -> Mirror:
        """Return another one of ours, not started, with a store of its own and an upstream of 200 MB/s."""
        upstream = f"http://127.0.0.1:{self.upstream.port}/slow"
        return Mirror(self.folder / "slow", self.folder / "slow-store", upstream)

    def parts(self, store: str) -> list[Path]:
        """Return the downloads under way in a store of this ground."""
        return list((self.folder / store / "ingest").glob("*.part"))

    def cold_blob(self, size: int) -> Blob:
        """Put a blob upstream that nobody has asked for, in place of the last one."""
        blob = self.content.cold(size)
        self.settle()
        return blob

    def settle(self) -> None:
        """Let everything reach the disk, so that nobody pays for what others stored."""
        os.sync()

    def taken(self, blob: Blob) -> float:
        """Return how often the whole of a blob has been taken from upstream, once that has come to rest."""
        taken, since = -1, time.monotonic()
        while time.monotonic() - since < _SETTLED:
            now = self.upstream.taken(blob.digest)
            if now != taken:
                taken, since = now, time.monotonic()
            time.sleep(0.05)
        return taken / blob.size


def warm_up(server: Server, content: Content) -> None:
    """Ask for everything once and check what comes; raise BenchError."""
    for blob, route in (
        (content.manifest, f"manifests/{TAG}"),
        (content.manifest, f"manifests/{content.manifest.digest}"),
        (content.small, content.small.route),
        (content.warm, content.warm.route),
    ):
        status, body = get(server.port, f"{server.root}/{route}", secure=server.secure)
        if status != 200 or f"sha256:{hashlib.sha256(body).hexdigest()}" != blob.digest:
            raise BenchError(f"{server.name} answers {route} with {status} and {len(body)} bytes: {body[:200]!r}")


def _certificate(folder: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "tls.crt", folder / "tls.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].touch(0o600)
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
