"""The controller on a fleet: one change at a time, and what fails is decided on anew."""

from __future__ import annotations

import asyncio
import time

import pytest

from block.errors import DeployError
from block.provisioning_config import ProvisioningSettings
from block.types import EngineLoad
from global_scheduler.provisioning import Decision, make_controller
from global_scheduler.provisioning.base import InstanceSeen, Observation
from global_scheduler.provisioning.loop import follow_load

IDLE = EngineLoad(0, 0, 0, 100, 100, 0, 0)


class ToyFleet:
    """Instances by name; an answer took ``measured_s`` at each look."""

    def __init__(self, measured_s: float | None, *, blind: bool = False) -> None:
        self.names = ["instance-0"]
        self.measured_s = measured_s
        self.blind = blind
        self.adding = 0
        self.most_at_once = 0
        self.start_s = 0.05
        self.given_up = False
        self.drained: list[str] = []
        self.ended: list[str] = []

    async def look(self) -> Observation:
        if self.blind:
            raise DeployError("no host answers")
        return Observation(
            at_s=time.time(),
            instances=tuple(InstanceSeen(name, IDLE) for name in self.names),
            starting_s=(1.0,) * self.adding,
            requests=0,
            sizes=(),
            measured_e2e_s=self.measured_s,
            predicted_e2e_s=self.measured_s,
        )

    async def add(self, count: int) -> None:
        self.adding += count
        self.most_at_once = max(self.most_at_once, self.adding)
        try:
            await asyncio.sleep(self.start_s)
        except asyncio.CancelledError:
            self.given_up = True
            raise
        self.names += [f"instance-{len(self.names) + number}" for number in range(count)]
        self.adding -= count

    async def drain(self, name: str) -> None:
        self.names.remove(name)
        self.drained.append(name)

    async def settle(self) -> None:
        self.ended += self.drained
        self.drained.clear()


def _settings(**values: object) -> ProvisioningSettings:
    known = {"strategy": "relief", "threshold_s": 10.0, "min_instances": 1, "max_instances": 3}
    return ProvisioningSettings(**{**known, "interval_s": 0.02, "cool_down_s": 0.001, **values})


async def _follow(fleet: ToyFleet, settings: ProvisioningSettings, looks: int) -> list[Decision]:
    log: list[Decision] = []
    await follow_load(make_controller(settings, None), fleet, log.append, looks)
    return log


async def test_a_late_fleet_grows_one_change_at_a_time_up_to_its_most() -> None:
    fleet = ToyFleet(measured_s=99.0)
    log = await _follow(fleet, _settings(), 40)
    assert len(fleet.names) == 3
    assert fleet.most_at_once == 1
    assert sum(decision.add for decision in log if decision.changes) == 2
    assert all(decision.reason for decision in log)


async def test_a_dry_run_decides_and_changes_nothing() -> None:
    fleet = ToyFleet(measured_s=99.0)
    log = await _follow(fleet, _settings(dry_run=True), 5)
    assert fleet.names == ["instance-0"]
    assert any(decision.add for decision in log)


async def test_a_fleet_that_cannot_be_seen_is_looked_at_again() -> None:
    fleet = ToyFleet(measured_s=1.0, blind=True)
    assert await _follow(fleet, _settings(), 3) == []


async def test_what_was_drained_is_ended_at_later_looks_without_a_decision_of_their_own() -> None:
    fleet = ToyFleet(measured_s=None)
    fleet.drained = ["instance-7"]
    await _follow(fleet, _settings(), 2)
    assert fleet.ended == ["instance-7"]


async def test_a_dry_run_ends_nothing_either() -> None:
    fleet = ToyFleet(measured_s=None)
    fleet.drained = ["instance-7"]
    await _follow(fleet, _settings(dry_run=True), 3)
    assert fleet.ended == []


async def test_after_the_last_look_a_change_is_waited_for_and_when_cancelled_it_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waited = ToyFleet(measured_s=99.0)
    await _follow(waited, _settings(max_instances=2), 1)
    assert waited.names == ["instance-0", "instance-1"]
    slow = ToyFleet(measured_s=99.0)
    slow.start_s = 600.0
    following = asyncio.create_task(_follow(slow, _settings(), 10**6))
    await asyncio.sleep(0.1)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(following, 5.0)
    assert slow.given_up
    assert "what was begun goes on by itself" in caplog.text


async def test_an_error_of_the_program_itself_ends_the_controller() -> None:
    class Broken(ToyFleet):
        async def settle(self) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(_follow(Broken(measured_s=None), _settings(), 10**6), 5.0)
