"""Random HTTP messages as bytes: well-formed ones, and ones with something wrong."""

from __future__ import annotations

from random import Random

TOKENS = b"abcXYZ019-_.!~"
VALUES = TOKENS + b" \t,;=/\"'()\xe9\xff"


def token(source: Random, alphabet: bytes = TOKENS, most: int = 12) -> bytes:
    return bytes(source.choice(alphabet) for _ in range(source.randint(1, most)))


def _header(source: Random) -> bytes:
    blanks = source.choice([b"", b" ", b"  ", b"\t", b" \t "])
    return b"x%b:%b%b%b\r\n" % (token(source), blanks, token(source, VALUES, 30), source.choice([b"", b" "]))


def _body(source: Random) -> tuple[bytes, bytes]:
    """The framing's header, and the body as framed."""
    body = bytes(source.randrange(256) for _ in range(source.choice([0, 1, 5, 300])))
    kind = source.choice(["none", "length", "chunks"])
    if kind == "none":
        return b"", b""
    if kind == "length":
        return b"Content-Length: %d\r\n" % len(body), body
    framed = b""
    while body:
        size = source.randint(1, len(body))
        extension = source.choice([b"", b"", b";a=b", b";c"])
        framed += b"%x%b\r\n%b\r\n" % (size, extension, body[:size])
        body = body[size:]
    trailer = source.choice([b"", b"", b"Trailer-Field: v\r\n"])
    return b"Transfer-Encoding: chunked\r\n", framed + b"0\r\n" + trailer + b"\r\n"


def request(source: Random, *, closes: bool = False) -> bytes:
    """A well-formed request; ``closes``: with word that it is the last one."""
    framing, body = _body(source)
    lines = [b"Host: h\r\n", framing, *(_header(source) for _ in range(source.randint(0, 4)))]
    if closes:
        lines.append(b"Connection: close\r\n")
    source.shuffle(lines)
    method = source.choice([b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS"])
    target = source.choice([b"/", b"/a?b=c", b"/%20", b"*", b"http://h/p"])
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, b"".join(lines), body)


def response(source: Random) -> bytes:
    """A well-formed answer to a GET or POST."""
    status = source.choice([200, 200, 201, 204, 304, 404, 429, 500, 503])
    framing, body = (b"", b"") if status in (204, 304) else _body(source)
    lines = [framing, *(_header(source) for _ in range(source.randint(0, 4)))]
    source.shuffle(lines)
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, token(source), b"".join(lines), body)


def mutated(source: Random, message: bytes) -> bytes:
    """The same with one to three things wrong."""
    data = bytearray(message)
    for _ in range(source.randint(1, 3)):
        place = source.randrange(len(data) + 1)
        kind = source.random()
        if kind < 0.35:
            data[place:place] = source.choice(_SPICE)
        elif kind < 0.6 and place < len(data):
            data[place] = source.randrange(256)
        elif kind < 0.8:
            del data[place : place + source.randint(1, 5)]
        else:
            start = source.randrange(len(data) + 1)
            data[place:place] = data[start : start + source.randint(1, 20)]
    return bytes(data)


def pieces(source: Random, data: bytes) -> list[bytes]:
    """The data cut at random places."""
    cuts = sorted(source.randrange(len(data) + 1) for _ in range(source.choice([0, 1, 3, 8])))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


_SPICE = [
    b"\n",
    b"\r",
    b"\r\n",
    b" ",
    b"\t",
    b"\x00",
    b":",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Host: other\r\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"fffffffffffffffff\r\n",
    b" folded\r\n",
    b"HTTP/1.0",
    b"Expect: 100-continue\r\n",
    b"Connection: upgrade\r\nUpgrade: x\r\n",
]
