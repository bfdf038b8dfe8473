"""Attempts whose two sides end in every order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from block.errors import TransportError
from block.http.client_connection import ClientConnection
from block.http.exchange import Exchange
from block.http.message import Request, RequestHead
from block.http.origin import Origin
from global_scheduler.answer import Answer, Failure, Stream, Whole
from global_scheduler.attempt import Attempt

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; x\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
OK, NOT_FOUND = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 404 Not Found\r\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\n"


class Transport:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.calls.append(name)

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0


class Home:
    rested = left = 0

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    def rest(self, _: ClientConnection) -> None:
        self.rested += 1

    def leave(self, _: ClientConnection) -> None:
        self.left += 1


class Wire:
    def __init__(self) -> None:
        self.sent = b""
        self.closes: bool | None = None

    def send(self, data: bytes) -> None:
        self.sent += data

    def ended(self, *, closes: bool) -> None:
        self.closes = closes

    def cut(self) -> None:
        raise AssertionError("nothing is cut here")


class Bench:
    """One attempt between an instance's bytes and a client's; its sender."""

    def __init__(self, *, at_once: bool = True) -> None:
        """``at_once``: a stream is passed on as soon as it begins."""
        self.home, self.transport, self.wire = Home(), Transport(), Wire()
        self.connection = ClientConnection(self.home, Origin("h", 1))
        self.connection.connection_made(self.transport)
        self.answers: list[Answer] = []
        self.ends: list[Exception | None] = []
        self.attempt = Attempt(self, self.connection, deadline_s=1e9, idle_s=5.0)
        self.connection.send(self.attempt, b"")
        self.exchange = Exchange(
            self.wire, Request(RequestHead(b"POST", b"/", [])), closes=False, chunked=True
        )
        self._at_once = at_once

    def receive(self, *parts: bytes) -> None:
        for part in parts:
            self.connection.data_received(part)

    def answered(self, answer: Answer) -> None:
        self.answers.append(answer)
        if self._at_once and isinstance(answer, Stream):
            self.pass_on()

    def ended(self, error: Exception | None) -> None:
        self.ends.append(error)

    def pass_on(self) -> None:
        assert isinstance(self.answers[-1], Stream)
        self.attempt.pass_on(OK, self.exchange)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_events_that_came_together_go_out_in_one_chunk():
    bench = Bench()
    bench.receive(HEAD + chunk(b"data: 1\n\n"))
    bench.receive(chunk(b"data: 2\n\n") + chunk(b"data: 3\n\n") + chunk(b"data: 4"))
    bench.receive(chunk(b"\n\n") + END)
    body = bench.wire.sent.partition(b"\r\n\r\n")[2]
    parts = [b"data: 1\n\n", b"data: 2\n\ndata: 3\n\n", b"data: 4\n\n"]
    assert body == b"".join(map(chunk, parts)) + END
    assert (bench.home.rested, bench.wire.closes) == (1, False)
    assert (len(bench.answers), bench.ends) == (1, [None])


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("first", [b"data: 1\n\n", b"data: 1"])
async def test_a_stream_that_comes_whole_is_passed_on_whole(first: bytes, at_once: bool):
    bench = Bench(at_once=at_once)
    bench.receive(HEAD + chunk(first) + END)
    if not at_once:
        bench.pass_on()
    assert bench.wire.sent.endswith(b"\r\n\r\n" + chunk(first) + END)
    assert (bench.home.rested, len(bench.answers), bench.ends) == (1, 1, [None])


async def test_a_stream_that_ends_before_it_is_passed_on_is_passed_on_whole():
    bench = Bench(at_once=False)
    bench.receive(HEAD + chunk(b"data: 1\n\n"), chunk(b"data: 2\n\nda") + END)
    bench.pass_on()
    assert bench.wire.sent.endswith(chunk(b"data: 1\n\ndata: 2\n\n") + chunk(b"da") + END)
    assert bench.ends == [None]


@pytest.mark.parametrize("early", [True, False])
async def test_a_stream_that_breaks_ends_with_only_whole_events_passed_on(early: bool):
    bench = Bench(at_once=not early)
    bench.receive(HEAD + chunk(b"data: 1\n\ndat"))
    if early:
        bench.connection.connection_lost(ConnectionResetError())
        assert bench.ends == []
        bench.pass_on()
    else:
        bench.connection.connection_lost(None)
    (error,) = bench.ends
    assert isinstance(error, TransportError)
    assert bench.wire.sent.endswith(chunk(b"data: 1\n\n"))
    assert bench.exchange.open


async def test_a_stream_that_stalls_ends_but_not_while_it_is_the_client_who_does_not_read():
    bench = Bench()
    bench.receive(HEAD + chunk(b"data: 1\n\n"))
    loop = asyncio.get_running_loop()
    assert bench.attempt.deadline_s == pytest.approx(loop.time() + 5, abs=1)
    bench.attempt.pause()
    assert bench.attempt.deadline_s > loop.time() + 1e6
    bench.attempt.resume()
    assert bench.transport.calls.count("pause_reading") == bench.transport.calls.count("resume_reading") == 1
    bench.attempt.expire()
    assert isinstance(bench.ends[0], TimeoutError)
    assert bench.transport.closed


async def test_nothing_touches_a_connection_that_is_gone_and_nobody_is_told():
    bench = Bench()
    bench.receive(HEAD + chunk(b"data: 1\n\n"))
    bench.attempt.pause()
    bench.attempt.drop()
    calls = list(bench.transport.calls)
    for late in (bench.attempt.resume, bench.attempt.pause, bench.attempt.expire, bench.attempt.drop):
        late()
    bench.connection.connection_lost(None)
    assert bench.transport.calls == calls
    assert bench.ends == []


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Whole(200, OK, b"hi")),
        (b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nhi", Whole(404, NOT_FOUND, b"hi")),
        (
            b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            Failure("status", Whole(503, UNAVAILABLE, b"")),
        ),
        (HEAD + END, Failure("empty")),
        (b"garbage\r\n\r\n", Failure("reset")),
    ],
)
async def test_what_is_no_stream_is_an_answer_or_a_failure(received: bytes, expected: Whole | Failure):
    bench = Bench()
    bench.receive(received)
    bench.connection.connection_lost(None)
    assert bench.answers == [expected]
    assert bench.ends == []


async def test_an_instance_given_up_is_no_timeout():
    late, down = Bench(), Bench()
    late.attempt.expire()
    down.attempt.give_up()
    assert (late.answers, down.answers) == ([Failure("timeout")], [Failure("reset")])
