"""What is read without the parser is read as the parser reads it, or not at all."""

from __future__ import annotations

from random import Random

import http_messages
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from block.http import client_connection, request_reader
from block.http.limits import Limits
from block.http.message import Headers, Request
from block.http.origin import Origin
from block.http.plain import MOST_HEAD_BYTES, plain_answer, plain_request
from block.http.request_reader import RequestReader

MOST = 2**20
REQUEST = b"POST /v1/chat?a=b HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}"
ANSWER = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\n{}"


class _Answer:
    """What a connection's receiver has heard."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.data = b""
        self.whole = False

    def head(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers

    def body(self, data: bytes, *, last: bool) -> None:
        self.data += data

    def complete(self) -> None:
        self.whole = True

    def failed(self, error: Exception) -> None:
        self.whole = False


class _Wire:
    """A transport, and the home of its connection."""

    rested = False

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def leave(self, connection: object) -> None: ...
    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def rest(self, connection: object) -> None:
        self.rested = True


def parsed_request(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Request | None:
    """The one request that the parser finds, if it leaves the connection open and nothing behind."""
    with monkeypatch.context() as patch:
        patch.setattr(request_reader, "plain_request", lambda *_: None)
        reader = RequestReader(Limits())
        arrivals = reader.feed(data)
    whole = len(arrivals) == 1 and arrivals[0].keep_alive and arrivals[0].error is None
    return arrivals[0].request if whole and not (reader.in_head or reader.in_body) else None


def parsed_answer(data: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Headers, bytes] | None:
    """The same for answers."""
    wire, answer = _Wire(), _Answer()
    with monkeypatch.context() as patch:
        patch.setattr(client_connection, "plain_answer", lambda _: None)
        connection = client_connection.ClientConnection(wire, Origin("h", 80))
        connection.connection_made(wire)
        connection.send(answer, b"")
        connection.data_received(data)
    return (answer.status, answer.headers, answer.data) if answer.whole and wire.rested else None


def test_plain_messages_are_read() -> None:
    request = plain_request(REQUEST, MOST, MOST)
    assert request is not None
    assert (request.method, request.path, request.body) == (b"POST", b"/v1/chat", b"{}")
    assert request.headers[1] == (b"connection", b"keep-alive")
    assert plain_answer(ANSWER) == (200, [(b"server", b"x"), (b"content-length", b"2")], b"{}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"POST", b"CONNECT"),
        (b"keep-alive", b"close"),
        (b"Connection: keep-alive", b"Expect: 100-continue"),
        (b"Connection: keep-alive", b"Transfer-Encoding: chunked"),
        (b"Connection: keep-alive", b"Upgrade: h2c"),
        (b"Connection: keep-alive", b"Host: other"),
        (b"Connection: keep-alive", b"Content-Length: 2"),
        (b"Connection: keep-alive", b" folded"),
        (b"Connection: keep-alive", b"X : a"),
        (b"Host: h\r\n", b""),
        (b"Host: h\r\n", b"Host: h\n"),
        (b"Content-Length: 2", b"Content-Length: 3"),
        (b"Content-Length: 2", b"Content-Length: 1"),
        (b"Content-Length: 2", b"Content-Length: +2"),
        (b"Content-Length: 2", b"Content-Length:"),
        (b"Content-Length: 2", b"Content-Length: 0000000002"),
        (b"/v1/chat", b"http://h/v1/chat"),
    ],
)
def test_what_is_unusual_is_left_to_the_parser(old: bytes, new: bytes) -> None:
    assert old in REQUEST
    assert plain_request(REQUEST.replace(old, new), MOST, MOST) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"200 OK", b"100 Continue"),
        (b"200 OK", b"204 No Content"),
        (b"200 OK", b"304 Not Modified"),
        (b"Server: x", b"Connection: close"),
        (b"Server: x", b"Transfer-Encoding: chunked"),
        (b"Content-Length: 2\r\n", b""),
        (b"{}", b"{}{}"),
        (b"{}", b"{"),
    ],
)
def test_unusual_answers_are_left_to_the_parser(old: bytes, new: bytes) -> None:
    assert old in ANSWER
    assert plain_answer(ANSWER.replace(old, new)) is None


def test_bounds_are_the_parsers_business() -> None:
    assert plain_request(REQUEST, len(REQUEST), MOST) is None
    assert plain_request(REQUEST, MOST, 1) is None
    long = REQUEST.replace(b"Host: h", b"Host: h\r\nX: " + b"x" * MOST_HEAD_BYTES)
    assert plain_request(long, MOST, MOST) is None


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=1500, deadline=None)
def test_requests_are_read_as_the_parser_reads_them(seed: int, damaged: bool) -> None:
    source = Random(seed)
    data = http_messages.request(source)
    data = http_messages.mutated(source, data) if damaged else data
    request = plain_request(data, MOST, MOST)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert request is None or request == parsed_request(data, monkeypatch)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=1500, deadline=None)
def test_answers_are_read_as_the_parser_reads_them(seed: int, damaged: bool) -> None:
    source = Random(seed)
    data = http_messages.response(source)
    data = http_messages.mutated(source, data) if damaged else data
    answer = plain_answer(data)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert answer is None or answer == parsed_answer(data, monkeypatch)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_small_damage_to_a_plain_request_never_splits_the_two(seed: int) -> None:
    source = Random(seed)
    data = http_messages.mutated(source, REQUEST)
    request = plain_request(data, MOST, MOST)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert request is None or request == parsed_request(data, monkeypatch)
