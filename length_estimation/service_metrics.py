"""What a length service counts, for Prometheus. One registry per app: nothing is global."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from length_estimation.batcher import Batcher

_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class LengthMetrics:
    """Counters of one service; ``batcher`` is looked at when the page is asked for."""

    def __init__(self, kind: str, model: str, batcher: Batcher) -> None:
        """``kind`` and ``model`` are the estimator's, from its card."""
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "block_length_request_seconds",
            "From a call's arrival to its answer, waiting for the batch before included.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._refused = Counter(
            "block_length_refused", "Calls refused, by HTTP status.", ["status"], registry=self._registry
        )
        self._estimates = Counter("block_length_estimates", "Estimates given.", registry=self._registry)
        waiting = Gauge("block_length_waiting", "Prompts not yet in a batch.", registry=self._registry)
        waiting.set_function(lambda: batcher.waiting)
        info = Info("block_length_model", "Estimator in force.", registry=self._registry)
        info.info({"kind": kind, "model": model})

    def answered(self, estimates: int, seconds: float) -> None:
        """A call was answered."""
        self._estimates.inc(estimates)
        self._seconds.observe(seconds)

    def refused(self, status: int) -> None:
        """A call was refused."""
        self._refused.labels(str(status)).inc()

    def page(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
