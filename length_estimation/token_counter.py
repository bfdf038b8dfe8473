"""Counts the tokens of a prompt, given as the JSON that came in the request.

Exact for token ids, near-exact with the model's own tokenizer, a guess by bytes without it. Never
raises on any content: what cannot be understood is guessed by its size. Does not know the model's
chat template; its cost is a documented constant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import msgspec

from block.errors import ConfigError, PackError
from length_estimation.tokenizer_file import read_tokenizer

BYTES_PER_TOKEN = 4.0
"""English prose and code under the common 32k-150k vocabularies: 3.5 to 4.5."""
TOKENS_PER_MESSAGE = 4
"""Role markers and separators that common chat templates put around each message."""
TOKENS_PER_CHAT = 3
"""The generation prompt that opens the assistant's turn."""
TOKENS_PER_ATTACHMENT = 576
"""An image or a sound whose true cost only the model knows; one 336-pixel tile of CLIP patches."""
EXACT_CHARACTERS = 4096
"""Longer texts are sampled: a tokenizer reads some 3 MB/s, and an answer is due within 2 ms."""
EXACT_TEXTS = 64
"""More texts than this (messages, parts, prompts) are counted as one."""
SAMPLE_CHARACTERS = 1024
"""Length of each of the samples taken from the start, the middle and the end of a long text."""


class TextTokenizer(Protocol):
    """The part of a tokenizer that counting needs."""

    def count(self, text: str, *, special: bool) -> int:
        """Tokens of ``text``; ``special`` adds those that surround a whole prompt (BOS and such)."""
        ...


class ByteTokenizer:
    """Guesses by UTF-8 size; for use where the model's tokenizer is not at hand."""

    def count(self, text: str, *, special: bool) -> int:
        """Size over BYTES_PER_TOKEN, rounded up, and one for BOS."""
        return guess_tokens(len(text.encode("utf-8", "surrogatepass"))) + special


class FileTokenizer:
    """Counts with a ``tokenizer.json``. Raises ConfigError if the file is missing or damaged."""

    def __init__(self, path: Path) -> None:
        try:
            self._tokenizer = read_tokenizer(path)
        except PackError as error:
            raise ConfigError(f"tokenizer = {error}") from error

    def count(self, text: str, *, special: bool) -> int:
        """Tokens of ``text``."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no UTF-8 form
        return len(self._tokenizer.encode(text, add_special_tokens=special).ids)


class _Part(msgspec.Struct):
    type: Any = None
    text: str | None = None


class _Message(msgspec.Struct):
    content: str | list[str | _Part] | None = None
    tool_calls: msgspec.Raw = msgspec.Raw(b"")


class TokenCounter:
    """Counts prompt tokens of completion prompts and of chat messages, both given as JSON bytes."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._messages = msgspec.json.Decoder(list[_Message])
        self._prompt = msgspec.json.Decoder(str | list[str | int | list[int]] | None)

    def prompt(self, prompt_json: bytes) -> int:
        """Tokens of a completion prompt: text, token ids, or a list of either (their sum)."""
        try:
            prompt = self._prompt.decode(prompt_json)
        except (ValueError, RecursionError):
            return guess_tokens(len(prompt_json))
        items = [prompt] if isinstance(prompt, str) else prompt or []
        texts = [item for item in items if isinstance(item, str)]
        ids = sum(len(item) if isinstance(item, list) else 1 for item in items) - len(texts)
        return ids + self._texts(texts, special=True)

    def messages(self, messages_json: bytes, tools_json: bytes = b"") -> int:
        """Tokens of a chat: its texts, its tools' definitions, and the template's constants."""
        try:
            messages = self._messages.decode(messages_json)
        except (ValueError, RecursionError):
            return guess_tokens(len(messages_json)) + guess_tokens(len(tools_json))
        texts = [text for message in messages for text in _texts_of(message)]
        attachments = sum(text is None for text in texts)
        calls = sum(len(bytes(message.tool_calls)) for message in messages)
        return (
            self._texts([text for text in texts if text is not None], special=False)
            + TOKENS_PER_ATTACHMENT * attachments
            + guess_tokens(calls + len(tools_json))
            + TOKENS_PER_MESSAGE * len(messages)
            + TOKENS_PER_CHAT
        )

    def text(self, text: str) -> int:
        """Tokens of a bare text, such as a response."""
        return self._texts([text], special=False)

    def _texts(self, texts: list[str], *, special: bool) -> int:
        if len(texts) <= EXACT_TEXTS and sum(map(len, texts)) <= EXACT_CHARACTERS:
            return sum(self._tokenizer.count(text, special=special) for text in texts)
        return self._sampled("".join(texts)) + special * len(texts)

    def _sampled(self, text: str) -> int:
        if len(text) <= EXACT_CHARACTERS:
            return self._tokenizer.count(text, special=False)
        starts = 0, (len(text) - SAMPLE_CHARACTERS) // 2, len(text) - SAMPLE_CHARACTERS
        samples = [text[start : start + SAMPLE_CHARACTERS] for start in starts]
        sampled = sum(self._tokenizer.count(sample, special=False) for sample in samples)
        return round(sampled * len(text) / (SAMPLE_CHARACTERS * len(samples)))


def make_token_counter(tokenizer_path: Path | None) -> TokenCounter:
    """Counter with the model's tokenizer, or by bytes if None. Raises ConfigError on a bad file."""
    return TokenCounter(FileTokenizer(tokenizer_path) if tokenizer_path else ByteTokenizer())


def _texts_of(message: _Message) -> list[str | None]:
    """The message's texts; None stands for an attachment."""
    if isinstance(message.content, str):
        return [message.content]
    return [part if isinstance(part, str) else part.text for part in message.content or ()]


def guess_tokens(size_bytes: int) -> int:
    """Tokens of a text of that size, rounded up."""
    return -int(-size_bytes // BYTES_PER_TOKEN)
