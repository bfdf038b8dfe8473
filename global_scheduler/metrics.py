"""The scheduler's metrics: one Prometheus registry per app, labels only from bounded sets.

Names and units follow OpenMetrics; those that begin with ``gen_ai`` are OpenTelemetry's conventions for
generative AI, with its buckets, as Prometheus writes them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TypeVar

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from block.series import OTHER, Counters, Histograms
from global_scheduler.fleet import Fleet, Instance
from length_estimation.length_service import LengthTally

NONE = "none"
"""Label of what does not apply."""

_PLAIN = exposition.CONTENT_TYPE_PLAIN_0_0_4
_SAMPLE = re.compile(rb"^(\w+)([{ ])", re.MULTILINE)
_SHORT_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_RATIO = (-0.9, -0.5, -0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0)
_SIGNED_S = (-30.0, -10.0, -3.0, -1.0, -0.3, -0.1, -0.03, 0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_GEN_AI = ("gen_ai_operation_name", "gen_ai_request_model")
_PROVIDER = {"gen_ai_provider_name": "vllm"}
_TEXTS = {
    "block_requests": "Requests that are over, by policy, instance and outcome (2xx..5xx, broken, gone).",
    "block_decisions": "Choices of an instance, by policy, reason, and what stood in for it, if anything.",
    "block_receipts": "Decision receipts by outcome: written, dropped (too many waited), failed.",
    "block_retries": "Attempts that failed before the first byte, by reason.",
    "block_probes": "Predictor probes by outcome: answered, late, failed.",
    "block_unauthorized": "Requests without a valid key.",
    "block_probe_seconds": "Time of a probe that was answered.",
    "block_decision_seconds": "From the request's body to the choice of an instance.",
    "block_overhead_seconds": "From the request's body to the answer's head, but for waits for instances.",
    "block_prediction_error_seconds": "Predicted - actual, of ttft and e2e.",
    "block_prediction_error_ratio": "(predicted - actual) / actual, of ttft, e2e and output_tokens.",
    "gen_ai_server_request_duration_seconds": "From the request's body to the end of the answer.",
    "gen_ai_server_time_to_first_token_seconds": "From the request's body to the first event of a stream.",
    "gen_ai_server_time_per_output_token_seconds": "Of streams, after the first token; only while "
    "answers are counted (receipts, traces, lengths).",
    "block_instances_file_ok": "0 if the file of instances is broken and its last good state is followed.",
}
"""What each family tells."""

FamilyT = TypeVar("FamilyT", bound=Collector)


class SchedulerMetrics:
    """Counters and histograms, each named once."""

    def __init__(self, fleet: Fleet, worker: int | None = None) -> None:
        """``worker`` labels every series, for each scrape is answered by another process."""
        self._fleet = fleet
        self._worker = worker
        self._registry = CollectorRegistry()
        self.requests = self._counters("block_requests", "policy", "instance", "outcome")
        self.decisions = self._counters("block_decisions", "policy", "reason", "fallback")
        self.receipts = self._counters("block_receipts", "outcome")
        self.retries = self._counters("block_retries", "reason")
        self.probes = self._counters("block_probes", "outcome")
        self.unauthorized = self._counters("block_unauthorized")
        self.probe_s = self._seconds("block_probe_seconds", _SHORT_S)
        self.decision_s = self._seconds("block_decision_seconds", _SHORT_S)
        self.overhead_s = self._seconds("block_overhead_seconds", _SHORT_S)
        self.error_s = self._seconds("block_prediction_error_seconds", _SIGNED_S, "quantity")
        self.error_ratio = self._ratios("block_prediction_error_ratio", _RATIO, "quantity")
        self.duration_s = self._gen_ai("gen_ai_server_request_duration_seconds", _DURATION_S, "error_type")
        self.ttft_s = self._gen_ai("gen_ai_server_time_to_first_token_seconds", _FIRST_TOKEN_S)
        self.per_token_s = self._gen_ai("gen_ai_server_time_per_output_token_seconds", _PER_TOKEN_S)
        file_ok = "block_instances_file_ok"
        self.instances_file_ok = Gauge(file_ok, _TEXTS[file_ok], registry=self._registry)
        self.open_requests = 0
        self.lengths = LengthTally()
        """How length estimates came about; the length service's own counts."""
        self.before_reading: Callable[[], None] = _nothing
        """Called before metrics are read, to add what is still to be counted."""
        self._registry.register(_FleetGauges(fleet))
        self._registry.register(_OpenRequests(self))
        self._registry.register(_LengthEstimates(self))
        ProcessCollector(registry=self._registry)

    def exposition(self, accept: str = "") -> tuple[bytes, bytes]:
        """The text that Prometheus reads, OpenMetrics if ``accept`` asks for it, and its content type."""
        self.before_reading()
        names = {NONE, OTHER, *(instance.name for instance in self._fleet.instances)}
        self.requests.keep(lambda key: key[1] in names)
        if "application/openmetrics-text" in accept:
            text = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            content_type = openmetrics.CONTENT_TYPE_LATEST
        else:
            text, content_type = exposition.generate_latest(self._registry), _PLAIN
        if self._worker is not None:
            text = _labelled(text, b'worker="%d"' % self._worker)
        return text, content_type.encode()

    def _counters(self, name: str, *labels: str) -> Counters:
        return self._registered(Counters(name, _TEXTS[name], labels))

    def _ratios(self, name: str, bounds: tuple[float, ...], *labels: str) -> Histograms:
        return self._registered(Histograms(name, _TEXTS[name], bounds, labels))

    def _seconds(self, name: str, bounds: tuple[float, ...], *labels: str) -> Histograms:
        return self._registered(Histograms(name, _TEXTS[name], bounds, labels, unit="seconds"))

    def _gen_ai(self, name: str, bounds: tuple[float, ...], *labels: str) -> Histograms:
        family = Histograms(name, _TEXTS[name], bounds, (*_GEN_AI, *labels), unit="seconds", fixed=_PROVIDER)
        return self._registered(family)

    def _registered(self, family: FamilyT) -> FamilyT:
        self._registry.register(family)
        return family


