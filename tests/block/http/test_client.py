"""The client over real sockets, against servers that do what a script says."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import weakref

import psutil
import pytest
from http_service import serving
from raw_http import Echo, Wire, scripted_server, wire_to

from block.errors import ConnectError, TransportError
from block.http.client import Client
from block.http.message import Response
from block.http.origin import Origin, split_url
from block.http.server import Server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@pytest.fixture
async def client():
    made = Client(connect_s=1.0, rest_s=0.3)
    yield made
    await made.close()


async def fetch(client: Client, place: tuple[str, int], method: bytes = b"GET", **options) -> Response:
    return await client.fetch(
        method, Origin(*place), b"/", timeout_s=options.pop("timeout_s", 2.0), **options
    )


def saying(*parts: bytes, pause_s: float = 0.0, close: bool = False):
    """A script: answer each request with the same bytes."""

    async def script(wire: Wire) -> None:
        while True:
            await wire.until(b"\r\n\r\n")
            await wire.send(*parts, pause_s=pause_s)
            if close:
                wire.writer.write_eof()

    return script


ANSWERS = {
    "with a length": (OK, False),
    "in chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\nh\r\n1\r\ni\r\n0\r\nT: v\r\n\r\n",
        False,
    ),
    "until the end": (b"HTTP/1.1 200 OK\r\n\r\nhi", True),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", True),
    "after other heads": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK,
        False,
    ),
    "without a reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", False),
    "with a huge head": (
        b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: 2\r\n\r\nhi" % (b"y" * 200_000),
        False,
    ),
}


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("kind", ANSWERS)
async def test_answers_of_every_framing(client: Client, kind: str, pieces: bool):
    answer, close = ANSWERS[kind]
    size = 7 if pieces and len(answer) < 1000 else 50_000
    parts = [answer[start : start + size] for start in range(0, len(answer), size)]
    async with scripted_server(saying(*parts, pause_s=0.001, close=close)) as place:
        for _ in range(2):
            response = await fetch(client, place)
            assert (response.status, response.body) == (200, b"hi")
            assert not {b"t", b"link"} & {name for name, _ in response.headers}


async def test_connections_are_kept_and_reused(client: Client):
    accepted = 0

    async def script(wire: Wire) -> None:
        nonlocal accepted
        accepted += 1
        await saying(OK)(wire)

    async with scripted_server(script) as place:
        for _ in range(5):
            await fetch(client, place)
        assert accepted == 1
        await asyncio.gather(*(fetch(client, place) for _ in range(3)))
        assert accepted == 3
        await asyncio.sleep(0.6)  # longer than one may rest
        await fetch(client, place)
        assert accepted == 4


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        OK + b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\n",  # the beginning of what nobody asked for
        OK + b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nmo",
        OK + b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nmore",
        OK + b"garbage",
    ],
)
async def test_connections_that_cannot_be_trusted_again_are_not_reused(client: Client, answer: bytes):
    accepted = 0

    async def script(wire: Wire) -> None:
        nonlocal accepted
        accepted += 1
        await saying(answer)(wire)

    async with scripted_server(script) as place:
        for expected in (1, 2):
            taken = await fetch(client, place)
            assert (taken.status, taken.body) == (200, b"hi")
            assert accepted == expected


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used(client: Client):
    async def script(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(OK)

    async with scripted_server(script) as place:
        for _ in range(3):
            await fetch(client, place)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhi\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/2 200\r\n\r\n",
        b"\x00\x01 not HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 600_000,
    ],
)
async def test_answers_that_end_wrongly_are_errors(client: Client, answer: bytes):
    async with scripted_server(saying(answer, close=True)) as place:
        with pytest.raises(TransportError):
            await fetch(client, place)


async def test_a_reset_in_the_middle_is_an_error_even_of_a_body_without_end(client: Client):
    async def script(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nhi", pause_s=0.05)
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        wire.reset()

    async with scripted_server(script) as place:
        with pytest.raises(TransportError):
            await fetch(client, place)


async def test_too_much_is_an_error(client: Client):
    async with scripted_server(saying(OK)) as place:
        with pytest.raises(TransportError, match="too large"):
            await fetch(client, place, max_bytes=1)


async def test_patience_ends_and_takes_the_connection_along(client: Client):
    closed = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        assert await wire.all() == b""
        closed.set()

    async with scripted_server(script) as place:
        with pytest.raises(TimeoutError):
            await fetch(client, place, timeout_s=0.1)
        await asyncio.wait_for(closed.wait(), 1)


async def test_no_connection_is_an_error_of_its_own(client: Client):
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = free.getsockname()
    with pytest.raises(ConnectError):
        await fetch(client, place)
    with pytest.raises(ConnectError):
        await fetch(client, ("no.such.host.invalid", 80))


async def test_who_does_not_wait_is_called_with_the_connection_or_with_what_is_wrong(client: Client):
    opened = asyncio.Queue()
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = Origin(*free.getsockname())
    client.open(nobody, opened.put_nowait)
    assert isinstance(await asyncio.wait_for(opened.get(), 2), ConnectError)
    async with scripted_server(saying(OK)) as place:
        origin = Origin(*place)
        client.open(origin, opened.put_nowait)
        connection = await asyncio.wait_for(opened.get(), 2)
        assert client.resting(origin) is None
        client.rest(connection)
        assert client.resting(origin) is connection


async def test_who_does_not_wait_hears_even_of_a_defect(client: Client, caplog: pytest.LogCaptureFixture):
    opened = asyncio.Queue()
    client.open(Origin("a\0b", 80), opened.put_nowait)  # no error of the network
    assert isinstance(await asyncio.wait_for(opened.get(), 2), ConnectError)
    assert [record.name for record in caplog.records if record.exc_info] == ["block.http.client"]


async def test_a_connection_that_fails_keeps_nobody_in_a_cycle(client: Client):
    class Waiter(asyncio.Event):
        def opened(self, _: object) -> None:
            self.set()

    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = Origin(*free.getsockname())
    waiter = Waiter()
    known = weakref.ref(waiter)
    gc.disable()  # searches for cycles are rare
    try:
        client.open(nobody, waiter.opened)
        await asyncio.wait_for(waiter.wait(), 2)
        del waiter
        await asyncio.sleep(0)
        assert known() is None
    finally:
        gc.enable()


async def test_nobody_is_called_once_the_client_is_closed():
    made, opened = Client(connect_s=1.0, rest_s=0.3), []
    async with scripted_server(saying(OK)) as place:
        made.open(Origin(*place), opened.append)
        await made.close()
        await asyncio.sleep(0.05)
    assert opened == []


@pytest.mark.parametrize("turns", range(6))
async def test_who_wants_no_connection_any_more_leaves_no_socket_however_far_it_was(
    client: Client, turns: int
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        place, opened = server.getsockname(), []
        opening = client.open(Origin(*place), opened.append)
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.sleep(0.05)
        ours = [one for one in psutil.Process().net_connections("tcp4") if one.raddr == place]
        assert len(ours) == len(opened)


async def test_large_bodies_arrive_whole(client: Client):
    echo = Echo()
    async with serving(echo) as url:
        origin, _ = split_url(url)
        for size in (100, 70_000, 3_000_000):
            body = b"z" * size
            response = await client.fetch(b"POST", origin, b"/", body=body, timeout_s=5)
            assert response.body == b"/ " + body


async def test_an_answer_that_comes_before_the_body_was_taken_ends_the_connection(client: Client):
    """Else the rest of the body would be read as the next request."""
    accepted = 0

    async def script(wire: Wire) -> None:
        nonlocal accepted
        accepted += 1
        await wire.until(b"\r\n\r\n")
        await wire.send(OK)
        await asyncio.sleep(5)

    async with scripted_server(script) as place:
        for expected in (1, 2):
            body = b"x" * 20_000_000
            assert (await fetch(client, place, b"POST", body=body)).body == b"hi"
            assert accepted == expected


async def test_https(client: Client, certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(Echo(), context)
    await server.start(listener)
    url = f"https://localhost:{listener.getsockname()[1]}/base/"
    origin, prefix = split_url(url, ssl.create_default_context(cafile=str(certificate)))
    assert prefix == b"/base"
    assert (await client.fetch(b"GET", origin, b"/t", timeout_s=5)).body == b"/t "
    untrusted, _ = split_url(url)
    with pytest.raises(ConnectError):
        await client.fetch(b"GET", untrusted, b"/t", timeout_s=5)
    await server.stop(1)


@pytest.mark.parametrize(
    ("url", "host", "prefix"),
    [
        ("http://a", b"a", b""),
        ("http://a:80/", b"a", b""),
        ("http://a:81/b/", b"a:81", b"/b"),
        ("http://[::1]:8000", b"[::1]:8000", b""),
        ("https://a:443", b"a", b""),
    ],
)
def test_origins_are_named_as_hosts_are(url: str, host: bytes, prefix: bytes):
    origin, path = split_url(url)
    assert (origin.named, path) == (host, prefix)


async def test_the_server_sees_what_was_sent(client: Client):
    async with serving(echo := Echo()) as url, wire_to(url):
        origin, _ = split_url(url)
        await client.fetch(b"POST", origin, b"/p?q", [(b"a", b"b")], b"body", timeout_s=2)
    (request,) = echo.requests
    assert (request.method, request.target, request.body) == (b"POST", b"/p?q", b"body")
    assert request.headers == [(b"host", origin.named), (b"a", b"b")]
