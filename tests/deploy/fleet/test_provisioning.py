"""A fleet as the controller sees and changes it, on a back end that lies in memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from memory_hosts import LOAD, Hosts, record
from rich.console import Console

from block.errors import BlockError, DeployError
from block.provisioning_config import ProvisioningSettings
from block.types import CalibrationStatus, EngineLoad
from deploy.fleet import commands, session, sight, verbs
from deploy.fleet.provisioning import ProvisionedFleet
from deploy.fleet.record import FleetFolder, FleetRecord
from global_scheduler.provisioning.base import AS_MODELLED, MeasuredPace, Observation

ROOM = {"kind": "ssh", "hosts": [{"name": "a", "instances": 3}, {"name": "b", "instances": 3}]}


class World:
    """One fleet: what was asked for, what runs, and a controller's view of it."""

    def __init__(self, folder: FleetFolder, hosts: Hosts) -> None:
        self.folder, self.hosts = folder, hosts
        self.fleet = self.controller()

    def controller(self, key: str = "", **settings: Any) -> ProvisionedFleet:
        chosen = ProvisioningSettings(max_instances=4, cold_start_s=60.0).model_copy(update=settings)
        return ProvisionedFleet(self.folder, chosen, key, Console(file=io.StringIO()))

    @property
    def wanted(self) -> list[str]:
        return [group.name for group in self.recorded.groups if group.role == "instance"]

    @property
    def recorded(self) -> FleetRecord:
        return commands.recorded(self.folder)

    def phase(self, name: str, phase: str) -> None:
        state = self.hosts.states[name]
        self.hosts.states[name] = msgspec.structs.replace(state, phase=phase, processes=())


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    hosts = Hosts()

    @contextlib.asynccontextmanager
    async def opened(*_: object) -> AsyncIterator[Hosts]:
        yield hosts

    for module in (sight, session):
        monkeypatch.setattr(module, "opened", opened)
    monkeypatch.setattr(verbs, "_POLL_S", 0.01)
    folder = FleetFolder(tmp_path / "lab")
    folder.write(record(backend=ROOM, drain_timeout_s=30.0))
    await commands.grow(folder, 0, Console(file=io.StringIO()))
    hosts.calls.clear()
    return World(folder, hosts)


def _names(seen: Observation) -> list[str]:
    return [one.name for one in seen.instances]


async def test_what_serves_is_seen_with_its_load_and_the_best_prediction(world: World) -> None:
    world.hosts.busy = {"instance-0": 9, "instance-1": 3}
    seen = await world.fleet.look()
    assert _names(seen) == ["instance-0", "instance-1"]
    assert seen.instances[0].load == LOAD
    assert seen.predicted_e2e_s == 7.0
    assert seen.starting_s == ()


async def test_a_new_controller_counts_what_an_earlier_one_has_begun_to_start(world: World) -> None:
    world.folder.write(world.recorded.grown(1))
    world.hosts.slow.add("instance-2")
    world.hosts.states["instance-2"] = msgspec.structs.replace(
        world.hosts.states["instance-0"], name="instance-2", phase="starting", processes=()
    )
    seen = await world.fleet.look()
    assert (_names(seen), seen.count) == (["instance-0", "instance-1"], 3)
    assert seen.starting_s[0] == pytest.approx(60.0, abs=1.0)


async def test_what_has_died_is_started_again_and_nothing_beside_it(world: World) -> None:
    world.phase("instance-1", "failed")
    assert _names(await world.fleet.look()) == ["instance-0"]
    await world.fleet.add(1)
    assert world.hosts.calls == ["start instance-1"]
    assert world.wanted == ["instance-0", "instance-1"]


async def test_what_fails_again_is_not_counted_on_and_never_more_is_asked_for_than_the_most(
    world: World,
) -> None:
    world.hosts.failing = dict.fromkeys(("instance-2", "instance-3", "instance-4"), "out of memory")
    for _ in range(8):
        await world.fleet.look()
        with pytest.raises(DeployError, match="out of memory"):
            await world.fleet.add(1)
    assert world.wanted == ["instance-0", "instance-1", "instance-2", "instance-3"]


