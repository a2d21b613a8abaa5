"""How the scripted registry puts an answer on the wire, well or badly."""

from __future__ import annotations

import asyncio
import gzip
import math
import socket
import struct

from tests.peers import faults
from tests.peers.answers import Answer, Recorded

_PIECE = 1 << 20


def cut(writer: asyncio.StreamWriter, rst: bool) -> None:
    sock = writer.get_extra_info("socket")
    if rst and sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


async def send(writer: asyncio.StreamWriter, record: Recorded, answer: Answer, fault: faults.Fault | None) -> bool:
    body, chunked, limit = memoryview(answer.body), False, None
    keep = record.headers.get("connection", "").lower() != "close"
    if isinstance(fault, faults.WithHeaders):
        for name, value in fault.headers.items():
            answer.set(name, value)
    elif isinstance(fault, faults.Gzip):
        body = memoryview(gzip.compress(bytes(body)))
        answer.set("Content-Encoding", "gzip")
    elif isinstance(fault, faults.FlipBit):
        changed = bytearray(body)
        changed[fault.at % len(changed)] ^= 1
        body = memoryview(bytes(changed))
    length: int | None = len(body)
    if isinstance(fault, faults.LieLength):
        length, keep = len(body) + fault.by, False
    elif isinstance(fault, faults.NoLength):
        length, keep, chunked, limit = None, False, fault.chunked, fault.at
    record.status = answer.status
    lines = [f"HTTP/1.1 {answer.status} Scripted", *(f"{key}: {value}" for key, value in answer.headers)]
    if length is not None and answer.status != 304:
        lines.append(f"Content-Length: {length}")
    elif chunked:
        lines.append("Transfer-Encoding: chunked")
    if not keep:
        lines.append("Connection: close")
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    if record.method != "HEAD":
        keep = await _send_body(writer, record, body, fault, chunked, limit) and keep
    await writer.drain()
    if not keep:
        cut(writer, rst=False)
    return keep


async def _send_body(
    writer: asyncio.StreamWriter,
    record: Recorded,
    body: memoryview,
    fault: faults.Fault | None,
    chunked: bool,
    limit: int | None,
) -> bool:
    async def put(piece: memoryview) -> None:
        if chunked and len(piece):
            writer.write(b"%x\r\n" % len(piece) + bytes(piece) + b"\r\n")
        else:
            writer.write(piece)
        record.sent += len(piece)
        await writer.drain()

    if limit is not None:
        body = body[:limit]
    match fault:
        case faults.Truncate(at, rst):
            await put(body[:at])
            if rst:
                await asyncio.sleep(0.05)  # so that what was sent arrives before the reset
            cut(writer, rst)
            return False
        case faults.Stall(at, seconds):
            await put(body[:at])
            # A body that has ended is complete: its client may send the next request, which must be heard.
            if len(body) > at or chunked:
                await asyncio.sleep(seconds if seconds < math.inf else 3600)
            body = body[at:]
        case faults.Drip(size, every):
            for start in range(0, len(body), size):
                await put(body[start : start + size])
                await asyncio.sleep(every)
            body = body[:0]
    for start in range(0, len(body), _PIECE):
        await put(body[start : start + _PIECE])
    if chunked:
        writer.write(b"0\r\n\r\n")
    return True
