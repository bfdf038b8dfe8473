"""From a receipt to the metrics: what each finished request adds to which."""

from __future__ import annotations

from block.series import OTHER, Key
from block.types import Prediction
from global_scheduler.endpoints import operation_of
from global_scheduler.fleet import Fleet
from global_scheduler.metrics import NONE, SchedulerMetrics
from global_scheduler.receipt import Receipt

MOST_MODELS = 200
"""Names of models that become labels. A client may ask for any; only those that instances list count."""


class Measures:
    """Some microseconds per request, so nothing here looks anything up twice."""

    def __init__(self, metrics: SchedulerMetrics, fleet: Fleet) -> None:
        self._metrics = metrics
        self._fleet = fleet
        self._served: dict[tuple[bytes, str], Key] = {}
        """Path and model -> the labels of both."""

    def begin(self) -> None:
        """A request has come; ``end`` follows when it is over, and ``take`` soon after."""
        self._metrics.open_requests += 1

    def end(self) -> None:
        """A request is over."""
        self._metrics.open_requests -= 1

    def take(self, receipt: Receipt) -> None:
        """Count a request that is over."""
        metrics, outcome, decision = self._metrics, receipt.outcome, receipt.decision
        metrics.requests.count((receipt.policy, receipt.instance, outcome))
        if decision is not None:
            metrics.decision_s.observe(decision.took_s)
            metrics.decisions.count((decision.policy, decision.choice.reason, decision.fallback or NONE))
        if receipt.overhead_s is not None:
            metrics.overhead_s.observe(receipt.overhead_s)
        served = self._served.get((receipt.path, receipt.model)) or self._labels(receipt)
        succeeded = outcome == "2xx"
        error = "" if succeeded else _error_type(receipt, outcome)
        metrics.duration_s.observe(receipt.total_s, (*served, error))
        if succeeded:
            self._take_times(receipt, served)

    def _take_times(self, receipt: Receipt, served: Key) -> None:
        first_byte_s = receipt.first_byte_s
        if receipt.streamed and first_byte_s is not None:
            self._metrics.ttft_s.observe(first_byte_s - receipt.started_s, served)
            if receipt.output_tokens is not None and receipt.output_tokens > 1:
                per_token_s = (receipt.ended_s - first_byte_s) / (receipt.output_tokens - 1)
                self._metrics.per_token_s.observe(per_token_s, served)
        if receipt.prediction is not None and receipt.attempts == 1:  # else time went by after it
            self._take_errors(receipt, receipt.prediction)

    def _take_errors(self, receipt: Receipt, prediction: Prediction) -> None:
        if receipt.streamed:  # else the first byte comes with the last
            self._compare("ttft", prediction.ttft_s, receipt.ttft_s)
        self._compare("e2e", prediction.e2e_s, receipt.e2e_s)
        actual = receipt.output_tokens
        if actual and receipt.decision is not None:
            expected = receipt.decision.request.output_tokens
            self._metrics.error_ratio.observe((expected - actual) / actual, ("output_tokens",))

    def _compare(self, quantity: str, predicted_s: float, actual_s: float | None) -> None:
        if actual_s:
            error_s, key = predicted_s - actual_s, (quantity,)
            self._metrics.error_s.observe(error_s, key)
            self._metrics.error_ratio.observe(error_s / actual_s, key)

    def _labels(self, receipt: Receipt) -> Key:
        operation, model = operation_of(receipt.path), receipt.model
        if model and not self._fleet.lists(model):
            return operation, OTHER
        labels = (operation, model or NONE)
        if len(self._served) >= MOST_MODELS:
            return operation, OTHER
        self._served[receipt.path, model] = labels
        return labels


def _error_type(receipt: Receipt, outcome: str) -> str:
    """OpenTelemetry's ``error.type``: the status, or why there is no use in telling it."""
    return outcome if receipt.gone or receipt.broken else str(receipt.status)
