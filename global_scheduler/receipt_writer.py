"""Writes decision receipts, off the way of requests: a bounded queue, and a thread that empties it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from pathlib import Path

import msgspec

from block.decision_receipt import RECEIPT_VERSION, DecisionReceipt, ReceiptCandidate
from block.errors import ConfigError
from block.operation import ReceiptSettings
from global_scheduler.decision import Decision
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.policies import Candidate
from global_scheduler.receipt import Receipt

WRITE_S = 0.1
"""Between two looks at the queue."""
BATCH = 32
"""Receipts written at once: while they are encoded, the event loop waits."""
CLOSE_S = 3.0
"""What writing the last ones may take; nothing may hold up the service's end."""
_STDOUT = 1

logger = logging.getLogger(__name__)


class ReceiptWriter:
    """Appends to a file or to the standard output. Several processes may share a file: they write whole
    lines, each batch of them at once.
    """

    def __init__(self, settings: ReceiptSettings, metrics: SchedulerMetrics) -> None:
        """Raises ConfigError if the file cannot be written."""
        self._file = settings.file
        self._most = settings.queue
        self._counts = metrics.receipts
        for outcome in ("written", "dropped", "failed"):
            self._counts.count(
                (outcome,), 0
            )  # each is counted by one thread only, and a key is there at once
        self._queue: deque[tuple[Receipt, float]] = deque()
        self._encoder = msgspec.json.Encoder()
        self._ending = threading.Event()
        self._renewed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="receipts", daemon=True)
        self._descriptor = _STDOUT
        if self._file is not None:
            os.close(_opened(self._file))  # it can be; a process that only forks others must not hold it

    def start(self) -> None:
        """Begin to write. Raises ConfigError if the file cannot be written any more."""
        if self._file is not None:
            self._descriptor = _opened(self._file)
        self._thread.start()

    def put(self, receipt: Receipt) -> None:
        """Have one written; it is dropped if too many wait already."""
        if len(self._queue) < self._most:
            self._queue.append((receipt, time.time()))
        else:
            self._counts.count(("dropped",))

    def renew(self) -> None:
        """Open the file anew: it may have been moved away."""
        self._renewed.set()

    def close(self) -> None:
        """Write what waits, if that can be done in time."""
        self._ending.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            logger.error("receipts: %d could not be written in time", len(self._queue))

    def _work(self) -> None:
        ending = False
        while not ending:
            ending = self._ending.wait(WRITE_S)
            if self._renewed.is_set():
                self._renewed.clear()
                self._open_anew()
            while self._queue:
                self._write(self._taken())
        if self._file is not None:
            os.close(self._descriptor)

    def _taken(self) -> list[bytes]:
        queue, encode = self._queue, self._encoder.encode
        count = min(len(queue), BATCH)
        return [encode(_decision_receipt(*queue.popleft())) + b"\n" for _ in range(count)]

    def _write(self, lines: list[bytes]) -> None:
        try:
            _write_all(self._descriptor, b"".join(lines))
        except OSError as error:
            self._counts.count(("failed",), len(lines))
            logger.error("receipts: %d lost, for they cannot be written: %s", len(lines), error)
        else:
            self._counts.count(("written",), len(lines))

    def _open_anew(self) -> None:
        if self._file is None:
            return
        try:
            descriptor = _opened(self._file)
        except ConfigError as error:
            logger.error("receipts go where they went: %s", error)
            return
        os.close(self._descriptor)
        self._descriptor = descriptor


def _opened(file: Path) -> int:
    try:
        return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise ConfigError(
            f"settings.receipts.file = {file}: cannot be written ({error.strerror}); check the path"
        ) from error


def _write_all(descriptor: int, data: bytes) -> None:
    """A regular file takes all at once; a pipe may take it in pieces."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _decision_receipt(receipt: Receipt, ended_at_s: float) -> DecisionReceipt:
    line = DecisionReceipt(
        version=RECEIPT_VERSION,
        time_s=round(ended_at_s - receipt.total_s, 6),
        id=receipt.id,
        fleet_id=receipt.fleet_id,
        path=receipt.path.decode("latin-1"),
        model=receipt.model,
        policy=receipt.policy,
        instance=receipt.instance,
        attempts=receipt.attempts,
        outcome=receipt.outcome,
        status=receipt.status,
        overhead_s=receipt.overhead_s,
        ttft_s=receipt.ttft_s,
        e2e_s=receipt.e2e_s,
        total_s=receipt.total_s,
        output_tokens=receipt.output_tokens,
        prompt=msgspec.Raw(receipt.prompt_json) if receipt.prompt_json else msgspec.UNSET,
    )
    return line if receipt.decision is None else _with_decision(line, receipt.decision)


def _with_decision(line: DecisionReceipt, decision: Decision) -> DecisionReceipt:
    request, choice = decision.request, decision.choice
    return msgspec.structs.replace(
        line,
        prompt_tokens=request.prompt_tokens,
        expected_tokens=request.output_tokens,
        expected_quantiles=request.output_quantiles,
        expected_by=request.estimated_by,
        max_tokens=request.max_tokens,
        candidates=tuple(map(_candidate, decision.candidates)),
        choice=choice.instance,
        ranking=choice.ranking,
        reason=choice.reason,
        fallback=decision.fallback,
        decision_s=decision.took_s,
    )


def _candidate(candidate: Candidate) -> ReceiptCandidate:
    return ReceiptCandidate(
        name=candidate.name,
        outstanding=candidate.outstanding,
        outstanding_tokens=candidate.outstanding_tokens,
        cached_tokens=candidate.cached_tokens,
        prediction=candidate.prediction,
        load=candidate.load,
    )
