"""Requests that two servers in a row could take apart in two ways. Each holds another one where a body would be."""

from __future__ import annotations

SMUGGLED = b"GET /v2/lab/smuggled/tags/list HTTP/1.1\r\nHost: m\r\n\r\n"
_CHUNKED = b"0\r\n\r\n" + SMUGGLED


def _request(method: bytes, *fields: bytes, body: bytes = _CHUNKED) -> bytes:
    return method + b" /v2/ HTTP/1.1\r\nHost: m\r\n" + b"".join(one + b"\r\n" for one in fields) + b"\r\n" + body


_CODINGS = {
    "TE": b"Transfer-Encoding: chunked",
    "TE without space": b"Transfer-Encoding:chunked",
    "TE after tab": b"Transfer-Encoding:\tchunked",
    "TE before colon space": b"Transfer-Encoding : chunked",
    "TE before colon tab": b"Transfer-Encoding\t: chunked",
    "TE in capitals": b"TRANSFER-ENCODING: CHUNKED",
    "TE of another coding": b"Transfer-Encoding: xchunked",
    "TE identity": b"Transfer-Encoding: identity",
    "TE chunked, identity": b"Transfer-Encoding: chunked, identity",
    "TE identity, chunked": b"Transfer-Encoding: identity, chunked",
    "TE gzip, chunked": b"Transfer-Encoding: gzip, chunked",
    "TE chunked, chunked": b"Transfer-Encoding: chunked, chunked",
    "TE chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "TE chunked and nothing": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: ",
    "TE chunked then x": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    "TE empty": b"Transfer-Encoding:",
    "TE comma": b"Transfer-Encoding: ,chunked",
    "TE trailing comma": b"Transfer-Encoding: chunked,",
    "TE with parameter": b"Transfer-Encoding: chunked;q=1",
    "TE in quotes": b'Transfer-Encoding: "chunked"',
    "TE after vertical tab": b"Transfer-Encoding: \x0bchunked",
    "TE after form feed": b"Transfer-Encoding: \x0cchunked",
    "TE before NUL": b"Transfer-Encoding: chunked\x00",
    "TE after 0xa0": b"Transfer-Encoding: \xa0chunked",
    "TE folded": b"Transfer-Encoding:\r\n chunked",
    "TE folded after": b"Transfer-Encoding: chunked\r\n x",
    "TE behind a bare LF": b"X: y\nTransfer-Encoding: chunked",
    "TE behind a bare CR": b"X: y\rTransfer-Encoding: chunked",
    "TE behind a folded line": b"X: y\r\n Transfer-Encoding: chunked",
    "TE with a leading space": b" Transfer-Encoding: chunked",
    "TE with a line break in its name": b"Transfer-\r\nEncoding: chunked",
    "TE with NUL in its name": b"Transfer-Encoding\x00: chunked",
    "TE with a colon in front": b":Transfer-Encoding: chunked",
}
_LENGTHS = {
    "CL twice": b"Content-Length: 5\r\nContent-Length: 56",
    "CL twice alike": b"Content-Length: 5\r\nContent-Length: 5",
    "CL a list": b"Content-Length: 5, 5",
    "CL a list that differs": b"Content-Length: 5,56",
    "CL plus": b"Content-Length: +5",
    "CL minus": b"Content-Length: -5",
    "CL hexadecimal": b"Content-Length: 0x5",
    "CL exponent": b"Content-Length: 5e0",
    "CL float": b"Content-Length: 5.0",
    "CL underscore": b"Content-Length: 0_5",
    "CL two words": b"Content-Length: 5 6",
    "CL empty": b"Content-Length:",
    "CL blank": b"Content-Length:  ",
    "CL Arabic digits": "Content-Length: \u0665".encode(),
    "CL superscript": b"Content-Length: \xb2",
    "CL of 30 digits": b"Content-Length: " + b"9" * 30,
    "CL before colon space": b"Content-Length : 5",
    "CL before NUL": b"Content-Length: 5\x00",
    "CL after vertical tab": b"Content-Length: \x0b5",
    "CL folded": b"Content-Length:\r\n 5",
    "CL behind a bare LF": b"X: y\nContent-Length: 5",
    "CL behind a bare CR": b"X: y\rContent-Length: 5",
    "CL with a blank in its name": b"Content Length: 5",
}
_CHUNKS = {
    "chunk 0x": b"0x0\r\n\r\n",
    "chunk minus": b"-0\r\n\r\n",
    "chunk plus": b"+0\r\n\r\n",
    "chunk too large": b"fffffffffffffffff\r\n",
    "chunk without size": b"\r\n\r\n",
    "chunk size after blank": b" 0\r\n\r\n",
    "chunk size before blank": b"0 \r\n\r\n",
    "chunk ended by LF": b"0\n\n",
    "chunk size ended by LF": b"1\nx\r\n0\r\n\r\n",
    "chunk size ended by CR": b"1\rx\r\n0\r\n\r\n",
    "chunk data longer": b"1\r\nxx\r\n0\r\n\r\n",
    "chunk data ended by LF": b"1\r\nx\n0\r\n\r\n",
    "chunk extension with LF": b"1;a\nb\r\nx\r\n0\r\n\r\n",
    "chunk extension with CR": b"1;a\rb\r\nx\r\n0\r\n\r\n",
    "chunk extension endless": b"1;" + b"a" * 20_000 + b"\r\nx\r\n0\r\n\r\n",
    "trailer that is a length": b"0\r\nContent-Length: 56\r\n\r\n",
    "trailer without colon": b"0\r\nx\r\n\r\n",
    "trailer ended by LF": b"0\r\nX: y\n\r\n",
}

# name -> bytes: every way in which a body's end can be made doubtful, behind GET and behind POST.
CORPUS: dict[str, bytes] = {}
for _method in (b"GET", b"POST"):
    _of = _method.decode()
    for _name, _coding in _CODINGS.items():
        CORPUS[f"{_of} CL + {_name}"] = _request(_method, b"Content-Length: 5", _coding)
        CORPUS[f"{_of} {_name} + CL"] = _request(_method, _coding, b"Content-Length: 5")
    for _name, _length in _LENGTHS.items():
        CORPUS[f"{_of} {_name}"] = _request(_method, _length)
    for _name, _chunk in _CHUNKS.items():
        CORPUS[f"{_of} {_name}"] = _request(_method, b"Transfer-Encoding: chunked", body=_chunk + SMUGGLED)
CORPUS["HTTP/1.0 with TE"] = _request(b"GET", b"Transfer-Encoding: chunked").replace(b"1.1", b"1.0", 1)
CORPUS["HEAD with a body"] = _request(b"HEAD", b"Content-Length: 5")
CORPUS["GET with a body"] = _request(b"GET", b"Content-Length: 5")
CORPUS["upgrade to h2c"] = _request(
    b"GET", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk", b"Content-Length: 5"
)
