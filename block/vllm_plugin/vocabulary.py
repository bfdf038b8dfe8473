"""Which token ids an emulated model may say: ordinary printable text, never EOS or a special token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MOST_SPOKEN = 2048
"""Enough variety for text; decoding a whole vocabulary at start-up would only cost time."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words of an emulated model."""

    ordinary: tuple[int, ...]
    """Token ids to speak with; at least one."""
    eos: int | None
    size: int

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, size: int, eos: int | None) -> Vocabulary:
        """Printable tokens spread evenly over ``tokenizer``; without one, ids are taken on trust."""
        if tokenizer is None:
            ordinary = [token for token in range(min(size, MOST_SPOKEN)) if token != eos]
            return cls(tuple(ordinary), eos, size)
        known = min(size, len(tokenizer))
        special = {*tokenizer.all_special_ids, eos}
        sample = [t for t in range(0, known, max(1, known // MOST_SPOKEN)) if t not in special]
        texts = {token: tokenizer.decode([token]) for token in sample}
        printable = [token for token, text in texts.items() if text.isascii() and text.isprintable()]
        words = [token for token in printable if texts[token].startswith(" ") and texts[token][1:].isalpha()]
        return cls(tuple(words or printable or sample), eos, size)
