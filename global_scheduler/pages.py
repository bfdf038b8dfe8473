"""What the scheduler tells of itself and its fleet: models, health, metrics."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from global_scheduler.fleet import Fleet
from global_scheduler.instance_file import InstanceFile
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.model_list import render_model_list


@dataclass(frozen=True, slots=True)
class Page:
    """One answer."""

    body: bytes
    content_type: bytes = b"application/json"
    status: int = 200


class InstanceHealth(msgspec.Struct, frozen=True):
    """One instance in the health page."""

    name: str
    healthy: bool
    condition: str
    outstanding: int
    models: tuple[str, ...]


class HealthReport(msgspec.Struct, frozen=True):
    """The health page: 200 if at least one instance is healthy, else 503."""

    status: str
    instances: tuple[InstanceHealth, ...]
    instances_file_problem: str | None = None


class Pages:
    """Renders the pages from the fleet as it is now."""

    def __init__(self, fleet: Fleet, metrics: SchedulerMetrics, file: InstanceFile | None = None) -> None:
        self._fleet = fleet
        self._file = file
        self._metrics = metrics

    def models(self) -> Page:
        """``/v1/models`` of the healthy instances, merged."""
        return Page(render_model_list(card for one in self._fleet.healthy for card in one.models or ()))

    def health(self) -> Page:
        """Whether requests can be served, and by whom."""
        instances = tuple(
            InstanceHealth(
                one.name,
                one.healthy,
                one.condition,
                one.outstanding,
                tuple(card.id for card in one.models or ()),
            )
            for one in self._fleet.instances
        )
        up = any(instance.usable for instance in self._fleet.instances)
        problem = None if self._file is None else self._file.problem
        report = HealthReport("ok" if up else "no healthy instance", instances, problem)
        return Page(msgspec.json.encode(report), status=200 if up else 503)

    def metrics(self) -> Page:
        """What Prometheus reads."""
        self._metrics.instances_file_ok.set(self._file is None or self._file.problem is None)
        return Page(self._metrics.exposition(), b"text/plain; version=0.0.4; charset=utf-8")
