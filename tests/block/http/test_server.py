"""The server over real sockets: what clients send, in every way they send it."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from contextlib import AsyncExitStack

import pytest
from http_service import serving
from raw_http import Echo, wire_to

from block.http.limits import Limits
from block.http.server import Server

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
QUICK = Limits(
    max_head_bytes=2048, max_body_bytes=1000, head_s=0.3, idle_s=0.3, keep_alive_s=0.4, pipelined=4
)


async def until(condition, within_s: float = 1.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def exchange(request: bytes, limits: Limits | None = None) -> tuple[bytes, Echo]:
    """All that comes back for ``request`` until the server closes."""
    echo = Echo(limits)
    async with serving(echo) as url, wire_to(url) as wire:
        await wire.send(request)
        return await wire.all(), echo


async def test_a_connection_serves_one_request_after_another():
    echo = Echo()
    async with serving(echo) as url, wire_to(url) as wire:
        for _ in range(3):
            await wire.send(GET)
            answer = await wire.until(b"/a ")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\nx-method: GET\r\ncontent-length: 3\r\n\r\n")
            assert b"connection" not in answer
    assert len(echo.requests) == 3


async def test_pipelined_requests_are_answered_in_their_order():
    count = 500  # far more than may wait: reading stops and goes on
    echo = Echo(QUICK)
    async with serving(echo) as url, wire_to(url) as wire:
        await wire.send(b"".join(GET.replace(b"/a", b"/%d." % index) for index in range(count)))
        answer = await wire.until(b"/%d. " % (count - 1))
    assert re.findall(rb"/(\d+)\. ", answer) == [b"%d" % index for index in range(count)]


async def test_a_pipelined_request_waits_for_the_answer_before_it():
    echo = Echo()
    async with serving(echo) as url, wire_to(url) as wire:
        await wire.send(GET.replace(b"/a", b"/hold") + GET)
        await asyncio.sleep(0.05)
        assert [request.target for request in echo.requests] == [b"/hold"]
        echo.held[0].respond(200, [], b"first ")
        answer = await wire.until(b"/a ")
    assert answer.index(b"first ") < answer.index(b"/a ")


async def test_a_request_may_come_byte_by_byte():
    request = b"POST /b HTTP/1.1\r\nHost: x\r\nX-Long: a b \r\nContent-Length: 4\r\n\r\nbody"
    echo = Echo()
    async with serving(echo) as url, wire_to(url) as wire:
        for byte in request:
            await wire.send(bytes([byte]))
        await wire.until(b"/b body")
    assert echo.requests[0].headers == [(b"host", b"x"), (b"x-long", b"a b")]


async def test_chunks_extensions_and_trailers():
    body = b"3;name=value\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: v\r\n\r\n"
    request = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n" + body
    echo = Echo()
    async with serving(echo) as url, wire_to(url) as wire:
        await wire.send(request + GET)
        await wire.until(b"/c abcde")
        await wire.until(b"/a ")
    assert b"x-trailer" not in dict(echo.requests[0].headers)


async def test_streams_are_chunked_for_those_who_know_chunks():
    echo = Echo()
    async with serving(echo) as url, wire_to(url) as wire:
        await wire.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await wire.until(b"0\r\n\r\n")
        assert b"transfer-encoding: chunked\r\n" in answer
        assert answer.endswith(b"\r\n\r\n4\r\none,\r\n4\r\ntwo,\r\n5\r\nthree\r\n0\r\n\r\n")
    old, _ = await exchange(b"GET /stream HTTP/1.0\r\n\r\n")
    assert b"chunked" not in old
    assert b"connection: close\r\n" in old
    assert old.endswith(b"\r\n\r\none,two,three")


async def test_the_connection_closes_when_the_client_says_so_or_is_old():
    for request in (GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), b"GET /a HTTP/1.0\r\n\r\n"):
        answer, _ = await exchange(request)
        assert b"connection: close\r\n" in answer
        assert answer.endswith(b"/a ")


async def test_what_follows_a_close_is_not_served():
    close = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer, echo = await exchange(close + GET)
    assert len(echo.requests) == 1
    assert echo.errors == []
    assert answer.count(b"HTTP/1.1") == 1


async def test_head_gets_the_head_alone():
    answer, _ = await exchange(b"HEAD /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"content-length: 3\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_a_client_that_waits_for_leave_gets_it():
    head = b"POST /d HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    echo = Echo()
    async with serving(echo) as url, wire_to(url) as wire:
        await wire.send(head)
        assert await wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(b"hi")
        assert (await wire.until(b"/d hi")).startswith(b"HTTP/1.1 200 ")
        await wire.send(head + b"hi")  # one that does not wait after all needs none
        assert (await wire.until(b"/d hi")).startswith(b"HTTP/1.1 200 ")


async def test_leave_is_not_given_before_the_answer_to_the_request_before():
    echo = Echo()
    async with serving(echo) as url, wire_to(url) as wire:
        await wire.send(GET.replace(b"/a", b"/hold"))
        await wire.send(b"POST /d HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        await asyncio.sleep(0.05)
        echo.held[0].respond(200, [], b"held")
        answer = await wire.until(b"100 Continue\r\n\r\n")
        assert answer.index(b"held") < answer.index(b"100 Continue")


async def test_a_body_that_is_too_large_is_refused_before_leave_is_given():
    head = b"POST /d HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n"
    answer, _ = await exchange(head, QUICK)
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"Content-Length: 1\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 1", 400),
        (b"Content-Length: 1\r\nContent-Length: 1", 400),
        (b"Content-Length: 1, 1", 400),
        (b"Content-Length: +1", 400),
        (b"Content-Length: -1", 400),
        (b"Content-Length: 0x1", 400),
        (b"Content-Length: 99999999999999999999999", 400),
        (b"Transfer-Encoding: gzip", 501),
        (b"Transfer-Encoding: gzip, chunked", 501),
        (b"Transfer-Encoding: chunked, chunked", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", 501),
        (b"Transfer-Encoding: xchunked", 501),
        (b"Transfer-Encoding : chunked", 400),
        (b"X: a\r\n folded", 400),
        (b"X: a\nY: b", 400),
        (b"X: a\rY: b", 400),
        (b"X: a\x00b", 400),
        (b": nameless", 400),
        (b"no colon", 400),
        (b"Host: again", 400),
        (b"Expect: miracles", 417),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 1", 501),
        (b"X: " + b"a" * 2048, 431),
        (b"\r\n".join(b"X%d: y" % index for index in range(300)), 431),
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused(lines: bytes, status: int):
    request = b"POST / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n0\r\n\r\n" % lines
    answer, echo = await exchange(request + GET, QUICK)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert echo.requests == []


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/1.2", 400),
        (b"GET /", 505),
        (b"GET  HTTP/1.1", 400),
        (b"GET /\x01 HTTP/1.1", 400),
        (b"G\xc3\x89T / HTTP/1.1", 400),
        (b"PRI * HTTP/2.0", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
    ],
)
async def test_odd_request_lines_are_refused(line: bytes, status: int):
    answer, _ = await exchange(line + b"\r\nHost: x\r\n\r\n", QUICK)
    assert answer.startswith(b"HTTP/1.1 %d " % status)


async def test_a_modern_request_without_a_host_is_refused_and_an_old_one_is_not():
    assert (await exchange(b"GET /a HTTP/1.1\r\n\r\n"))[0].startswith(b"HTTP/1.1 400 ")
    assert (await exchange(b"GET /a HTTP/1.0\r\n\r\n"))[0].startswith(b"HTTP/1.1 200 ")
    chunked_old = b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert (await exchange(chunked_old))[0].startswith(b"HTTP/1.1 400 ")


async def test_absolute_targets_are_understood():
    answer, echo = await exchange(b"GET http://h:1/p?q HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert (echo.requests[0].path, echo.requests[0].head.relative) == (b"/p", b"/p?q")


async def test_a_good_request_is_answered_before_the_bad_one_behind_it():
    answer, echo = await exchange(GET + b"nonsense\r\n\r\n")
    assert [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", answer)] == [200, 400]
    assert len(echo.requests) == 1


async def test_a_refused_client_can_read_why_while_it_is_still_sending():
    """Closing at once would reset the connection under its feet."""
    echo = Echo(QUICK)
    async with serving(echo) as url, wire_to(url) as wire:
        await wire.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        await wire.send(*[b"x" * 10_000] * 20, pause_s=0.005)
        assert (await wire.all()).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("start", "answer"),
    [
        (b"", b""),
        (b"GET / HT", b"HTTP/1.1 408 "),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", b"HTTP/1.1 408 "),
        (GET, b"HTTP/1.1 200 "),
    ],
)
async def test_a_client_that_stops_is_given_up(start: bytes, answer: bytes):
    began_s = asyncio.get_running_loop().time()
    got, _ = await exchange(start, QUICK)
    assert got.startswith(answer)
    assert 0.25 < asyncio.get_running_loop().time() - began_s < 1.5


async def test_a_head_that_trickles_in_is_given_up_all_the_same():
    echo = Echo(QUICK)
    async with serving(echo) as url, wire_to(url) as wire:
        await wire.send(*[b"GET / HTTP/1.1\r\n"[index : index + 1] for index in range(16)], pause_s=0.05)
        assert (await wire.all()).startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_takes_no_byte_is_dropped():
    echo = Echo(QUICK)
    async with serving(echo) as url:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            client.sendall(GET.replace(b"/a", b"/hold"))
            await until(lambda: echo.held)
            held = echo.held[0]
            held.start(b"HTTP/1.1 200 OK\r\n")
            while held.open and not held.paused:
                held.write(b"x" * 65536)
                await asyncio.sleep(0)
            await until(lambda: echo.left, 2)
    assert not held.open


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
async def test_a_client_that_leaves_is_noticed_at_once(how: str):
    echo = Echo()
    async with serving(echo) as url, wire_to(url) as wire:
        await wire.send(GET.replace(b"/a", b"/hold"))
        await until(lambda: echo.held)
        if how == "half-close":
            wire.writer.write_eof()
        elif how == "reset":
            wire.reset()
        else:
            wire.writer.close()
        await until(lambda: echo.left)
        echo.held[0].respond(200, [], b"nobody hears it")


async def test_a_client_that_sends_and_half_closes_gets_what_can_be_said_at_once():
    echo = Echo()
    async with serving(echo) as url, wire_to(url) as wire:
        wire.writer.write(GET)
        wire.writer.write_eof()
        assert (await wire.all()).endswith(b"/a ")


async def test_a_defect_of_the_service_is_an_answer_and_a_traceback(caplog):
    echo = Echo()
    async with serving(echo) as url, wire_to(url) as wire:
        await wire.send(GET.replace(b"/a", b"/fail") + GET)
        answer = await wire.until(b"/a ")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "ZeroDivisionError" in caplog.text


async def test_the_end_waits_for_open_answers_and_closes_idle_connections():
    echo = Echo()
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = Server(echo)
    await server.start(listener)
    async with wire_to(url) as busy, wire_to(url) as idle, wire_to(url) as sending:
        await busy.send(GET.replace(b"/a", b"/hold"))
        await idle.send(GET)
        await idle.until(b"/a ")
        await sending.send(b"GET /late HTTP/1.1\r\n")
        await asyncio.sleep(0.05)
        ending = asyncio.create_task(server.stop(5.0))
        assert await idle.all() == b""
        await sending.send(b"Host: x\r\n\r\n")
        assert b"connection: close\r\n" in await sending.all()
        assert not ending.done()
        echo.held[0].respond(200, [], b"done")
        assert (await busy.all()).endswith(b"done")
        await asyncio.wait_for(ending, 1)
        with pytest.raises(OSError, match=r"refused|Connect"):
            await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    assert (echo.opened, echo.closed) == (1, 1)
    assert echo.interrupted == []


async def test_the_end_interrupts_what_is_open_after_the_grace():
    echo = Echo()
    async with AsyncExitStack() as client, serving(echo, grace_s=0.1) as url:
        wire = await client.enter_async_context(wire_to(url))
        await wire.send(GET.replace(b"/a", b"/hold"))
        await asyncio.sleep(0.05)
    assert echo.interrupted == [b"/hold"]


async def test_answers_go_out_at_once():
    """Nagle's algorithm would hold small events back."""
    options: list[int] = []

    class Curious(Echo):
        def handle(self, exchange):
            transport = exchange._wire._transport
            options.append(
                transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            )
            super().handle(exchange)

    async with serving(Curious()) as url, wire_to(url) as wire:
        await wire.send(GET)
        await wire.until(b"/a ")
    assert options == [1]


async def test_https(tmp_path, certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(Echo(), context)
    await server.start(listener)
    trusting = ssl.create_default_context(cafile=str(certificate))
    reader, writer = await asyncio.open_connection(
        *listener.getsockname(), ssl=trusting, server_hostname="localhost"
    )
    writer.write(GET)
    assert await asyncio.wait_for(reader.readuntil(b"/a "), 5)
    writer.close()
    await server.stop(1)
