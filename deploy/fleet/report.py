"""A fleet as it is: every group with its health, versions, load, and predicted and real latency."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping

import msgspec

from block.messages import CandidateRequest, PredictRequest, PredictResponse, StateResponse
from deploy.fleet.backend import Backend
from deploy.fleet.engine_gauges import EngineGauges, read_gauges
from deploy.fleet.group import Group, Role
from deploy.fleet.group_state import GroupState
from deploy.fleet.reach import healthy_in
from deploy.fleet.record import FleetRecord
from deploy.fleet.shell import HostError
from deploy.state import ProcessState

_TYPICAL_TOKENS = (256, 256)
"""Prompt and response of the request that is asked about before an engine has served any."""


class GroupReport(msgspec.Struct, frozen=True):
    """One row. Latencies in seconds; those that are not known are None."""

    name: str
    host: str
    phase: str
    reason: str = ""
    drained: bool = False
    url: str = ""
    job: str = ""
    vllm: str = ""
    """vLLM's version."""
    sources: str = ""
    """Digest of our own that it runs."""
    current: bool = True
    """Whether it runs with the settings and sources that were last asked for."""
    running: int | None = None
    waiting: int | None = None
    requests: int | None = None
    """Finished since its start."""
    predicted_ttft_s: float | None = None
    """Of a request of its mean size, were it to come now."""
    predicted_e2e_s: float | None = None
    ttft_s: float | None = None
    """Mean of those it has served."""
    e2e_s: float | None = None
    healthy: int | None = None
    """Instances that a scheduler takes for healthy."""


class FleetReport(msgspec.Struct, frozen=True):
    """What ``status`` shows."""

    name: str
    openai_base_urls: tuple[str, ...]
    groups: tuple[GroupReport, ...]
    unreachable: dict[str, str] = {}
    """Host -> why."""

    @property
    def all_ready(self) -> bool:
        """Whether everything runs that should."""
        return not self.unreachable and all(group.phase == "ready" for group in self.groups)


async def report_on(record: FleetRecord, backend: Backend, key: str = "") -> FleetReport:
    """Look at all hosts at the same time. One that cannot be reached is part of the report. ``key``: what
    predictors take."""
    states: dict[str, GroupState] = {}
    pages: dict[str, str] = {}
    unreachable: dict[str, str] = {}

    async def look(host: str) -> None:
        try:
            seen = await backend.look(host)
            states.update({state.name: state for state in seen})
            pages.update(await backend.fetch(host, dict.fromkeys(_pages(seen), "")))
            pages.update(await backend.fetch(host, dict.fromkeys(_state_pages(seen), ""), key))
            pages.update(await backend.fetch(host, _questions(seen, pages), key))
        except HostError as error:
            unreachable[host] = str(error)

    await asyncio.gather(*(look(host) for host in backend.hosts))
    groups = record.groups
    rows = [_row(group, states.get(group.name), pages, record, unreachable) for group in groups]
    wanted = {group.name for group in groups}
    rows += [_of_state(state) for name, state in states.items() if name not in wanted]
    schedulers = [row for row in rows if row.healthy is not None and row.phase == "ready"]
    return FleetReport(
        record.settings.name, tuple(f"{row.url}/v1" for row in schedulers), tuple(rows), unreachable
    )


def _pages(states: tuple[GroupState, ...]) -> list[str]:
    paths = {"engine": ("/version", "/metrics"), "predictor": (), "scheduler": ("/health",)}
    return [one.url + path for state in states for one in state.processes for path in paths[one.role]]


def _state_pages(states: tuple[GroupState, ...]) -> list[str]:
    """Those of the predictors, which may want a key."""
    return [f"{state.predictor_url}/v1/state" for state in states if state.predictor_url]


def _questions(states: tuple[GroupState, ...], pages: Mapping[str, str]) -> dict[str, str]:
    """What each predictor is asked: a request of its engine's mean size."""
    questions = {}
    for state in states:
        engine = _engine(state)
        if engine and f"{state.predictor_url}/v1/state" in pages:
            gauges = read_gauges(pages.get(f"{engine.url}/metrics", ""))
            prompt = gauges.mean_prompt_tokens or _TYPICAL_TOKENS[0]
            output = gauges.mean_output_tokens or _TYPICAL_TOKENS[1]
            request = PredictRequest(CandidateRequest("status", prompt, output, output))
            questions[f"{state.predictor_url}/v1/predict"] = msgspec.json.encode(request).decode()
    return questions


def _row(
    group: Group,
    state: GroupState | None,
    pages: Mapping[str, str],
    record: FleetRecord,
    unreachable: Mapping[str, str],
) -> GroupReport:
    drained = group.name in record.drained
    if state is None:
        why = "its host does not answer" if group.host in unreachable else "not started"
        return GroupReport(group.name, group.host, "unknown" if group.host in unreachable else "ended", why)
    row = msgspec.structs.replace(
        _of_state(state), drained=drained, sources=group.source, current=state.digest == group.digest
    )
    return msgspec.structs.replace(row, **_COLUMNS[group.role](state, pages))


def _of_state(state: GroupState) -> GroupReport:
    url = f"http://{state.address}:{state.processes[0].port}" if state.processes else ""
    host = state.node or state.host
    return GroupReport(state.name, host, state.phase, state.reason, url=url, job=state.job)


def _instance_columns(state: GroupState, pages: Mapping[str, str]) -> dict[str, object]:
    columns: dict[str, object] = {}
    engine = _engine(state)
    if engine and (metrics := pages.get(f"{engine.url}/metrics")):
        columns |= _measured(read_gauges(metrics))
        columns["vllm"] = _version(pages.get(f"{engine.url}/version", ""))
    columns |= _load(pages.get(f"{state.predictor_url}/v1/state", ""))
    columns |= _predicted(pages.get(f"{state.predictor_url}/v1/predict", ""))
    return columns


def _measured(gauges: EngineGauges) -> dict[str, object]:
    return {
        "running": gauges.running,
        "waiting": gauges.waiting,
        "requests": gauges.requests,
        "ttft_s": gauges.mean_ttft_s,
        "e2e_s": gauges.mean_e2e_s,
    }


def _load(page: str) -> dict[str, object]:
    """The predictor's own view, commitments included, is fresher than vLLM's gauges."""
    try:
        load = msgspec.json.decode(page, type=StateResponse).load
    except msgspec.DecodeError:
        return {}
    return {"running": load.running, "waiting": load.waiting + load.committed}


def _predicted(page: str) -> dict[str, object]:
    try:
        prediction = msgspec.json.decode(page, type=PredictResponse).prediction
    except msgspec.DecodeError:
        return {}
    if prediction is None:
        return {}
    return {"predicted_ttft_s": prediction.ttft_s, "predicted_e2e_s": prediction.e2e_s}


def _scheduler_columns(state: GroupState, pages: Mapping[str, str]) -> dict[str, object]:
    healthy = healthy_in(pages, state.processes[0].url) if state.processes else set()
    return {"healthy": len(healthy or ())}


_COLUMNS: Mapping[Role, Callable[[GroupState, Mapping[str, str]], Mapping[str, object]]] = {
    "predictors": lambda *_: {},
    "instance": _instance_columns,
    "scheduler": _scheduler_columns,
}


def _version(page: str) -> str:
    try:
        return str(json.loads(page)["version"])
    except (ValueError, KeyError, TypeError):
        return ""


def _engine(state: GroupState) -> ProcessState | None:
    return next((one for one in state.processes if one.role == "engine"), None)
