"""Receipts: what became of each request, for the log and the metrics. Never the prompt's text."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

import msgspec
from prometheus_client import Counter

from block.types import Prediction
from global_scheduler.metrics import SchedulerMetrics

FLUSH_S = 0.1

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Receipt:
    """One request's record, filled in as it goes."""

    id: str
    """The client's."""
    fleet_id: str
    """What instances and predictors know it by."""
    policy: str = "none"
    instance: str = "none"
    status: int = 0
    """Of the answer's head; 0 if none was sent."""
    attempts: int = 0
    fallback: str | None = None
    prediction: Prediction | None = None
    """For the instance that served it."""
    broken: bool = False
    """Failed after its first byte."""
    gone: bool = False
    """The client left."""
    decision_s: float | None = None
    started_s: float = field(default_factory=time.perf_counter)
    dispatched_s: float | None = None
    first_byte_s: float | None = None

    @property
    def outcome(self) -> str:
        """Status class, or why there is none."""
        if self.gone:
            return "gone"
        return "broken" if self.broken else f"{self.status // 100}xx"


class _Line(msgspec.Struct, omit_defaults=True):
    """What the log shows of a receipt."""

    time_s: float
    """When the request was over, since the epoch."""
    id: str
    fleet_id: str
    policy: str
    instance: str
    outcome: str
    status: int
    attempts: int
    total_s: float
    decision_s: float | None = None
    first_byte_s: float | None = None
    predicted_ttft_s: float | None = None
    predicted_e2e_s: float | None = None
    actual_e2e_s: float | None = None
    fallback: str | None = None


class Receipts:
    """Files receipts: one log line, within FLUSH_S, and a few metrics each."""

    def __init__(self, metrics: SchedulerMetrics) -> None:
        self._metrics = metrics
        self._counters: dict[tuple[str, str, str], Counter] = {}
        self._lines: list[bytes] = []
        self._flush: asyncio.TimerHandle | None = None

    def file(self, receipt: Receipt) -> None:
        """Record a request that is over."""
        now_s = time.perf_counter()
        actual_s = now_s - receipt.dispatched_s if receipt.dispatched_s is not None else None
        self._measure(receipt, actual_s)
        if logger.isEnabledFor(logging.INFO):
            self._lines.append(msgspec.json.encode(_line(receipt, now_s, actual_s)))
            if self._flush is None:
                self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Log what has gathered: one record with a line for each request, for a record each costs more."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self._lines:
            lines, self._lines = self._lines, []
            logger.info("%s", b"\n".join(b"request %b" % line for line in lines).decode())

    def _measure(self, receipt: Receipt, actual_s: float | None) -> None:
        metrics = self._metrics
        outcome = receipt.outcome
        key = (receipt.policy, receipt.instance, outcome)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = metrics.requests.labels(*key)
        counter.inc()
        if receipt.decision_s is not None:
            metrics.decision_s.observe(receipt.decision_s)
        if receipt.first_byte_s is not None:
            metrics.first_byte_s.observe(receipt.first_byte_s - receipt.started_s)
        if receipt.prediction is not None and actual_s and outcome == "2xx":
            metrics.prediction_error.observe((receipt.prediction.e2e_s - actual_s) / actual_s)


def _line(receipt: Receipt, now_s: float, actual_s: float | None) -> _Line:
    prediction = receipt.prediction
    return _Line(
        time_s=round(time.time(), 3),
        id=receipt.id,
        fleet_id=receipt.fleet_id,
        policy=receipt.policy,
        instance=receipt.instance,
        outcome=receipt.outcome,
        status=receipt.status,
        attempts=receipt.attempts,
        total_s=round(now_s - receipt.started_s, 6),
        decision_s=_rounded(receipt.decision_s),
        first_byte_s=_rounded(receipt.first_byte_s and receipt.first_byte_s - receipt.started_s),
        predicted_ttft_s=_rounded(prediction.ttft_s) if prediction else None,
        predicted_e2e_s=_rounded(prediction.e2e_s) if prediction else None,
        actual_e2e_s=_rounded(actual_s),
        fallback=receipt.fallback,
    )


def _rounded(seconds: float | None) -> float | None:
    return seconds and round(seconds, 6)
