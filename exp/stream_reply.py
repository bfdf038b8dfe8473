"""What a streamed answer of an OpenAI completions server said, and when: pieces of bytes to token times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httptools
import msgspec

_PREFIX = b"data: "
_END = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request."""

    token_s: tuple[float, ...]
    """When each token came; tokens of one message share its time."""
    prompt_tokens: int
    """As the server counted them."""
    error: str
    """Empty when the stream ended as it should."""


def read_reply(pieces: Sequence[tuple[float, bytes]]) -> Reply:
    """Read the pieces of one HTTP response, each with the time at which it came."""
    reader = _Reader()
    parser = httptools.HttpResponseParser(reader)
    for time_s, piece in pieces:
        reader.now_s = time_s
        try:
            parser.feed_data(piece)
        except httptools.HttpParserError as error:
            return reader.reply(f"not HTTP: {error}")
        if reader.error:
            break
    if pieces and parser.get_status_code() != 200:
        body = reader.rest.decode(errors="replace")[:200]
        return reader.reply(f"HTTP status {parser.get_status_code()}: {body}")
    return reader.reply(reader.error or ("" if reader.ended else "the stream broke off"))


class _Reader:
    """Gets body bytes from the parser; counts tokens by the server's running usage."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.rest = b""
        self.ended = False
        self.error = ""
        self._token_s: list[float] = []
        self._prompt_tokens = 0

    def reply(self, error: str) -> Reply:
        return Reply(tuple(self._token_s), self._prompt_tokens, error)

    def on_body(self, body: bytes) -> None:
        *events, self.rest = (self.rest + body).split(b"\n\n")
        for event in events:
            if event.startswith(_PREFIX):
                self._event(event[len(_PREFIX) :])

    def _event(self, data: bytes) -> None:
        if data == _END:
            self.ended = True
            return
        try:
            message: Any = msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            self.error = f"an event is no JSON: {error}"
            return
        if "error" in message:
            self.error = f"the server said: {message['error']}"
        elif usage := message.get("usage"):
            self._prompt_tokens = usage["prompt_tokens"]
            fresh = usage["completion_tokens"] - len(self._token_s)
            self._token_s += [self.now_s] * fresh
