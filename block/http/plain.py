"""Messages as nearly all are: whole in one read, framed by a length, with nothing unusual in the head.

They are taken apart here at a fraction of the parser's cost. Whatever is not certainly understood as the
parser would understand it gives None, and is left to the parser from its first byte.
"""

from __future__ import annotations

import re
from functools import lru_cache

from block.http.message import BODILESS, Headers, Request

MOST_HEAD_BYTES = 8192
_REQUEST_LINE = re.compile(rb"(GET|POST) (/[A-Za-z0-9\-._~/?&=%+,:@]*) HTTP/1\.1")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) [A-Za-z \-]*")
_HEADER = re.compile(rb"([A-Za-z0-9\-_]+):[ \t]*((?:[!-~](?:[ \t!-~]*[!-~])?)?)[ \t]*")
_LENGTH = re.compile(rb"[0-9]{1,9}")
_UNUSUAL = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"proxy-connection"})
"""Headers that bear on how to read on; so does any ``connection`` but ``keep-alive``."""
_LINES = 4096
"""Lines remembered: nearly all come again with the next message."""


def plain_request(data: bytes, max_head_bytes: int, max_body_bytes: int) -> Request | None:
    """The one request that ``data`` is; it names its host, and leaves the connection open."""
    end = data.find(b"\r\n\r\n", 0, MOST_HEAD_BYTES)
    if end < 0 or end * 2 > max_head_bytes:
        return None
    first, *lines = data[:end].split(b"\r\n")
    start, headers = _request_line(first), _headers(lines)
    if start is None or headers is None:
        return None
    named = dict(headers)
    if len(named) < len(headers) or b"host" not in named:
        return None
    body = data[end + 4 :]
    if len(body) > max_body_bytes or len(body) != int(named.get(b"content-length", b"0")):
        return None
    return Request(*start, headers, body)


def plain_answer(data: bytes) -> tuple[int, Headers, bytes] | None:
    """The one answer that ``data`` is: status, headers, body; it leaves the connection open."""
    end = data.find(b"\r\n\r\n", 0, MOST_HEAD_BYTES)
    if end < 0:
        return None
    first, *lines = data[:end].split(b"\r\n")
    status, headers = _status(first), _headers(lines)
    if status is None or headers is None:
        return None
    named = dict(headers)
    if len(named) < len(headers) or b"content-length" not in named:
        return None
    body = data[end + 4 :]
    return (status, headers, body) if len(body) == int(named[b"content-length"]) else None


def _headers(lines: list[bytes]) -> Headers | None:
    headers = []
    for line in lines:
        header = _header(line)
        if header is None:
            return None
        headers.append(header)
    return headers


@lru_cache(_LINES)
def _request_line(line: bytes) -> tuple[bytes, bytes] | None:
    matched = _REQUEST_LINE.fullmatch(line)
    return None if matched is None else (matched[1], matched[2])


@lru_cache(_LINES)
def _status(line: bytes) -> int | None:
    matched = _STATUS_LINE.fullmatch(line)
    status = 0 if matched is None else int(matched[1])
    return None if status == 0 or status in BODILESS else status


@lru_cache(_LINES)
def _header(line: bytes) -> tuple[bytes, bytes] | None:
    """None if the line is unusual, or says something unusual."""
    matched = _HEADER.fullmatch(line)
    if matched is None:
        return None
    name, value = matched[1].lower(), matched[2]
    if name in _UNUSUAL or (name == b"connection" and value.lower() != b"keep-alive"):
        return None
    if name == b"content-length" and not _LENGTH.fullmatch(value):
        return None
    return name, value
