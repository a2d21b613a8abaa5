"""Where to listen and whom to dial: addresses, base URLs, hosts and networks as mirror.yaml spells them."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from mirror.config.values import SpellingError, expect_text, quote

# Docker Hub under its names: what people write, the legacy index, what answers, and the web site's own.
DOCKER_HUB_SYNONYMS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
DOCKER_HUB_ENDPOINT = "https://registry-1.docker.io"

UNIX = "unix:"
# sun_path holds 108 bytes, the last of them zero (unix(7)).
_LONGEST_SOCKET_PATH = 107
_LABEL = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~%+-]+)*")


def parse_listen(value: object, base: Path) -> str:
    """Return `host:port`, `[v6]:port` or `unix:/absolute/path` in canonical form; raise SpellingError."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else expect_text(value)
    if text.startswith(UNIX):
        path = base / text.removeprefix(UNIX)
        if len(str(path).encode()) > _LONGEST_SOCKET_PATH:
            raise SpellingError(f"a socket's path has at most {_LONGEST_SOCKET_PATH} bytes", "choose a shorter one")
        return f"{UNIX}{path}"
    host, separator, port = text.rpartition(":")
    if not separator or not host:
        port = port if port.isdigit() else "5000"
        remedy = f"write 127.0.0.1:{port} or, for every address, 0.0.0.0:{port}"
        raise SpellingError(f"{quote(text)} names no host and port", remedy)
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise SpellingError(f"{quote(text)} is ambiguous", f'write "[{host}]:{port}" for an IPv6 address')
    return f"{bracket(parse_host(host.strip('[]')))}:{_parse_port(port)}"


def split_listen(address: str) -> tuple[str, int]:
    """Return (host, port) of an address that `parse_listen` made and that is not a Unix socket's."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Tell whether only this host reaches what listens at `address` (as `parse_listen` made it)."""
    return address.startswith(UNIX) or is_loopback_host(split_listen(address)[0])


