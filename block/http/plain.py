"""Messages as nearly all are: whole in one read, framed by a length, with nothing unusual in the head.

They are taken apart here at a fraction of the parser's cost, not least because a peer's heads are equal
but for their lengths, and what such a head says is remembered. Whatever is not certainly understood as the
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
_UNUSUAL = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"proxy-connection", b"content-length"})
"""Headers that bear on how to read on, or a second length; so does any ``connection`` but ``keep-alive``."""
_LENGTH = b"\r\ncontent-length: "
_LENGTH_TOO = b"\r\nContent-Length: "
_MOST_DIGITS = 9
_HEADS, _LINES = 512, 4096
"""Remembered of either kind of message."""

_Sides = tuple[Headers, Headers]
"""The headers before the length's, and those behind it."""


def plain_request(data: bytes, max_head_bytes: int, max_body_bytes: int) -> Request | None:
    """The one request that ``data`` is; it names its host, and leaves the connection open."""
    end = data.find(b"\r\n\r\n", 0, MOST_HEAD_BYTES)
    if end < 0 or end * 2 > max_head_bytes:
        return None
    at, stop = _length_line(data, end)
    known = _request_head(data[:at], data[stop:end])
    if known is None:
        return None
    start, (before, after) = known
    body = data[end + 4 :]
    digits = data[at + len(_LENGTH) : stop]
    if not digits:
        return None if body else Request(*start, [*before, *after])
    if not _tells(digits, len(body)) or len(body) > max_body_bytes:
        return None
    return Request(*start, [*before, (b"content-length", digits), *after], body)


def plain_answer(data: bytes) -> tuple[int, Headers, bytes] | None:
    """The one answer that ``data`` is: status, headers, body; it leaves the connection open."""
    end = data.find(b"\r\n\r\n", 0, MOST_HEAD_BYTES)
    if end < 0:
        return None
    at, stop = _length_line(data, end)
    known = _answer_head(data[:at], data[stop:end])
    if known is None:
        return None
    status, (before, after) = known
    body = data[end + 4 :]
    digits = data[at + len(_LENGTH) : stop]
    if not _tells(digits, len(body)):
        return None
    return status, [*before, (b"content-length", digits), *after], body


def _length_line(data: bytes, end: int) -> tuple[int, int]:
    """Where the line with the length begins and ends; the head's end, if there is none."""
    at = data.find(_LENGTH, 0, end)
    if at < 0:
        at = data.find(_LENGTH_TOO, 0, end)
    return (end, end) if at < 0 else (at, data.find(b"\r\n", at + len(_LENGTH)))


def _tells(digits: bytes, length: int) -> bool:
    return digits.isdigit() and len(digits) <= _MOST_DIGITS and int(digits) == length


@lru_cache(_HEADS)
def _request_head(before: bytes, after: bytes) -> tuple[tuple[bytes, bytes], _Sides] | None:
    first, _, lines = before.partition(b"\r\n")
    matched, sides = _REQUEST_LINE.fullmatch(first), _sides(lines, after)
    if matched is None or sides is None or b"host" not in dict(sides[0] + sides[1]):
        return None
    return (matched[1], matched[2]), sides


@lru_cache(_HEADS)
def _answer_head(before: bytes, after: bytes) -> tuple[int, _Sides] | None:
    first, _, lines = before.partition(b"\r\n")
    matched, sides = _STATUS_LINE.fullmatch(first), _sides(lines, after)
    if matched is None or sides is None or int(matched[1]) in BODILESS:
        return None
    return int(matched[1]), sides


def _sides(before: bytes, after: bytes) -> _Sides | None:
    """None if anything is unusual, or given twice."""
    first = [_header(line) for line in before.split(b"\r\n")] if before else []
    second = [_header(line) for line in after.split(b"\r\n")[1:]]
    headers = [header for header in (*first, *second) if header is not None]
    if len(headers) < len(first) + len(second) or len(dict(headers)) < len(headers):
        return None
    return headers[: len(first)], headers[len(first) :]


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
