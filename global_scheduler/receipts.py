"""Receipts: what became of each request, for the metrics, the log, decision receipts and traces.

The prompt's text is in none of them, unless that was asked for.
"""

from __future__ import annotations

import asyncio
import logging
import time

from global_scheduler.measures import Measures
from global_scheduler.receipt import Receipt
from global_scheduler.receipt_writer import ReceiptWriter

FLUSH_S = 0.1

_ALWAYS = (
    b'{"time_s":%.3f,"id":"%b","fleet_id":"%b","policy":"%b","instance":"%b",'
    b'"outcome":"%b","status":%d,"attempts":%d,"total_s":%.6f'
)

logger = logging.getLogger(__name__)


class Receipts:
    """Files receipts: metrics and a log line within FLUSH_S, and at once what else is wanted.

    Many are worked off together: the same few instructions over and over cost far less than the same
    instructions once in each request's way.
    """

    def __init__(self, measures: Measures, writer: ReceiptWriter | None = None) -> None:
        """``writer`` of decision receipts, if any; it is opened and closed by others."""
        self._measures = measures
        self._writer = writer
        self._filed: list[Receipt] = []
        self._flush: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """A request has come, whose receipt will be filed."""
        self._measures.begin()

    def file(self, receipt: Receipt) -> None:
        """Record a request that is over; nothing of it changes any more."""
        receipt.ended_s = time.perf_counter()
        self._measures.end()
        if receipt.trace is not None:
            receipt.trace.end(receipt)
        if self._writer is not None:
            self._writer.put(receipt)
        self._filed.append(receipt)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Measure and log what has gathered; before metrics are read, and at the end."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        filed, self._filed = self._filed, []
        for receipt in filed:
            self._measures.take(receipt)
        if filed and logger.isEnabledFor(logging.INFO):  # one record for all: a record each costs more
            clock_s = time.time() - time.perf_counter()
            lines = [_line(receipt, receipt.ended_s + clock_s) for receipt in filed]
            text = b"\n".join(b"request %b" % line for line in lines).decode()
            logger.info("%s", text, extra={"objects": ("request", lines)})


def _line(receipt: Receipt, time_s: float) -> bytes:
    """What the log shows. JSON by hand, at a third of an encoder's cost: each text in it is a checked name.

    ``time_s`` is when the request was over, ``first_byte_s`` from its arrival, ``actual_e2e_s`` from its
    dispatch, like the predictions.
    """
    line = _ALWAYS % (
        time_s,
        receipt.id.encode(),
        receipt.fleet_id.encode(),
        receipt.policy.encode(),
        receipt.instance.encode(),
        receipt.outcome.encode(),
        receipt.status,
        receipt.attempts,
        receipt.ended_s - receipt.started_s,
    )
    decision, prediction = receipt.decision, receipt.prediction
    if decision is not None:
        line += b',"decision_s":%.6f' % decision.took_s
        if decision.fallback is not None:
            line += b',"fallback":"%b"' % decision.fallback.encode()
    if receipt.first_byte_s is not None:
        line += b',"first_byte_s":%.6f' % (receipt.first_byte_s - receipt.started_s)
    if prediction is not None:
        line += b',"predicted_ttft_s":%.6f,"predicted_e2e_s":%.6f' % (prediction.ttft_s, prediction.e2e_s)
    if receipt.dispatched_s is not None:
        line += b',"actual_e2e_s":%.6f' % (receipt.ended_s - receipt.dispatched_s)
    if receipt.prompt_json:
        line += b',"prompt":' + receipt.prompt_json
    return line + b"}"
