"""An answer's way to the client, with its tokens counted; only for estimators that learn from them."""

from __future__ import annotations

from block.http.exchange import Exchange
from length_estimation.answer_tokens import AnswerTokens


class CountedExchange:
    """Stands before an exchange; an ``Outlet``."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.answer = AnswerTokens()
        """What has passed so far."""

    @property
    def paused(self) -> bool:
        """The exchange's."""
        return self._exchange.paused

    def start(self, lines: bytes, first: bytes = b"") -> None:
        """The head, and the first events."""
        self.answer.feed(first)
        self._exchange.start(lines, first)

    def write(self, data: bytes) -> None:
        """More events."""
        self.answer.feed(data)
        self._exchange.write(data)

    def finish(self, data: bytes = b"") -> None:
        """The last ones."""
        self.answer.feed(data)
        self._exchange.finish(data)
