from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from block.errors import DeployError
from block.operation import HangSettings
from deploy.local import LocalCluster
from deploy.plan import ClusterPlan, ProcessPlan
from deploy.restart_pauses import RestartPauses
from deploy.run_folder import RunFolder
from deploy.state import ClusterState
from deploy.teardown import take_down

StandIn = Callable[..., ProcessPlan]
ClusterOf = Callable[..., ClusterPlan]
FreePorts = Callable[[int], list[int]]
Family = Callable[[ClusterState], list[psutil.Process]]
Survivors = Callable[[list[psutil.Process]], list[psutil.Process]]
Offspring = Callable[[int], list[psutil.Process]]

_LAUNCHER = Path(__file__).parent / "launcher.py"


def wait_for_state(folder: RunFolder, wanted: Callable[[ClusterState], bool]) -> ClusterState:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (state := folder.read_state()) and wanted(state):
            return state
        time.sleep(0.05)
    raise AssertionError(f"the cluster did not come to the wanted state: {folder.read_state()}")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - the state has no event to wait for
            await asyncio.sleep(0.02)


@pytest.fixture
def launched(
    tmp_path: Path, free_ports: FreePorts, stand_in: StandIn, cluster_of: ClusterOf
) -> Iterator[tuple[subprocess.Popen[bytes], ClusterState]]:
    """Two servers with stubborn workers, held by a launcher in a process of its own."""
    plan = cluster_of(*(stand_in(port, "--worker") for port in free_ports(2)))
    pickled = tmp_path / "plan.pickle"
    pickled.write_bytes(pickle.dumps(plan))
    launcher = subprocess.Popen([sys.executable, str(_LAUNCHER), str(pickled)], stdout=subprocess.DEVNULL)
    try:
        yield launcher, wait_for_state(RunFolder(plan.folder), lambda state: state.ready)
    finally:
        launcher.kill()
        launcher.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_survives_the_launcher(
    launched: tuple[subprocess.Popen[bytes], ClusterState],
    number: signal.Signals,
    family: Family,
    survivors: Survivors,
) -> None:
    launcher, state = launched
    processes = family(state)
    assert len(processes) == 6  # two guards, two servers, two workers

    launcher.send_signal(number)

    code = launcher.wait(timeout=20)
    assert code == (-number if number == signal.SIGKILL else 0)
    assert survivors(processes) == []


def test_down_ends_everything_and_forgets_the_cluster(
    launched: tuple[subprocess.Popen[bytes], ClusterState],
    tmp_path: Path,
    family: Family,
    survivors: Survivors,
) -> None:
    launcher, state = launched
    processes = family(state)
    folder = RunFolder(tmp_path / "cluster")

    assert take_down(folder)

    assert launcher.wait(timeout=5) == 0
    assert survivors(processes) == []
    assert folder.read_state() is None
    assert not take_down(folder)


def test_the_state_of_a_killed_launcher_is_not_believed(
    launched: tuple[subprocess.Popen[bytes], ClusterState], tmp_path: Path
) -> None:
    launcher, _ = launched
    launcher.kill()
    launcher.wait()
    assert RunFolder(tmp_path / "cluster").read_state() is None


def test_a_second_launcher_is_refused(
    launched: tuple[subprocess.Popen[bytes], ClusterState], tmp_path: Path
) -> None:
    with pytest.raises(DeployError, match="cluster cluster is already up"):
        RunFolder(tmp_path / "cluster").open({})


async def test_a_server_killed_later_is_reported_and_the_others_stay(
    free_ports: FreePorts,
    stand_in: StandIn,
    cluster_of: ClusterOf,
    family: Family,
    survivors: Survivors,
) -> None:
    first, second = (stand_in(port, "--worker") for port in free_ports(2))
    async with LocalCluster(cluster_of(first, second)) as cluster:
        pid = cluster.state.processes[0].pid
        assert pid is not None
        workers = psutil.Process(pid).children()
        assert len(workers) == 1

        os.kill(pid, signal.SIGKILL)
        await until(lambda: bool(cluster.state.ended))

        assert cluster.state.processes[0].exit_code == -signal.SIGKILL
        assert await asyncio.to_thread(survivors, workers) == []
        assert cluster.state.processes[1].phase == "ready"
        assert cluster.folder.read_state() == cluster.state
        processes = family(cluster.state)
    assert await asyncio.to_thread(survivors, processes) == []