class _OpenRequests(Collector):
    def __init__(self, metrics: SchedulerMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        text = "Requests that have come and are not over, decided on or not."
        yield GaugeMetricFamily("block_open_requests", text, self._metrics.open_requests)


class _LengthEstimates(Collector):
    def __init__(self, metrics: SchedulerMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        text = "Length estimates asked for, cached, late, failed or refused; completed requests learned from."
        family = CounterMetricFamily("block_length_estimates", text, labels=("outcome",))
        for outcome, count in asdict(self._metrics.lengths).items():
            family.add_metric((outcome,), count)
        yield family


class _FleetGauges(Collector):
    """What is known of each instance at the moment of the scrape; nothing of those that are gone."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        for name, text, read in _GAUGES:
            family = GaugeMetricFamily(name, text, labels=("instance",))
            for instance in self._fleet.instances:
                value = read(instance)
                if value is not None:
                    family.add_metric((instance.name,), value)
            yield family


def _heard(field: str) -> Callable[[Instance], float | None]:
    """Of the load that the instance's predictor told last."""

    def read(instance: Instance) -> float | None:
        load = instance.traffic.heard_load
        return None if load is None else float(getattr(load, field))

    return read


_GAUGES: tuple[tuple[str, str, Callable[[Instance], float | None]], ...] = (
    (
        "block_instance_up",
        "1 if the instance answered its last health poll.",
        lambda instance: float(instance.healthy),
    ),
    (
        "block_instance_ready",
        "1 if nothing speaks against sending it requests.",
        lambda instance: float(instance.ready),
    ),
    (
        "block_breaker_state",
        "0 closed, 1 half open, 2 open.",
        lambda instance: float(instance.breaker.state),
    ),
    (
        "block_outstanding_requests",
        "Requests sent by this scheduler and not over.",
        lambda instance: float(instance.outstanding),
    ),
    (
        "block_outstanding_tokens",
        "Prompt and expected output tokens of those.",
        lambda instance: float(instance.traffic.outstanding_tokens),
    ),
    (
        "block_predictor_age_seconds",
        "Since the instance's predictor answered last.",
        lambda instance: instance.traffic.heard_age_s(time.monotonic()),
    ),
    (
        "block_engine_running_requests",
        "In the engine's batch, as its predictor told last.",
        _heard("running"),
    ),
    ("block_engine_waiting_requests", "In the engine's queue, as told last.", _heard("waiting")),
    ("block_engine_committed_requests", "On their way to the engine, as told last.", _heard("committed")),
    ("block_engine_free_blocks", "Free KV blocks, as told last.", _heard("free_blocks")),
    ("block_engine_blocks", "All KV blocks, as told last.", _heard("total_blocks")),
    (
        "block_engine_unprocessed_tokens",
        "Prompt and expected output tokens still to be computed, as told last.",
        _heard("unprocessed_tokens"),
    ),
)


def _nothing() -> None:
    """Nobody counts later."""


def _labelled(text: bytes, label: bytes) -> bytes:
    """The label put first in every sample."""
    return _SAMPLE.sub(lambda name: name[1] + b"{" + label + (b"," if name[2] == b"{" else b"} "), text)
