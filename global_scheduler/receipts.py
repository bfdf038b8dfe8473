"""Receipts: what became of each request, for the metrics, the log, decision receipts and traces.

The prompt's text is in none of them, unless that was asked for.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from global_scheduler.measures import Measures
from global_scheduler.receipt import Receipt
from global_scheduler.receipt_writer import ReceiptWriter

FLUSH_S = 0.1

logger = logging.getLogger(__name__)


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
    prompt: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Receipts:
    """Files receipts: some metrics each, one log line within FLUSH_S, and what else is wanted."""

    def __init__(self, measures: Measures, writer: ReceiptWriter | None = None) -> None:
        """``writer`` of decision receipts, if any; it is opened and closed by others."""
        self._measures = measures
        self._writer = writer
        self._lines: list[bytes] = []
        self._flush: asyncio.TimerHandle | None = None

    def file(self, receipt: Receipt) -> None:
        """Record a request that is over; nothing of it changes any more."""
        receipt.ended_s = time.perf_counter()
        self._measures.take(receipt)
        if receipt.trace is not None:
            receipt.trace.end(receipt)
        if self._writer is not None:
            self._writer.put(receipt)
        if logger.isEnabledFor(logging.INFO):
            self._lines.append(msgspec.json.encode(_line(receipt)))
            if self._flush is None:
                self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Log what has gathered: one record with a line for each request, for a record each costs more."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self._lines:
            lines, self._lines = self._lines, []
            text = b"\n".join(b"request %b" % line for line in lines).decode()
            logger.info("%s", text, extra={"objects": ("request", lines)})


def _line(receipt: Receipt) -> _Line:
    decision, prediction = receipt.decision, receipt.prediction
    return _Line(
        time_s=int(time.time() * 1e3) / 1e3,
        id=receipt.id,
        fleet_id=receipt.fleet_id,
        policy=receipt.policy,
        instance=receipt.instance,
        outcome=receipt.outcome,
        status=receipt.status,
        attempts=receipt.attempts,
        total_s=_rounded(receipt.total_s) or 0.0,
        decision_s=_rounded(decision.took_s) if decision else None,
        first_byte_s=_rounded(receipt.first_byte_s and receipt.first_byte_s - receipt.started_s),
        predicted_ttft_s=_rounded(prediction.ttft_s) if prediction else None,
        predicted_e2e_s=_rounded(prediction.e2e_s) if prediction else None,
        actual_e2e_s=_rounded(receipt.e2e_s),
        fallback=decision.fallback if decision else None,
        prompt=msgspec.Raw(receipt.prompt_json) if receipt.prompt_json else msgspec.UNSET,
    )


def _rounded(seconds: float | None) -> float | None:
    """To whole microseconds, at a third of what ``round`` costs."""
    return seconds and int(seconds * 1e6) / 1e6