async def test_one_that_may_be_started_again_is_and_its_cluster_is_whole_again(
    free_ports: FreePorts, stand_in: StandIn, cluster_of: ClusterOf, family: Family, survivors: Survivors
) -> None:
    first, second = (stand_in(port) for port in free_ports(2))
    async with LocalCluster(cluster_of(replace(first, restarts=True), second)) as cluster:
        for times in (1, 2):
            before = cluster.state.processes[0].pid
            assert before is not None
            os.kill(before, signal.SIGKILL)
            await until(lambda: not cluster.state.ready)
            assert cluster.state.ended == ()
            await until(lambda: cluster.state.ready)
            after = cluster.state.processes[0]
            assert (after.phase, after.exit_code, after.restarts) == ("ready", None, times)
            assert after.pid != before
        assert cluster.state.processes[1].restarts == 0
        assert cluster.folder.read_state() == cluster.state
        processes = family(cluster.state)
    assert await asyncio.to_thread(survivors, processes) == []


async def test_what_cannot_start_again_is_tried_after_pauses_and_ends_with_its_cluster(
    free_ports: FreePorts, stand_in: StandIn, cluster_of: ClusterOf, family: Family, survivors: Survivors
) -> None:
    port = free_ports(1)[0]
    async with LocalCluster(cluster_of(replace(stand_in(port), restarts=True))) as cluster:
        pid = cluster.state.processes[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not cluster.state.ready)
        with socket.socket() as squatter:
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            squatter.bind(("127.0.0.1", port))
            squatter.listen()
            await until(lambda: cluster.state.processes[0].restarts == 2)
            assert not cluster.state.ready
        await until(lambda: cluster.state.ready)
        processes = family(cluster.state)
    assert await asyncio.to_thread(survivors, processes) == []


QUICK = HangSettings(interval_s=0.05, patience_s=0.5, misses=2)


async def test_one_that_hangs_is_ended_and_started_again_and_nobody_waits_for_that(
    free_ports: FreePorts,
    stand_in: StandIn,
    cluster_of: ClusterOf,
    family: Family,
    survivors: Survivors,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped, killed, other = (stand_in(port, "--worker") for port in free_ports(3))
    watched = replace(stopped, restarts=True, hangs=HangSettings(interval_s=0.05, patience_s=3.0, misses=2))
    async with LocalCluster(cluster_of(watched, replace(killed, restarts=True), other)) as cluster:
        first, second, third = (process.pid for process in cluster.state.processes)
        assert first is not None
        assert second is not None
        workers = psutil.Process(first).children()
        os.kill(first, signal.SIGSTOP)
        os.kill(second, signal.SIGKILL)
        await until(lambda: cluster.state.processes[1].restarts == 1 and cluster.state.ready)
        assert cluster.state.processes[0].pid == first  # as long as it may only be slow
        await until(lambda: cluster.state.processes[0].restarts == 1 and cluster.state.ready)
        assert cluster.state.processes[0].pid != first
        assert cluster.state.processes[2].pid == third
        assert f"{watched.name} hangs: 2 times in a row no answer from {watched.health_url}" in caplog.text
        assert await asyncio.to_thread(survivors, workers) == []
        processes = family(cluster.state)
    assert await asyncio.to_thread(survivors, processes) == []


async def test_one_that_is_late_now_and_then_or_says_that_it_is_ill_does_not_hang(
    free_ports: FreePorts, stand_in: StandIn, cluster_of: ClusterOf
) -> None:
    plan = replace(stand_in(free_ports(1)[0], "--late", "2"), restarts=True, hangs=QUICK)
    async with LocalCluster(cluster_of(plan)) as cluster:
        pid = cluster.state.processes[0].pid
        await until(lambda: "asked 8\n" in plan.log.read_text())  # three of them were answered late
        assert (cluster.state.processes[0].pid, cluster.state.processes[0].restarts) == (pid, 0)


async def test_one_that_hangs_as_it_starts_again_is_started_once_more(
    tmp_path: Path, free_ports: FreePorts, stand_in: StandIn, cluster_of: ClusterOf
) -> None:
    mute = tmp_path / "mute"
    plan = replace(stand_in(free_ports(1)[0], "--mute-if", str(mute)), restarts=True, hangs=QUICK)
    async with LocalCluster(cluster_of(plan, ready_timeout_s=3.0)) as cluster:
        pid = cluster.state.processes[0].pid
        assert pid is not None
        mute.touch()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: plan.log.read_text().count("listening") == 2)
        mute.unlink()
        await until(lambda: cluster.state.processes[0].restarts == 2 and cluster.state.ready)


