"""A running fleet as the provisioning controller sees and changes it: through its back end and verbs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

import msgspec
from rich.console import Console

from block.messages import CandidateRequest, PredictRequest, PredictResponse, StateResponse
from block.types import EngineLoad
from deploy.fleet import commands
from deploy.fleet.backend import Backend
from deploy.fleet.engine_gauges import EngineGauges, read_gauges
from deploy.fleet.group_state import GroupState
from deploy.fleet.record import FleetFolder, FleetRecord
from deploy.fleet.request_sizes import draw_sizes, read_histogram
from deploy.fleet.session import opened
from deploy.fleet.verbs import engine_url
from deploy.state import ProcessState
from global_scheduler.provisioning.base import InstanceSeen, Observation

_TYPICAL_TOKENS = 256
"""Of prompt and response, before any request has been served."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """Instances that were asked for: how many, when, and how many served then."""

    count: int = 0
    at_s: float = 0.0
    served: int = 0

    def left(self, serving: int) -> int:
        """Of those, the ones that do not serve yet."""
        return max(self.count - max(serving - self.served, 0), 0)


class ProvisionedFleet:
    """One fleet. Used within ``async with``, which holds the connections for looking."""

    def __init__(self, folder: FleetFolder, cold_start_s: float, console: Console) -> None:
        self._folder = folder
        self._cold_start_s = cold_start_s
        self._console = console
        self._stack = AsyncExitStack()
        self._backend: Backend | None = None
        self._asked = _Asked()
        self._served = 0
        """Instances at the latest look."""
        self._counted: dict[str, int] = {}
        self._answered: dict[str, tuple[int, float]] = {}
        self._requests = 0

    async def __aenter__(self) -> Self:
        record = commands.recorded(self._folder)
        self._backend = await self._stack.enter_async_context(opened(record))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def add(self, count: int) -> None:
        """Start instances and wait until all schedulers reach them."""
        self._asked = _Asked(count, time.monotonic(), self._served)
        try:
            await commands.grow(self._folder, count, self._console)
        finally:
            self._asked = _Asked()

    async def drain(self, name: str) -> None:
        """Take an instance off the schedulers' lists, wait until it is idle, end it."""
        await commands.retire(self._folder, name, self._console)

    async def look(self) -> Observation:
        """Ask every engine for its metrics and every predictor for its state and a prediction."""
        record = commands.recorded(self._folder)
        states = await self._serving(record)
        pages = await self._pages(states)
        metrics = {state.name: pages.get(f"{engine_url(state)}/metrics", "") for state in states}
        gauges = {name: read_gauges(page) for name, page in metrics.items() if page}
        measured_s = self._measured_s(gauges)
        self._count(gauges)
        self._served = len(states)
        waited_s = time.monotonic() - self._asked.at_s
        return Observation(
            at_s=time.time(),
            instances=tuple(InstanceSeen(state.name, _load(state, pages, gauges)) for state in states),
            starting_s=(max(self._cold_start_s - waited_s, 0.0),) * self._asked.left(len(states)),
            requests=self._requests,
            sizes=draw_sizes(
                read_histogram(metrics.values(), "request_prompt_tokens"),
                read_histogram(metrics.values(), "request_generation_tokens"),
            ),
            measured_e2e_s=measured_s,
            predicted_e2e_s=await self._predicted_s(states, pages, gauges),
        )

    async def _serving(self, record: FleetRecord) -> list[GroupState]:
        assert self._backend is not None
        wanted = {group.name for group in record.groups if group.role == "instance"} - set(record.drained)
        found = [state for host in self._backend.hosts for state in await self._backend.look(host)]
        return [state for state in found if state.name in wanted and state.phase == "ready"]

    async def _pages(self, states: list[GroupState]) -> Mapping[str, str]:
        asked: dict[str, dict[str, str]] = {}
        for state in states:
            pages = asked.setdefault(state.host, {})
            pages[f"{engine_url(state)}/metrics"] = ""
            if predictor := _predictor(state):
                pages[f"{predictor.url}/v1/state"] = ""
        return await self._fetch(asked)

    async def _predicted_s(
        self, states: list[GroupState], pages: Mapping[str, str], gauges: Mapping[str, EngineGauges]
    ) -> float | None:
        """The least that a request of the fleet's mean size is predicted to take."""
        prompt, output = _mean_size(gauges)
        request = PredictRequest(CandidateRequest("provisioning", prompt, output, output))
        question = msgspec.json.encode(request).decode()
        asked: dict[str, dict[str, str]] = {}
        for state in states:
            predictor = _predictor(state)
            if predictor and f"{predictor.url}/v1/state" in pages:
                asked.setdefault(state.host, {})[f"{predictor.url}/v1/predict"] = question
        answers = [_e2e_s(page) for page in (await self._fetch(asked)).values()]
        return min((found for found in answers if found is not None), default=None)

    async def _fetch(self, asked: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
        assert self._backend is not None
        found: dict[str, str] = {}
        for host, pages in asked.items():
            found.update(await self._backend.fetch(host, pages))
        return found

    def _count(self, gauges: Mapping[str, EngineGauges]) -> None:
        """Add what has come since the last look; an engine that is new or was restarted counts from 0."""
        for name, now in gauges.items():
            come = now.requests + now.outstanding
            before = self._counted.get(name, 0)
            self._requests += come - before if come >= before else come
            self._counted[name] = come

    def _measured_s(self, gauges: Mapping[str, EngineGauges]) -> float | None:
        """The highest of the engines' mean E2E over the answers since the last look."""
        found = []
        for name, now in gauges.items():
            total_s = now.requests * (now.mean_e2e_s or 0.0)
            requests, before_s = self._answered.get(name, (0, 0.0))
            if now.requests > requests and total_s >= before_s:
                found.append((total_s - before_s) / (now.requests - requests))
            self._answered[name] = (now.requests, total_s)
        return max(found, default=None)


def _load(state: GroupState, pages: Mapping[str, str], gauges: Mapping[str, EngineGauges]) -> EngineLoad:
    """What its predictor says; without one, what its engine counts."""
    predictor = _predictor(state)
    try:
        page = pages.get(f"{predictor.url}/v1/state", "") if predictor else ""
        return msgspec.json.decode(page, type=StateResponse).load
    except msgspec.DecodeError:
        seen = gauges.get(state.name)
        return EngineLoad(seen.running if seen else 0, seen.waiting if seen else 0, 0, 0, 0, 0, 0)


def _mean_size(gauges: Mapping[str, EngineGauges]) -> tuple[int, int]:
    requests = sum(each.requests for each in gauges.values())
    if not requests:
        return _TYPICAL_TOKENS, _TYPICAL_TOKENS
    prompt = sum(each.requests * each.mean_prompt_tokens for each in gauges.values()) / requests
    output = sum(each.requests * each.mean_output_tokens for each in gauges.values()) / requests
    return max(round(prompt), 1), max(round(output), 1)


def _e2e_s(page: str) -> float | None:
    try:
        prediction = msgspec.json.decode(page, type=PredictResponse).prediction
    except msgspec.DecodeError:
        return None
    return prediction.e2e_s if prediction and math.isfinite(prediction.e2e_s) else None


def _predictor(state: GroupState) -> ProcessState | None:
    return next((one for one in state.processes if one.role == "predictor"), None)
