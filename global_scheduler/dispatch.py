"""The rules by which requests are carried out: who is tried next, what a failure says of an instance, how
long to pause. The way of one request by these rules is its ``Errand``.
"""

from __future__ import annotations

import random

from block.config import SchedulerSettings
from global_scheduler.answer import Answer, Failure
from global_scheduler.decision import Decision
from global_scheduler.endpoints import BESIDE_THE_ENGINE
from global_scheduler.fleet import Instance
from global_scheduler.ledger import Ledger
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.receipt import Receipt
from global_scheduler.relay import Relay
from length_estimation.answer_tokens import AnswerTokens
from length_estimation.length_service import LengthService

_DOUBTFUL = frozenset({"reset", "empty", "engine", "timeout"})
"""Failures that call for a health poll at once; a refused connection needs none."""
_FAULTS = frozenset({"reset", "empty", "engine", "status"})
"""Failures that speak against the instance whatever it does for others."""


class Dispatcher:
    """What all errands share."""

    def __init__(
        self,
        relay: Relay,
        ledger: Ledger,
        metrics: SchedulerMetrics,
        lengths: LengthService,
        settings: SchedulerSettings,
        dice: random.Random | None = None,
        *,
        counts_tokens: bool = False,
    ) -> None:
        """``dice`` draws the pauses between attempts; ``counts_tokens`` of all answers, not only of traced
        ones and where somebody learns from them.
        """
        self.relay = relay
        self.ledger = ledger
        self.total_s = settings.total_timeout_s
        self._counts_tokens = counts_tokens or lengths.learns
        self._metrics = metrics
        self._lengths = lengths
        self._attempts = settings.attempts
        self._retry_pause_s = settings.retry_pause_s
        self._dice = dice or random.Random()

    def counts(self, receipt: Receipt) -> bool:
        """Whether the tokens of its answer are to be counted."""
        return self._counts_tokens or receipt.trace is not None

    def count(self, receipt: Receipt, decision: Decision, answer: AnswerTokens) -> None:
        """They have been, as far as the answer went."""
        receipt.output_tokens = answer.tokens
        if self._lengths.learns and answer.ended and answer.tokens is not None:
            self._lengths.completed(decision.request.id, answer.tokens, cut=answer.cut)

    def judge(self, instance: Instance, answer: Answer, sent_s: float) -> None:
        """Tell the instance's breaker what came of an attempt."""
        breaker, now_s = instance.breaker, self.relay.now_s
        if not isinstance(answer, Failure):
            breaker.succeed(now_s)
        elif answer.reason in _FAULTS or (
            answer.reason == "timeout" and not instance.signs.heard_since(sent_s)
        ):
            breaker.fail(now_s)
        else:
            breaker.abandon()

    def note(self, instance: Instance, failure: Failure) -> None:
        """An attempt has failed."""
        self._metrics.retries.count((failure.reason,))
        if failure.reason == "connect":
            instance.mark_down()
        elif failure.reason in _DOUBTFUL or (failure.answer and failure.answer.status == 503):
            instance.doubted.set()

    def note_broken(self, instance: Instance) -> None:
        """A stream has broken by the instance's fault."""
        instance.breaker.fail(self.relay.now_s)
        instance.doubted.set()

    def is_final(self, failure: Failure, counted: int) -> bool:
        """Whether no other instance is to be tried after ``counted`` attempts that reached one."""
        # Slow is not dead: elsewhere the same work would start over, on top of this.
        return failure.reason == "timeout" or counted >= self._attempts

    def pause_s(self, counted: int) -> float:
        """So that what many requests lost at once does not fall on the next instance at once."""
        longest_s = self._retry_pause_s * 2.0 ** (counted - 1)
        return (1 - 0.5 * self._dice.random()) * longest_s


def take_best(left: list[Instance]) -> Instance | None:
    """The first of the ranking as things stand now; a doubtful one only when no other is left.

    A decision takes doubtful ones in only where there is no other, so the order of its ranking holds.
    """
    if left and left[0].ready:  # as nearly always
        return left.pop(0)
    for place, instance in enumerate(left):
        if instance.ready:
            return left.pop(place)
    for place, instance in enumerate(left):
        if instance.usable:
            return left.pop(place)
    return None


def reaches_engine(status: int, path: bytes) -> bool:
    """Whether the engine's queue has shown a request that was answered so."""
    return status < 400 and path not in BESIDE_THE_ENGINE


def own_lines(decision: Decision, receipt: Receipt) -> bytes:
    """The headers that this service adds to an answer's head."""
    lines = (
        b"x-request-id: %b\r\nx-block-instance: %b\r\nx-block-policy: %b\r\n"
        b"x-block-decision-ms: %.3f\r\nx-block-overhead-ms: %.3f\r\n"
    ) % (
        receipt.id.encode(),
        receipt.instance.encode(),
        decision.policy.encode(),
        decision.took_s * 1000,
        (receipt.overhead_s or 0.0) * 1000,
    )
    if receipt.attempts > 1:
        lines += b"x-block-attempts: %d\r\n" % receipt.attempts
    if decision.fallback is not None:
        lines += b"x-block-fallback: %b\r\n" % decision.fallback.encode()
    if receipt.prediction is not None:
        lines += b"x-block-predicted-ttft-ms: %.3f\r\nx-block-predicted-e2e-ms: %.3f\r\n" % (
            receipt.prediction.ttft_s * 1000,
            receipt.prediction.e2e_s * 1000,
        )
    return lines
