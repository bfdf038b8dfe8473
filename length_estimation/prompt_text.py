"""The text of a prompt or of messages, as much of it as estimating needs, from the JSON that came.

Never raises: what cannot be understood is read as text. Takes time bounded by constants, however long
the prompt is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

MOST_JSON_BYTES: Final = 32_768
"""Longer JSON is not parsed; its ends are read as they stand."""
HEAD: Final = 1100
TAIL: Final = 500
"""Characters of the text's start and end that are kept. Instructions stand at either end."""


class _Part(msgspec.Struct):
    text: str | None = None


class _Message(msgspec.Struct):
    role: Any = None
    content: str | list[str | _Part] | None = None


_MESSAGES: Final = msgspec.json.Decoder(list[_Message])
_PROMPT: Final = msgspec.json.Decoder(str | list[str | int | list[int]] | None)


@dataclass(frozen=True, slots=True)
class PromptText:
    """What was read of a prompt."""

    head: str
    """The last user message's start, or the prompt's."""
    tail: str
    """Its end, where the head does not hold all of it."""
    characters: int
    """Of the whole text; of the JSON if that was not parsed."""
    turns: int = 1
    """Messages; 1 for a plain prompt."""
    attachments: int = 0
    system_characters: int = 0
    """Of all messages but the last user's."""

    @property
    def text(self) -> str:
        """Head and tail."""
        return f"{self.head}\n{self.tail}" if self.tail else self.head


def read_prompt(prompt_json: bytes) -> PromptText:
    """Read a JSON string, list of strings or of token ids, or list of chat messages."""
    if len(prompt_json) > MOST_JSON_BYTES:
        return _unparsed(prompt_json)
    try:
        if prompt_json[:1] == b"[" and b"{" in prompt_json[:64]:
            return _of_messages(_MESSAGES.decode(prompt_json))
        return _of_prompt(_PROMPT.decode(prompt_json))
    except (ValueError, RecursionError):
        return _unparsed(prompt_json)


def cut_text(text: str) -> PromptText:
    """A plain text."""
    if len(text) <= HEAD + TAIL:
        return PromptText(text, "", len(text))
    return PromptText(text[:HEAD], text[-TAIL:], len(text))


def _of_prompt(prompt: str | list[str | int | list[int]] | None) -> PromptText:
    if isinstance(prompt, str):
        return cut_text(prompt)
    return cut_text(" ".join(item for item in prompt or () if isinstance(item, str)))


def _of_messages(messages: list[_Message]) -> PromptText:
    texts = [_text_of(message) for message in messages]
    asked = next((i for i in reversed(range(len(messages))) if messages[i].role == "user"), len(texts) - 1)
    last = cut_text(texts[asked]) if texts else cut_text("")
    return PromptText(
        last.head,
        last.tail,
        last.characters,
        turns=len(messages),
        attachments=sum(_attachments(message) for message in messages),
        system_characters=sum(map(len, texts)) - last.characters,
    )


def _text_of(message: _Message) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = (part if isinstance(part, str) else part.text for part in message.content or ())
    return "\n".join(part for part in parts if part is not None)


def _attachments(message: _Message) -> int:
    if not isinstance(message.content, list):
        return 0
    return sum(not isinstance(part, str) and part.text is None for part in message.content)


def _unparsed(data: bytes) -> PromptText:
    """The ends of what came, as text; JSON's escapes stay as they are."""
    if len(data) <= HEAD + TAIL:
        return PromptText(data.decode("utf-8", "replace"), "", len(data))
    head, tail = data[:HEAD].decode("utf-8", "replace"), data[-TAIL:].decode("utf-8", "replace")
    return PromptText(head, tail, len(data))
