"""What is read without the parser is read as the parser reads it, or not at all."""

from __future__ import annotations

import weakref
from random import Random

import http_messages
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from block.http import client_connection, request_reader
from block.http.limits import Limits
from block.http.message import MOST_MADE, Headers, Request, RequestHead, ResponseHead
from block.http.origin import Origin
from block.http.plain import MOST_HEAD_BYTES, plain_answer, plain_request
from block.http.request_reader import RequestReader

MOST = 2**20
REQUEST = b"POST /v1/chat?a=b HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}"
ANSWER = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\n{}"


class _Answer:
    """What a connection's receiver has heard."""

    def __init__(self) -> None:
        self.begun: ResponseHead | None = None
        self.data = b""
        self.ended = False

    def whole(self, head: ResponseHead, body: bytes) -> None:
        raise AssertionError("nothing is read without the parser")

    def head(self, head: ResponseHead) -> None:
        self.begun = head

    def body(self, data: bytes, *, last: bool) -> None:
        self.data += data

    def complete(self) -> None:
        self.ended = True

    def failed(self, error: Exception) -> None:
        self.ended = False


class _Wire:
    """A transport, and the home of its connection."""

    rested = False
    loop = None

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


_Read = tuple[bytes | int, bytes, Headers, bytes]
"""A message: what its first line tells, its headers and its body."""


def plainly_requested(data: bytes) -> _Read | None:
    """The request as it is read without the parser."""
    request = plain_request(data, MOST, MOST)
    return None if request is None else _read(request)


def plainly_answered(data: bytes) -> _Read | None:
    """The answer as it is read without the parser."""
    answer = plain_answer(data)
    return None if answer is None else (answer[0].status, b"", answer[0].headers, answer[1])


def _read(request: Request) -> _Read:
    return request.method, request.target, request.headers, request.body


def parsed_request(data: bytes, monkeypatch: pytest.MonkeyPatch) -> _Read | None:
    """The one request that the parser finds, if it leaves the connection open and nothing behind."""
    with monkeypatch.context() as patch:
        patch.setattr(request_reader, "plain_request", lambda *_: None)
        reader = RequestReader(Limits())
        arrivals = reader.feed(data)
    whole = len(arrivals) == 1 and arrivals[0].keep_alive and arrivals[0].error is None
    return _read(arrivals[0].request) if whole and not (reader.in_head or reader.in_body) else None


def parsed_answer(data: bytes, monkeypatch: pytest.MonkeyPatch) -> _Read | None:
    """The same for answers."""
    wire, answer = _Wire(), _Answer()
    with monkeypatch.context() as patch:
        patch.setattr(client_connection, "plain_answer", lambda _: None)
        connection = client_connection.ClientConnection(wire, Origin("h", 80))
        connection.connection_made(wire)
        connection.send(answer, b"")
        connection.data_received(data)
    if answer.begun is None or not (answer.ended and wire.rested):
        return None
    return answer.begun.status, b"", answer.begun.headers, answer.data


def test_plain_messages_are_read() -> None:
    headers = [(b"host", b"h"), (b"connection", b"keep-alive")]
    assert plainly_requested(REQUEST) == (b"POST", b"/v1/chat?a=b", headers, b"{}")
    assert plainly_answered(ANSWER) == (200, b"", [(b"server", b"x")], b"{}")


def test_messages_that_begin_alike_share_a_head_and_what_is_made_of_it() -> None:
    longer = REQUEST.replace(b"Length: 2", b"Length: 4").replace(b"{}", b"{  }")
    first, second = plain_request(REQUEST, MOST, MOST), plain_request(longer, MOST, MOST)
    assert first is not None
    assert second is not None
    assert first.head is second.head
    assert (first.body, second.body) == (b"{}", b"{  }")
    made: list[object] = []
    for request in (first, second):
        request.head.once(made.append)
    assert made == [first.head]


def test_a_head_that_is_remembered_does_not_keep_whoever_comes_and_goes() -> None:
    class Maker:
        def make(self, head: RequestHead) -> bytes:
            return head.path

    request = plain_request(REQUEST, MOST, MOST)
    assert request is not None
    known: list[weakref.ref[Maker]] = []
    for _ in range(3 * MOST_MADE):
        maker = Maker()
        known.append(weakref.ref(maker))
        assert request.head.once(maker.make) == b"/v1/chat"
        del maker
    assert sum(one() is not None for one in known) <= MOST_MADE


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
    request = plainly_requested(data)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert request is None or request == parsed_request(data, monkeypatch)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=1500, deadline=None)
def test_answers_are_read_as_the_parser_reads_them(seed: int, damaged: bool) -> None:
    source = Random(seed)
    data = http_messages.response(source)
    data = http_messages.mutated(source, data) if damaged else data
    answer = plainly_answered(data)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert answer is None or answer == parsed_answer(data, monkeypatch)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_small_damage_to_a_plain_request_never_splits_the_two(seed: int) -> None:
    source = Random(seed)
    data = http_messages.mutated(source, REQUEST)
    request = plainly_requested(data)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert request is None or request == parsed_request(data, monkeypatch)