def is_loopback_host(host: str) -> bool:
    """Tell whether `host`, a name or an address without brackets, is this host's own loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_wildcard(address: str) -> bool:
    """Tell whether `address` (as `parse_listen` made it) stands for every address of the host."""
    return not address.startswith(UNIX) and split_listen(address)[0] in ("0.0.0.0", "::")  # noqa: S104 compared, not bound


def parse_host(value: object) -> str:
    """Return a host name or an IP address (v6 without brackets) in lower case; raise SpellingError."""
    text = expect_text(value).lower()
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if _HOST.fullmatch(text) is None or re.fullmatch(r"[0-9.]+", text):
            raise SpellingError(f"{quote(text)} is not a host name or an IP address") from None
        return text


def parse_host_and_port(value: object) -> str:
    """Return `host` or `host:port` in lower case; raise SpellingError."""
    text = expect_text(value)
    if "/" in text:
        host = urlsplit(text if "//" in text else f"//{text}").netloc.rpartition("@")[2]
        raise SpellingError(
            f"{quote(text)} is more than a host", f"write {host}" if host else "write host or host:port"
        )
    try:
        parts = urlsplit(f"//{text}")
        host = parse_host(parts.hostname or "")
        port = parts.port
    except ValueError as error:
        if isinstance(error, SpellingError):
            raise
        raise SpellingError(f"{quote(text)} is not host or host:port") from None
    return bracket(host) if port is None else f"{bracket(host)}:{port}"


def parse_network(value: object) -> str:
    """Return an IP address or CIDR as a network, `10.0.0.0/8` or `10.1.2.3/32`; raise SpellingError."""
    text = expect_text(value)
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise SpellingError(f"{quote(text)} is not an IP address or a network", "write it as 10.0.0.0/8") from None
    raise SpellingError(f"{quote(text)} has bits set beyond its length", f"write {network} or {text.partition('/')[0]}")


def parse_host_or_network(value: object) -> str:
    """Return a host name in lower case, with a port if it has one, or an IP address or CIDR as a network.

    Raise SpellingError.
    """
    text = expect_text(value)
    looks_numeric = re.fullmatch(r"[0-9.]+(?:/[0-9]+)?|[0-9a-fA-F]*:[0-9a-fA-F.:]*(?:/[0-9]+)?", text) is not None
    return parse_network(text) if looks_numeric else parse_host_and_port(text)


def parse_endpoint(value: object, *, plain_http: bool) -> str:
    """Return the base URL of a registry, `scheme://host[:port][/path]`, without a slash at its end.

    Without a scheme it is https, or http where `plain_http` is true. Raise SpellingError, whose text holds no login.
    """
    text = expect_text(value)
    parts = _split_url(text if "://" in text else f"{'http' if plain_http else 'https'}://{text}")
    path = parts.path.rstrip("/")
    if path == "/v2" or path.endswith("/v2") or path.startswith("/v2/"):
        raise SpellingError(f"{quote(text)} holds /v2", "leave it out: requests go to <endpoint>/v2/<repository>")
    if _PATH.fullmatch(path) is None or {".", ".."} & set(path.split("/")):
        raise SpellingError(f"{quote(text)} has a path that no registry has", "write https://host[:port][/path]")
    return f"{parts.scheme}://{parts.netloc}{path}"


def parse_external_url(value: object) -> str:
    """Return `scheme://host[:port]`, as clients see this registry; raise SpellingError."""
    text = expect_text(value)
    if "://" not in text:
        raise SpellingError(f"{quote(text)} has no scheme", f"write https://{text}")
    parts = _split_url(text)
    if parts.path.strip("/"):
        raise SpellingError(f"{quote(text)} has a path", "write scheme://host[:port]: a registry's API is at the root")
    return f"{parts.scheme}://{parts.netloc}"


def parse_proxy(value: object, *, user_information: bool = False) -> str:
    """Return a forward proxy as `scheme://host:port`, with a login only where that is allowed. Raise SpellingError."""
    text = expect_text(value)
    parts = _split_url(text if "://" in text else f"http://{text}", user_information=user_information)
    if parts.path.strip("/"):
        raise SpellingError(f"{quote(text)} has a path", "write http://host:port")
    return f"{parts.scheme}://{parts.netloc}"


def parse_document_url(value: object) -> str:
    """Return an http, https or file URL without a login or a query; raise SpellingError."""
    text = expect_text(value)
    if text.lower().startswith("file:"):
        path = text[len("file:") :].removeprefix("//")
        if not path.startswith("/") or not text.isascii() or not text.isprintable():
            raise SpellingError(f"{quote(text)} is not a file's URL", "write file:///path, with the whole path")
        return f"file://{path}"
    parts = _split_url(text)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _split_url(text: str, *, user_information: bool = False) -> SplitResult:
    """Return the parts of an http or https URL with its host in lower case; raise SpellingError."""
    try:
        # urlsplit drops tabs and newlines without a word.
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise SpellingError(f"{quote(text)} is not a URL", "write https://host[:port][/path]") from None
    if parts.scheme not in ("http", "https"):
        raise SpellingError(f"{quote(text)} is neither http nor https", "write https://host[:port][/path]")
    login, at, _ = parts.netloc.rpartition("@")
    if at and not user_information:
        raise SpellingError(
            "holds a user name or a password",
            "this file holds no secrets: for a registry use credentials (username, password_file) or pull_secrets,"
            " for a proxy HTTPS_PROXY in the service's environment",
        )
    if "?" in text or "#" in text:
        raise SpellingError(f"{quote(text)} has a query or a fragment", "write scheme, host, port and path only")
    host = bracket(parse_host(parts.hostname or ""))
    return parts._replace(netloc=f"{login}{at}{host}" + ("" if port is None else f":{port}"))


def _parse_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise SpellingError(f"{quote(text)} is not a port", "write a number from 1 to 65535 (0: any that is free)")
    return int(text)


def bracket(host: str) -> str:
    """Return a host as addresses and URLs spell it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
