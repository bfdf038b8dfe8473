"""What a streamed answer of an OpenAI server said, and when: pieces of bytes to token times.

Tokens are counted by the server's running usage where it gives one, else one to a message that has text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    message_s: tuple[float, ...]
    """When each message with tokens came."""
    prompt_tokens: int
    """As the server counted them; 0 if it did not."""
    output_tokens: int
    """The same; where it did not count, messages with text."""
    headers: Mapping[str, str]
    """Names in lower case."""
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


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class _Reader:
    """Gets headers and body bytes from the parser."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.rest = b""
        self.ended = False
        self.error = ""
        self._headers: dict[str, str] = {}
        self._token_s: list[float] = []
        self._message_s: list[float] = []
        self._usage = _Usage()

    def reply(self, error: str) -> Reply:
        return Reply(
            tuple(self._token_s),
            tuple(self._message_s),
            self._usage.prompt_tokens,
            self._usage.completion_tokens or len(self._token_s),
            self._headers,
            error,
        )

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

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
            event = _decode(data)
        except msgspec.MsgspecError as error:
            self.error = f"an event is not what it should be: {error}"
            return
        if event.error is not None:
            told = event.error.get("message") if isinstance(event.error, dict) else event.error
            self.error = f"the server said: {told or event.error}"
        elif fresh := self._fresh(event):
            self._token_s += [self.now_s] * fresh
            self._message_s.append(self.now_s)

    def _fresh(self, event: _Event) -> int:
        """Tokens that the message brought; a last usage without a choice only counts."""
        if event.usage is not None:
            self._usage = event.usage
            if event.choices or not self._token_s:
                return event.usage.completion_tokens - len(self._token_s)
            return 0
        return any(_text(choice) for choice in event.choices)


def _text(choice: _Choice) -> str:
    return choice.text or (choice.delta.content if choice.delta else "") or ""
