"""A fleet's back end that lies in memory: hosts that start groups at once, or fail as they are told."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from block.config import parse_config
from block.fleet_config import FleetConfig
from block.messages import PredictResponse, StateResponse
from block.types import CalibrationStatus, EngineLoad, Prediction, PredictionSpread
from deploy.fleet.agent_messages import Logs
from deploy.fleet.group import Group
from deploy.fleet.group_state import GroupPhase, GroupState
from deploy.fleet.install import Report
from deploy.fleet.record import FleetRecord
from deploy.fleet.shell import HostError
from deploy.state import ProcessState

LOAD = EngineLoad(3, 1, 0, 600, 1052, 200, 900)
"""What each predictor says of its engine."""


class Hosts:
    """Two hosts; groups are ready as soon as they are started, unless told otherwise."""

    hosts = ("a", "b")

    def __init__(self) -> None:
        self.states: dict[str, GroupState] = {}
        self.broken: set[str] = set()
        self.failing: dict[str, str] = {}
        """Groups that end at start, and why."""
        self.slow: set[str] = set()
        """Groups that do not get beyond starting."""
        self.busy: dict[str, int] = {}
        """Requests of an instance; one fewer each time it is asked."""
        self.silent: set[str] = set()
        """Servers that do not answer."""
        self.key = ""
        """That predictors take."""
        self.calibration: CalibrationStatus | None = None
        self.keys_brought: dict[str, str] = {}
        """By kind of page."""
        self.told: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        self.calls: list[str] = []

    def _reach(self, host: str) -> None:
        if host in self.broken:
            raise HostError(f"{host}: ssh {host}: Connection refused")

    async def put(self, host: str, report: Report) -> bool:
        self._reach(host)
        return True

    async def start(self, group: Group, secrets: Mapping[str, str]) -> None:
        self._reach(group.host)
        there = self.states.get(group.name)
        if there and there.digest == group.digest and there.phase in {"starting", "ready"}:
            return
        self.calls.append(f"start {group.name}")
        reason = self.failing.get(group.name, "")
        phase: GroupPhase = "ended" if reason else "starting" if group.name in self.slow else "ready"
        self.states[group.name] = GroupState(
            group.name,
            group.digest,
            group.host,
            phase,
            reason,
            processes=_processes(group, phase),
            predictor_url=f"http://{group.name}.predictor" if group.role == "instance" else "",
        )

    async def stop(self, host: str, name: str) -> None:
        self.calls.append(f"stop {name}")
        del self.states[name]

    async def look(self, host: str) -> tuple[GroupState, ...]:
        self._reach(host)
        return tuple(state for state in self.states.values() if state.host == host)

    async def tell(self, host: str, groups: Sequence[Group], drained: Collection[str]) -> None:
        self._reach(host)
        self.told.append((tuple(g.name for g in groups if g.role == "instance"), tuple(drained)))

    async def fetch(self, host: str, pages: Mapping[str, str], key: str = "") -> Mapping[str, str]:
        self._reach(host)
        found = {url: self._page(url, key) for url in pages}
        return {url: page for url, page in found.items() if page}

    def _page(self, url: str, key: str) -> str:
        name, kind = url.split("/")[2], url.rpartition("/")[2]
        self.keys_brought[kind] = key
        if name in self.silent or (kind in {"state", "predict"} and key != self.key):
            return ""
        return str(getattr(self, f"_{kind}")(name))

    def _health(self, name: str) -> str:
        return json.dumps({"instances": [{"name": name, "healthy": True} for name in self.states]})

    def _metrics(self, name: str) -> str:
        self.busy[name] = left = max(0, self.busy.get(name, 0) - 1)
        return f'vllm:num_requests_running{{engine="0"}} {left}.0\n'

    def _state(self, name: str) -> str:
        state = StateResponse(name, True, 1, 0.0, LOAD, "a30", calibration=self.calibration)
        return msgspec.json.encode(state).decode()

    def _predict(self, name: str) -> str:
        e2e_s = 5.0 + self.busy.get(name.removesuffix(".predictor"), 0)
        prediction = Prediction(0.1, e2e_s, 0.01, 0.0, 0.0, 0, 0.001, "a30", 1.0)
        spread = PredictionSpread(1, 0.0, 0.1, 0.0, e2e_s)
        return msgspec.json.encode(PredictResponse(name, prediction, spread, LOAD, 7)).decode()

    async def clean_up(self, host: str) -> None:
        self._reach(host)
        self.states = {name: state for name, state in self.states.items() if state.host != host}

    async def logs(self, host: str, known: Mapping[str, int], tail: int) -> Logs:
        raise NotImplementedError

    async def run(self, host: str, program: str, timeout_s: float) -> str:
        raise NotImplementedError

    async def close(self) -> None: ...


def _processes(group: Group, phase: GroupPhase) -> tuple[ProcessState, ...]:
    process_phase = "ready" if phase == "ready" else "starting"
    if group.role == "scheduler":
        return (ProcessState(group.name, "scheduler", process_phase, 1, f"http://{group.name}", "log"),)
    predictor = ProcessState(
        group.name, "predictor", process_phase, 2, f"http://{group.name}.predictor", "log"
    )
    if group.role == "predictors":
        return (predictor,)
    return (ProcessState(group.name, "engine", process_phase, 1, f"http://{group.name}", "log"), predictor)


def record(**fields: Any) -> FleetRecord:
    """A fleet on the two hosts."""
    raw = {
        "name": "lab",
        "instances": 2,
        "ready_timeout_s": 5.0,
        "engine": {"model": "/m", "served_model_name": "m", "latency": "/l.yaml"},
        "backend": {"kind": "ssh", "hosts": [{"name": "a"}, {"name": "b"}]},
    }
    config = parse_config(raw | fields, FleetConfig, "lab.yaml")
    return FleetRecord(msgspec.Raw(config.model_dump_json().encode()), "/", "sources", "requirements")