def test_pauses_before_restarts_double_up_to_a_bound_and_begin_anew_after_a_long_life() -> None:
    pauses = RestartPauses()
    assert [pauses.next_s(1.0) for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert pauses.next_s(3600.0) == 0.5


async def test_a_killed_guard_takes_its_server_and_its_worker_along(
    free_ports: FreePorts,
    stand_in: StandIn,
    cluster_of: ClusterOf,
    family: Family,
    survivors: Survivors,
) -> None:
    async with LocalCluster(cluster_of(stand_in(free_ports(1)[0], "--worker"))) as cluster:
        processes = family(cluster.state)
        psutil.Process(cluster.state.processes[0].pid).parent().kill()
        await until(lambda: bool(cluster.state.ended))
        assert await asyncio.to_thread(survivors, processes) == []


async def test_a_server_that_ignores_the_request_to_end_is_killed_after_the_grace(
    free_ports: FreePorts, stand_in: StandIn, cluster_of: ClusterOf, family: Family, survivors: Survivors
) -> None:
    cluster = LocalCluster(cluster_of(stand_in(free_ports(1)[0], "--stubborn")), grace_s=0.3)
    await cluster.start()
    processes = family(cluster.state)
    await cluster.stop()
    assert cluster.state.processes[0].exit_code == -signal.SIGKILL
    assert await asyncio.to_thread(survivors, processes) == []


async def test_a_taken_port_is_named_with_its_holder_before_anything_starts(
    stand_in: StandIn, cluster_of: ClusterOf
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(DeployError) as caught:
            await LocalCluster(cluster_of(stand_in(port))).start()
    message = str(caught.value)
    assert f"port {port} for server-{port} cannot be used: Address already in use" in message
    assert f"(pid {os.getpid()})" in message
    assert "--set engine_port=PORT" in message
    assert "\n" not in message


async def test_a_server_that_dies_at_start_is_explained_and_the_others_are_taken_down(
    free_ports: FreePorts,
    stand_in: StandIn,
    cluster_of: ClusterOf,
    offspring: Offspring,
    survivors: Survivors,
) -> None:
    good, bad = free_ports(2)
    seen: list[psutil.Process] = []

    def remember(state: ClusterState) -> None:
        seen.extend(offspring(os.getpid()))

    plan = cluster_of(stand_in(good, "--worker"), stand_in(bad, "--worker", "--fail", "no room for KV"))
    with pytest.raises(DeployError) as caught:
        await LocalCluster(plan, on_change=remember).start()
    assert str(caught.value) == (
        f"server-{bad} ended at start with exit code 1; it said: ValueError: no room for KV "
        f"(log: {plan.folder}/logs/server-{bad}.log)"
    )
    assert seen
    assert await asyncio.to_thread(survivors, list(set(seen))) == []
    assert RunFolder(plan.folder).read_state() is None


async def test_a_server_that_is_never_ready_meets_the_deadline(
    free_ports: FreePorts, stand_in: StandIn, cluster_of: ClusterOf
) -> None:
    port = free_ports(1)[0]
    began = time.monotonic()
    with pytest.raises(DeployError, match=rf"server-{port} was not ready within 1 s; it said: listening on"):
        await LocalCluster(cluster_of(stand_in(port, "--mute"), ready_timeout_s=1.0)).start()
    assert time.monotonic() - began < 8


async def test_what_another_launcher_holds_is_waited_for_as_well(
    free_ports: FreePorts, stand_in: StandIn, cluster_of: ClusterOf
) -> None:
    port, other = free_ports(2)
    needs = f"http://127.0.0.1:{other}/health"
    plan = cluster_of(replace(stand_in(port), needs=needs), ready_timeout_s=1.5)
    with pytest.raises(DeployError, match=rf"not ready within 1.5 s \(it also needs {needs}\);"):
        await LocalCluster(plan).start()
    needed = await asyncio.create_subprocess_exec(*stand_in(other).argv, stdout=subprocess.DEVNULL)
    try:
        async with LocalCluster(replace(plan, ready_timeout_s=30.0)) as cluster:
            assert cluster.state.ready
    finally:
        needed.kill()
        await needed.wait()


async def test_a_command_that_does_not_exist_is_explained(
    free_ports: FreePorts, stand_in: StandIn, cluster_of: ClusterOf
) -> None:
    plan = stand_in(free_ports(1)[0])
    broken = ProcessPlan(
        plan.name, plan.role, ("/nowhere/python",), plan.port, plan.health_url, plan.log, host=plan.host
    )
    with pytest.raises(DeployError, match="exit code 127; it said: /nowhere/python: cannot be started"):
        await LocalCluster(cluster_of(broken)).start()


async def test_start_can_be_cancelled_and_leaves_nothing(
    free_ports: FreePorts,
    stand_in: StandIn,
    cluster_of: ClusterOf,
    offspring: Offspring,
    survivors: Survivors,
) -> None:
    started = asyncio.Event()
    cluster = LocalCluster(cluster_of(stand_in(free_ports(1)[0], "--mute")), lambda _: started.set())
    task = asyncio.create_task(cluster.start())
    await started.wait()
    await until(lambda: cluster.state.processes[0].pid is not None)
    processes = offspring(os.getpid())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(survivors, processes) == []
