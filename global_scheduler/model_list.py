"""What an instance says it serves: OpenAI's model list, kept as the bytes that came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from block.errors import InstanceError


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One served model."""

    id: str
    max_model_len: int | None
    """Most tokens of prompt and response together, where the instance tells (vLLM does)."""
    raw: bytes
    """The entry as JSON, untouched."""


class _List(msgspec.Struct):
    data: list[msgspec.Raw]


class _Entry(msgspec.Struct):
    id: str
    max_model_len: int | None = None


_LIST = msgspec.json.Decoder(_List)
_ENTRY = msgspec.json.Decoder(_Entry)


def parse_model_list(body: bytes) -> tuple[ModelCard, ...]:
    """Read a ``/v1/models`` answer. Raises InstanceError if it is not one."""
    try:
        raw_entries = [bytes(raw) for raw in _LIST.decode(body).data]
        return tuple(_card(raw) for raw in raw_entries)
    except (ValueError, RecursionError) as error:
        raise InstanceError(f"not a model list: {error}") from error


def render_model_list(cards: Iterable[ModelCard]) -> bytes:
    """A ``/v1/models`` answer; of entries with equal ids the first counts."""
    by_id: dict[str, bytes] = {}
    for card in cards:
        by_id.setdefault(card.id, card.raw)
    return b'{"object":"list","data":[' + b",".join(by_id.values()) + b"]}"


def _card(raw: bytes) -> ModelCard:
    entry = _ENTRY.decode(raw)
    return ModelCard(entry.id, entry.max_model_len, raw)
