"""What a verb does with hosts that fail, on a back end that lies in memory."""

from __future__ import annotations

import asyncio

import pytest
from memory_hosts import Hosts, record

from deploy.fleet import verbs
from deploy.fleet.record import FleetRecord
from deploy.fleet.verbs import Fleet, Outcome


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


def test_predictors_that_share_a_process_come_with_the_first_and_are_left_alone_by_what_comes_and_goes(
    hosts: Hosts,
) -> None:
    backend = {"kind": "ssh", "hosts": [{"name": "a", "instances": 2}, {"name": "b"}]}
    converge(hosts, record(backend=backend, instances=1))
    assert set(hosts.calls) == {"start predictors-0", "start instance-0", "start scheduler-0"}
    hosts.calls.clear()
    converge(hosts, record(backend=backend, instances=3))
    assert set(hosts.calls) == {"start instance-1", "start instance-2"}
    hosts.calls.clear()
    converge(hosts, record(backend=backend, instances=1))
    assert set(hosts.calls) == {"stop instance-1", "stop instance-2"}


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