async def test_a_host_that_does_not_answer_hides_what_it_has_and_nothing_else(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.hosts.broken.add("b")
    assert _names(await world.fleet.look()) == ["instance-0"]
    assert "b: ssh b: Connection refused" in caplog.text
    with pytest.raises(BlockError, match="b: ssh b: Connection refused"):
        await world.fleet.add(1)
    assert _names(await world.fleet.look()) == ["instance-0", "instance-2"]
    world.hosts.broken.add("a")
    with pytest.raises(DeployError, match="a: ssh a: Connection refused"):
        await world.fleet.look()


async def test_what_is_drained_is_off_the_lists_at_once_and_ends_only_when_idle(world: World) -> None:
    world.hosts.busy["instance-0"] = 4
    await world.fleet.look()
    await world.fleet.drain("instance-0")
    assert world.hosts.told[-1] == (("instance-1",), ())
    assert world.hosts.calls == []
    for _ in range(3):
        assert _names(await world.fleet.look()) == ["instance-1"]
        await world.fleet.settle()
    assert (world.hosts.calls, world.fleet.leaving) == ([], ("instance-0",))
    await world.fleet.look()
    await world.fleet.settle()
    assert world.hosts.calls == ["stop instance-0"]
    await world.fleet.look()
    assert world.fleet.leaving == ()


async def test_what_drains_is_taken_back_before_anything_is_started(world: World) -> None:
    world.hosts.busy["instance-0"] = 99
    await world.fleet.look()
    await world.fleet.drain("instance-0")
    await world.fleet.look()
    await world.fleet.add(1)
    assert world.hosts.calls == []
    assert world.hosts.told[-1] == (("instance-0", "instance-1"), ())
    assert _names(await world.fleet.look()) == ["instance-0", "instance-1"]
    assert world.fleet.leaving == ()


async def test_a_new_controller_ends_what_an_earlier_one_has_drained(world: World) -> None:
    await world.fleet.drain("instance-1")
    later = world.controller()
    for _ in range(2):
        await later.look()
    await later.settle()
    assert world.hosts.calls == ["stop instance-1"]


async def test_schedulers_hear_of_what_a_controller_drained_that_was_ended_before_it_told_them(
    world: World,
) -> None:
    world.folder.write(world.recorded.without("instance-1"))
    world.hosts.busy["instance-1"] = 99
    for _ in range(2):
        await world.fleet.look()
        await world.fleet.settle()
    assert world.hosts.told[1:] == [(("instance-0",), ())]
    assert world.hosts.calls == []


async def test_what_others_drain_is_left_alone(world: World) -> None:
    await commands.drain(world.folder, "instance-1", Console(file=io.StringIO()))
    for _ in range(3):
        assert _names(await world.fleet.look()) == ["instance-0"]
        await world.fleet.settle()
    assert "stop instance-1" not in world.hosts.calls


async def test_the_key_goes_to_predictors_and_to_nobody_else(world: World) -> None:
    world.hosts.key = "predictors-key"
    world.hosts.keys_brought.clear()
    fleet = world.controller("predictors-key")
    assert (await fleet.look()).instances[0].load == LOAD
    assert world.hosts.keys_brought == {"metrics": "", "state": "predictors-key", "predict": "predictors-key"}


async def test_a_silent_predictor_is_named_once_and_its_load_guessed_from_the_engine(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.hosts.silent.add("instance-0.predictor")
    world.hosts.busy["instance-0"] = 41
    load = (await world.fleet.look()).instances[0].load
    assert load.running == 40
    assert load.unprocessed_tokens == 40 * 128
    await world.fleet.look()
    assert caplog.text.count("the predictor of instance-0 does not answer") == 1


async def test_an_instance_of_which_nothing_is_heard_holds_nothing(world: World) -> None:
    world.hosts.silent |= {"instance-0", "instance-0.predictor"}
    assert (await world.fleet.look()).instances[0].load == EngineLoad(0, 0, 0, 0, 0, 0, 0)


async def test_the_pace_is_what_predictors_have_measured(world: World) -> None:
    assert (await world.fleet.look()).pace == AS_MODELLED
    world.hosts.calibration = CalibrationStatus("v", 900, 0.4, 0.001, 0.5, 0.0, 0.01, 0.6)
    assert (await world.fleet.look()).pace == MeasuredPace(0.4, 0.001, 0.5)


async def test_kv_blocks_are_what_an_engine_says(world: World) -> None:
    assert await world.fleet.kv_blocks() == LOAD.total_blocks
    world.hosts.silent |= {"instance-0.predictor", "instance-1.predictor"}
    with pytest.raises(DeployError, match=r"wait until an instance is ready, or set engine\.num_gpu_blocks"):
        await world.fleet.kv_blocks()


async def test_a_fleet_that_is_not_up_is_said_to_be(world: World) -> None:
    world.folder.forget()
    with pytest.raises(DeployError, match="is not up; `block-deploy up FILE` starts it"):
        await world.fleet.look()
