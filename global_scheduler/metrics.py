"""The scheduler's metrics: one Prometheus registry per app, labels only from bounded sets."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from global_scheduler.fleet import Fleet
from global_scheduler.histogram import Histogram

_SAMPLE = re.compile(rb"^(\w+)([{ ])", re.MULTILINE)
_SHORT_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LONG_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_RELATIVE = (-0.9, -0.5, -0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0)


class SchedulerMetrics:
    """Counters and histograms, each named once."""

    def __init__(self, fleet: Fleet, worker: int | None = None) -> None:
        """``worker`` labels every series, for each scrape is answered by another process."""
        self._fleet = fleet
        self._worker = worker
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "block_requests_total",
            "Requests that are over, by policy, instance and outcome (2xx..5xx, broken, gone).",
            ("policy", "instance", "outcome"),
            registry=self._registry,
        )
        self.retries = Counter(
            "block_retries_total",
            "Attempts that failed before the first byte, by reason.",
            ("reason",),
            registry=self._registry,
        )
        self.probes = Counter(
            "block_probes_total",
            "Predictor probes by outcome: answered, late, failed.",
            ("outcome",),
            registry=self._registry,
        )
        self.probe_s = self._histogram("block_probe_seconds", "Time of a probe that was answered.", _SHORT_S)
        self.decision_s = self._histogram(
            "block_decision_seconds", "From the request's body to the choice of an instance.", _SHORT_S
        )
        self.first_byte_s = self._histogram(
            "block_first_byte_seconds", "From the request's body to the answer's first byte.", _LONG_S
        )
        self.prediction_error = self._histogram(
            "block_prediction_relative_error", "(predicted - actual) / actual of E2E.", _RELATIVE
        )
        self._outstanding = self._gauge("block_outstanding_requests", "Requests sent and not over.")
        self._up = self._gauge("block_instance_up", "1 if the instance answered its last health poll.")
        self._ready = self._gauge("block_instance_ready", "1 if nothing speaks against sending it requests.")
        self._breaker = self._gauge("block_breaker_state", "0 closed, 1 half open, 2 open.")
        self.instances_file_ok = Gauge(
            "block_instances_file_ok",
            "0 if the file of instances is broken and its last good state is followed.",
            registry=self._registry,
        )

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        for gauge in (self._outstanding, self._up, self._ready, self._breaker):
            gauge.clear()  # instances come and go
        for instance in self._fleet.instances:
            self._outstanding.labels(instance.name).set(instance.outstanding)
            self._up.labels(instance.name).set(instance.healthy)
            self._ready.labels(instance.name).set(instance.ready)
            self._breaker.labels(instance.name).set(instance.breaker.state)
        text = generate_latest(self._registry)
        return text if self._worker is None else _labelled(text, b'worker="%d"' % self._worker)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, text, buckets)
        self._registry.register(histogram)
        return histogram

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("instance",), registry=self._registry)


def _labelled(text: bytes, label: bytes) -> bytes:
    """The label put first in every sample."""
    return _SAMPLE.sub(lambda name: name[1] + b"{" + label + (b"," if name[2] == b"{" else b"} "), text)
