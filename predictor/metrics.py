"""What a predictor counts, for Prometheus. One registry per predictor: nothing is global."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Gauge,
    Info,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from block.http.message import Response
from block.series import Counters, Histograms
from block.types import CalibrationStatus

_SECONDS_SUFFIX = re.compile(r"_s$")
_SECONDS = (0.00005, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)

# Field of CalibrationStatus -> what it says.
_CALIBRATION = {
    "samples": "Engine steps observed since the start or the last reset.",
    "factor": "Common factor on the base model's step times.",
    "offset_s": "Seconds added to every step.",
    "context_factor": "Slope in context relative to the base model's.",
    "step_overhead_s": "Usual gap between a step's end and the next submission while work waits.",
    "recent_error": "Median relative error of recent steps' predicted times.",
    "base_error": "The same, had the base model not been corrected.",
    "pace": "By how much longer than learned steps are expected to last for the moment.",
}


class PredictorMetrics:
    """Counters and histograms of one predictor; every series carries the instance's name."""

    def __init__(self, instance: str) -> None:
        """``instance`` labels every series."""
        self._registry = CollectorRegistry()
        fixed = {"instance": instance}
        self.prediction_seconds = Histograms(
            "block_prediction_seconds", "Time to simulate one what-if.", _SECONDS, unit="seconds", fixed=fixed
        )
        self.commits = Counters("block_commits", "Choices committed to this instance.", fixed=fixed)
        self.messages = Counters(
            "block_feed_messages", "Messages of the engine's state feed applied.", fixed=fixed
        )
        for family in (self.prediction_seconds, self.commits, self.messages):
            self._registry.register(family)
        own: dict[str, Any] = {"labelnames": ["instance"], "registry": self._registry}
        self.ready = Gauge("block_predictor_ready", "1 while questions are answered.", **own).labels(instance)
        self.feed_age_seconds = Gauge(
            "block_feed_age_seconds", "Since the last message of the engine's state feed.", **own
        ).labels(instance)
        self._calibration = {
            name: Gauge(f"block_calibration_{_SECONDS_SUFFIX.sub('_seconds', name)}", text, **own).labels(
                instance
            )
            for name, text in _CALIBRATION.items()
        }
        self._model = Info("block_model", "Step-latency model in force.", **own).labels(instance)

    def show_calibration(self, status: CalibrationStatus) -> None:
        """Set the gauges that tell how the step times have been corrected."""
        for name, gauge in self._calibration.items():
            gauge.set(getattr(status, name))
        self._model.info({"version": status.version})

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from self._registry.collect()


class _Together(Collector):
    """Several predictors' metrics as one registry's: each family in one piece, as the format wants it."""

    def __init__(self, predictors: Iterable[PredictorMetrics]) -> None:
        self._predictors = predictors

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for predictor in self._predictors:
            for family in predictor.collect():
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples.extend(family.samples)
        return families.values()


def metrics_page(*predictors: PredictorMetrics) -> Response:
    """The metrics of one or several predictors in Prometheus' text format."""
    content_type = CONTENT_TYPE_LATEST.encode()
    return Response(200, [(b"content-type", content_type)], generate_latest(_Together(predictors)))
