"""Messages as nearly all are: whole in one read, framed by a length, with nothing unusual in the head.

They are taken apart here at a fraction of the parser's cost, not least because a peer's heads are equal
but for their lengths, and what such a head says is remembered. Whatever is not certainly understood as the
parser would understand it gives None, and is left to the parser from its first byte.
"""

from __future__ import annotations

import re
from functools import lru_cache

from block.http.message import BODILESS, Headers, Request, RequestHead, ResponseHead

MOST_HEAD_BYTES = 8192
_REQUEST_LINE = re.compile(rb"(GET|POST) (/[A-Za-z0-9\-._~/?&=%+,:@]*) HTTP/1\.1")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) [A-Za-z \-]*")
_HEADER = re.compile(rb"([A-Za-z0-9\-_]+):[ \t]*((?:[!-~](?:[ \t!-~]*[!-~])?)?)[ \t]*")
_UNUSUAL = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"proxy-connection", b"content-length"})
"""Headers that bear on how to read on, or a second length; so does any ``connection`` but ``keep-alive``."""
_LENGTH = b"\r\ncontent-length: "
_LENGTH_TOO = b"\r\nContent-Length: "
_HEADS, _LINES = 512, 4096
"""Remembered of either kind of message."""


def plain_request(data: bytes, max_head_bytes: int, max_body_bytes: int) -> Request | None:
    """The one request that ``data`` is; it names its host, and leaves the connection open."""
    end = data.find(b"\r\n\r\n", 0, MOST_HEAD_BYTES)
    if end < 0 or end * 2 > max_head_bytes:
        return None
    at, stop = _length_line(data, end)
    head = _request_head(data[:at], data[stop:end])
    if head is None:
        return None
    body = data[end + 4 :]
    digits = data[at + len(_LENGTH) : stop]
    if not digits:
        return None if body else Request(head)
    if digits != b"%d" % len(body) or len(body) > max_body_bytes:
        return None
    return Request(head, body)


def plain_answer(data: bytes) -> tuple[ResponseHead, bytes] | None:
    """The one answer that ``data`` is: its head and its body; it leaves the connection open."""
    end = data.find(b"\r\n\r\n", 0, MOST_HEAD_BYTES)
    if end < 0:
        return None
    at, stop = _length_line(data, end)
    head = _answer_head(data[:at], data[stop:end])
    if head is None:
        return None
    body = data[end + 4 :]
    return (head, body) if data[at + len(_LENGTH) : stop] == b"%d" % len(body) else None


def _length_line(data: bytes, end: int) -> tuple[int, int]:
    """Where the line with the length begins and ends; the head's end, if there is none."""
    at = data.find(_LENGTH, 0, end)
    if at < 0:
        at = data.find(_LENGTH_TOO, 0, end)
    return (end, end) if at < 0 else (at, data.find(b"\r\n", at + len(_LENGTH)))


@lru_cache(_HEADS)
def _request_head(before: bytes, after: bytes) -> RequestHead | None:
    first, _, lines = before.partition(b"\r\n")
    matched, headers = _REQUEST_LINE.fullmatch(first), _headers(lines, after)
    if matched is None or headers is None or b"host" not in dict(headers):
        return None
    return RequestHead(matched[1], matched[2], headers)


@lru_cache(_HEADS)
def _answer_head(before: bytes, after: bytes) -> ResponseHead | None:
    first, _, lines = before.partition(b"\r\n")
    matched, headers = _STATUS_LINE.fullmatch(first), _headers(lines, after)
    if matched is None or headers is None or int(matched[1]) in BODILESS:
        return None
    return ResponseHead(int(matched[1]), headers)


def _headers(before: bytes, after: bytes) -> Headers | None:
    """Those before the length and those behind it; None if anything is unusual, or given twice."""
    lines = [*(before.split(b"\r\n") if before else ()), *after.split(b"\r\n")[1:]]
    headers = [header for line in lines if (header := _header(line)) is not None]
    return headers if len(dict(headers)) == len(lines) else None


@lru_cache(_LINES)
def _header(line: bytes) -> tuple[bytes, bytes] | None:
    """None if the line is unusual, or says something unusual."""
    matched = _HEADER.fullmatch(line)
    if matched is None:
        return None
    name, value = matched[1].lower(), matched[2]
    if name in _UNUSUAL or (name == b"connection" and value.lower() != b"keep-alive"):
        return None
    return name, value
