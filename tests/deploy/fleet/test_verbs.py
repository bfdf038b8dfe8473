"""What a verb does with hosts that fail, on a back end that lies in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from block.config import parse_config
from block.fleet_config import FleetConfig
from deploy.fleet import verbs
from deploy.fleet.agent_messages import Logs
from deploy.fleet.group import Group
from deploy.fleet.group_state import GroupState
from deploy.fleet.install import Report
from deploy.fleet.record import FleetRecord
from deploy.fleet.shell import HostError
from deploy.fleet.verbs import Fleet, Outcome
from deploy.state import ProcessState


class Hosts:
    """Two hosts; groups are ready as soon as they are started, unless told otherwise."""

    hosts = ("a", "b")

    def __init__(self) -> None:
        self.states: dict[str, GroupState] = {}
        self.broken: set[str] = set()
        self.failing: dict[str, str] = {}
        self.busy: dict[str, int] = {}
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
        self.calls.append(f"start {group.name}")
        phase = "ended" if group.name in self.failing else "ready"
        role = "engine" if group.role == "instance" else "scheduler"
        process = ProcessState(group.name, role, "ready", 1, f"http://{group.name}", "log")
        self.states[group.name] = GroupState(
            group.name,
            group.digest,
            group.host,
            phase,  # type: ignore[arg-type]  # One of two of its values.
            self.failing.get(group.name, ""),
            processes=(process,),
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

    async def fetch(self, host: str, pages: Mapping[str, str]) -> Mapping[str, str]:
        health = {"instances": [{"name": name, "healthy": True} for name in self.states]}
        answers = {"health": json.dumps(health)}
        name = next(iter(pages)).split("/")[2]
        self.busy[name] = left = max(0, self.busy.get(name, 0) - 1)
        answers["metrics"] = f'vllm:num_requests_running{{engine="0"}} {left}.0\n'
        return {url: answers[url.rpartition("/")[2]] for url in pages}

    async def clean_up(self, host: str) -> None:
        self._reach(host)
        self.states = {name: state for name, state in self.states.items() if state.host != host}

    async def logs(self, host: str, known: Mapping[str, int], tail: int) -> Logs:
        raise NotImplementedError

    async def run(self, host: str, program: str, timeout_s: float) -> str:
        raise NotImplementedError

    async def close(self) -> None: ...


def record(**fields: Any) -> FleetRecord:
    raw = {
        "name": "lab",
        "instances": 2,
        "ready_timeout_s": 5.0,
        "engine": {"model": "/m", "served_model_name": "m", "latency": "/l.yaml"},
        "backend": {"kind": "ssh", "hosts": [{"name": "a"}, {"name": "b"}]},
    }
    config = parse_config(raw | fields, FleetConfig, "lab.yaml")
    return FleetRecord(msgspec.Raw(config.model_dump_json().encode()), "/", "sources", "requirements")


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    monkeypatch.setattr(verbs, "_POLL_S", 0.01)
    return Hosts()


def converge(hosts: Hosts, wanted: FleetRecord) -> Outcome:
    outcome = Outcome()

    async def work() -> None:
        fleet = Fleet(hosts, lambda *_: None)
        await fleet.install(outcome)
        await fleet.converge(wanted, {}, outcome)

    asyncio.run(work())
    return outcome


def test_what_is_missing_is_started_and_a_second_time_nothing(hosts: Hosts) -> None:
    assert converge(hosts, record()).failed == {}
    assert set(hosts.calls) == {"start instance-0", "start instance-1", "start scheduler-0"}
    assert hosts.told == [(("instance-0", "instance-1"), ())]


def test_a_host_that_cannot_be_reached_does_not_stop_the_others(hosts: Hosts) -> None:
    hosts.broken.add("b")
    outcome = converge(hosts, record())
    assert outcome.failed == {
        "b": "b: ssh b: Connection refused",
        "instance-1": "instance-1: not started, for b failed",
    }
    assert hosts.states["instance-0"].phase == hosts.states["scheduler-0"].phase == "ready"
    hosts.broken.clear()
    assert converge(hosts, record()).failed == {}
    assert hosts.states["instance-1"].phase == "ready"


def test_a_group_that_ends_at_start_is_named_with_host_and_reason(hosts: Hosts) -> None:
    hosts.failing["instance-1"] = "out of memory"
    assert converge(hosts, record()).failed == {"instance-1": "b: instance-1: out of memory"}


def test_what_has_changed_is_renewed_one_after_the_other_each_idle_before_it_ends(hosts: Hosts) -> None:
    converge(hosts, record())
    hosts.calls.clear()
    hosts.told.clear()
    hosts.busy["instance-0"] = 3
    assert converge(hosts, record(engine_port=9000)).failed == {}
    calls = [call for call in hosts.calls if "instance" in call]
    assert calls == ["stop instance-0", "start instance-0", "stop instance-1", "start instance-1"]
    assert (("instance-0", "instance-1"), ("instance-0",)) in hosts.told
    assert hosts.told[-1] == (("instance-0", "instance-1"), ())
    assert hosts.busy["instance-0"] == 0


def test_what_is_too_much_is_off_the_list_before_it_ends(hosts: Hosts) -> None:
    converge(hosts, record())
    hosts.calls.clear()
    assert converge(hosts, record(instances=1)).failed == {}
    assert hosts.told[-1] == (("instance-0",), ())
    assert [call for call in hosts.calls if "start" not in call] == ["stop instance-1"]
    assert "instance-1" not in hosts.states
