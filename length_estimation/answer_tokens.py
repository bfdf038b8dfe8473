"""Output tokens of an answer, read off its bytes as they pass: what completed requests teach.

Exact where the answer carries ``usage``; of a stream without it, one token for each event, which is
what vLLM sends unless it falls behind. Parses nothing: it looks for names that cannot stand in a text,
since quotes in texts are escaped.
"""

from __future__ import annotations

import re
from typing import Final, Self

_COMPLETION_TOKENS: Final = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,10})')
_CUT: Final = re.compile(rb'"finish_reason"\s*:\s*"length"')
_ENDED: Final = re.compile(rb'"finish_reason"\s*:\s*"')
_NO_TEXT: Final = (b'"delta":{"role"', b'"choices":[]')
"""Events without a token: a chat's first one, and the one with the usage."""


class AnswerTokens:
    """Counts one answer. Feed it whole events, or the whole body."""

    def __init__(self) -> None:
        self._events = 0
        self._usage: int | None = None
        self.cut = False
        """Ended at its limit."""
        self._ends = 0

    @classmethod
    def of(cls, body: bytes) -> Self:
        """Of a whole body."""
        answer = cls()
        answer.feed(body)
        return answer

    def feed(self, data: bytes) -> None:
        """Take in the next bytes."""
        self._events += data.count(b"data: {") - sum(data.count(mark) for mark in _NO_TEXT)
        if b'"finish_reason"' in data:
            self._ends += len(_ENDED.findall(data))
            self.cut = self.cut or _CUT.search(data) is not None
        if b'"completion_tokens"' in data:
            found = _COMPLETION_TOKENS.findall(data)
            self._usage = int(found[-1]) if found else self._usage

    @property
    def ended(self) -> bool:
        """One response came to its end: it did not break off, nor is it several choices added up."""
        return self._ends == 1

    @property
    def tokens(self) -> int | None:
        """None if there is nothing to count by."""
        if self._usage is not None:
            return self._usage
        return self._events if self._events > 0 else None
