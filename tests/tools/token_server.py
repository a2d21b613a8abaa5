"""A token server as the distribution token specification has it: RS256 JWTs that a registry verifies by certificate."""

from __future__ import annotations

import base64
import datetime
import hmac
import json
import secrets
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

_LIFETIME = 300  # seconds; what most servers give


class TokenServer:
    """Issues pull tokens to one user over TLS, and empty ones to anybody else. A context manager.

    `tls` is (certificate, key): a login goes to a realm of another host only over https. Tokens say that they live
    `lifetime` seconds.
    """

    def __init__(
        self, folder: Path, user: str, password: str, tls: tuple[Path, Path], lifetime: int = _LIFETIME
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.issuer = "lab-tokens"
        self.service = "lab-registry"
        self.lifetime = lifetime
        self.certificate = folder / "issuer.pem"
        self.asked: list[str] = []  # the scopes of each request, in order
        self.authorised: list[str] = []  # the scopes of those that carried a login
        self._expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._key = rsa.generate_private_key(65537, 2048)
        self._chain = self._certify()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def realm(self) -> str:
        return f"https://{self.address}/token"

    def __enter__(self) -> TokenServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def issue(self, authorization: str, scopes: list[str]) -> str:
        """Return a JWT for `scopes` (`repository:NAME:pull,push`), with no access for a wrong login."""
        known = hmac.compare_digest(authorization.encode(), self._expected.encode())
        access = []
        for scope in scopes if known else []:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            granted = [action for action in actions.split(",") if action == "pull"]
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "puller" if known else "",
            "aud": self.service,
            "iat": now,
            "nbf": now - 10,
            "exp": now + self.lifetime,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        signed = f"{_encode({'typ': 'JWT', 'alg': 'RS256', 'x5c': [self._chain]})}.{_encode(claims)}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64url(signature)}"

    def _certify(self) -> str:
        """Write the issuer's own certificate and return it as an x5c entry."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.issuer)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                scopes = [scope for value in query.get("scope", []) for scope in value.split()]
                server.asked.append(" ".join(scopes))
                authorization = self.headers.get("Authorization", "")
                if authorization:
                    server.authorised.append(" ".join(scopes))
                token = server.issue(authorization, scopes)
                body = json.dumps({"token": token, "expires_in": server.lifetime}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: Any) -> None:
                """Say nothing: `asked` holds what tests want to know."""

        return Handler


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _encode(document: object) -> str:
    return _base64url(json.dumps(document, separators=(",", ":")).encode())
