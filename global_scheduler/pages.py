"""What the scheduler tells of itself and its fleet: models, health, metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from block.errors import RequestError
from block.http.message import Request, first_value
from global_scheduler.fleet import Fleet
from global_scheduler.instance_file import InstanceFile
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.model_list import ModelCard, render_model_list

_ONE_MODEL = b"/v1/models/"


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
        self._pages: Mapping[bytes, Callable[[Request], Page]] = {
            b"/v1/models": self._models,
            b"/health": self._health,
            b"/metrics": self._exposition,
        }

    def find(self, path: bytes) -> Callable[[Request], Page] | None:
        """What renders the page at ``path``; it may raise RequestError (404)."""
        return self._pages.get(path) or (self._model if path.startswith(_ONE_MODEL) else None)

    def _models(self, _: Request) -> Page:
        """``/v1/models`` of the healthy instances, merged."""
        return Page(render_model_list(self._cards()))

    def _model(self, request: Request) -> Page:
        """``/v1/models/NAME``: one of them."""
        name = unquote(request.path.removeprefix(_ONE_MODEL).decode("latin-1"))
        for card in self._cards():
            if card.id == name:
                return Page(card.raw)
        raise RequestError(
            f"The model {name[:200]!r} does not exist", status=404, code="model_not_found", param="model"
        )

    def _health(self, _: Request) -> Page:
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

    def _exposition(self, request: Request) -> Page:
        """What Prometheus reads."""
        self._metrics.instances_file_ok.set(self._file is None or self._file.problem is None)
        accept = first_value(request.headers, b"accept") or b""
        return Page(*self._metrics.exposition(accept.decode("latin-1")))

    def _cards(self) -> Iterator[ModelCard]:
        return (card for one in self._fleet.healthy for card in one.models or ())
