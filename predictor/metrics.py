"""What a predictor counts, for Prometheus. One registry per app: nothing is global."""

from __future__ import annotations

from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

_SECONDS = (0.00005, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


class PredictorMetrics:
    """Counters and histograms of one predictor; every series carries the instance's name."""

    def __init__(self, instance: str) -> None:
        """``instance`` labels every series."""
        self._registry = CollectorRegistry()
        self.prediction_seconds = Histogram(
            "block_prediction_seconds",
            "Time to simulate one what-if.",
            ["instance"],
            buckets=_SECONDS,
            registry=self._registry,
        ).labels(instance)
        self.commits = Counter(
            "block_commits", "Choices committed to this instance.", ["instance"], registry=self._registry
        ).labels(instance)
        self.messages = Counter(
            "block_feed_messages",
            "Messages of the engine's state feed applied.",
            ["instance"],
            registry=self._registry,
        ).labels(instance)

    def page(self) -> Response:
        """The metrics in Prometheus' text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
