"""What a Slurm job runs: one group, on the node that Slurm has chosen.

Finds out its address, brings the group up, and keeps the registry: an instance registers when it is ready
and is removed when the job ends, a scheduler follows. Before the walltime is over an instance drains, and the
job goes back into the queue if it should.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from block.config import InstanceConfig
from block.errors import BlockError, DeployError
from deploy.fleet.agent import fetch_pages
from deploy.fleet.engine_gauges import read_gauges
from deploy.fleet.group import Group, InstancePart
from deploy.fleet.group_folder import MARK, group_of, read_started, write_whole
from deploy.fleet.group_plan import INSTANCES_FILE, plan_group
from deploy.fleet.registry import BEAT_S, Registry
from deploy.launch import run_until_signalled
from deploy.local import LocalCluster
from deploy.plan import ClusterPlan

PLACE_FILE = "place.json"
SECRETS_FILE = "secrets.json"
_FOLLOW_S = 1.0
_QUIET_LOOKS = 2

app = typer.Typer(add_completion=False)


class Place(msgspec.Struct, frozen=True):
    """Where a job has landed."""

    job: str
    node: str
    address: str


class GroupJob:
    """One group in one job."""

    def __init__(self, group: Group, home: Path, plan: ClusterPlan) -> None:
        self._group = group
        self._home = home
        self._plan = plan
        self._registry = Registry(home.parent)
        self._walltime_near = asyncio.Event()

    async def hold(self, drain_s: float) -> bool:
        """Run until cancelled, until a process dies (DeployError), or until walltime is near: True then."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._walltime_near.set)
        if self._group.role == "scheduler":
            self._follow()
        cluster = LocalCluster(self._plan)
        await cluster.start()
        try:
            self._enter()
            near = await self._live(cluster)
            self._leave()
            if near and self._group.role == "instance":
                await self._until_idle(drain_s)
            return near
        finally:
            self._leave()
            await cluster.stop()

    async def _live(self, cluster: LocalCluster) -> bool:
        pause_s = BEAT_S if self._group.role == "instance" else _FOLLOW_S
        while not self._walltime_near.is_set():
            if ended := cluster.state.ended:
                raise DeployError(f"{ended[0].name} ended with code {ended[0].exit_code}")
            if self._group.role == "instance":
                self._registry.beat(self._group.name)
            else:
                self._follow()
            try:
                await asyncio.wait_for(self._walltime_near.wait(), pause_s)
            except TimeoutError:
                continue
        return True

    def _enter(self) -> None:
        if isinstance(self._group.part, InstancePart):
            address = self._group.address
            self._registry.enter(
                InstanceConfig(
                    name=self._group.name,
                    url=f"http://{address}:{self._group.part.engine_port}",
                    predictor_url=self._group.predictor_url(address),
                )
            )

    def _leave(self) -> None:
        if self._group.role == "instance":
            self._registry.leave(self._group.name)

    def _follow(self) -> None:
        path = self._home / INSTANCES_FILE
        fresh = msgspec.json.encode(self._registry.entries())
        if not path.exists() or path.read_bytes() != fresh:
            write_whole(path, fresh)

    async def _until_idle(self, timeout_s: float) -> None:
        page = self._plan.processes[0].health_url.removesuffix("health") + "metrics"
        deadline_s, quiet = time.monotonic() + timeout_s, 0
        while quiet < _QUIET_LOOKS and time.monotonic() < deadline_s:
            await asyncio.sleep(1.0)
            found = await asyncio.to_thread(fetch_pages, {page: ""})
            quiet = 0 if read_gauges(found.get(page, "")).outstanding else quiet + 1


@app.command()
def run(
    home: Annotated[Path, typer.Argument(help="Folder of the group, with its group.json.")],
    root: Annotated[Path, typer.Option(help="Where relative paths of its settings begin.")],
    address_command: Annotated[str, typer.Option(help="Its first word is what others reach us by.")],
    drain_s: Annotated[float, typer.Option(help="How long to drain before the walltime is over.")],
    requeue: Annotated[bool, typer.Option(help="Go back into the queue then.")],
) -> None:
    """Run one group of a fleet as a Slurm job."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        group = group_of(read_started(home))
        group = group.model_copy(update={"address": _address(address_command)})
        _take_secrets(home.parent / SECRETS_FILE)
        os.environ[MARK] = str(home)
        place = Place(os.environ.get("SLURM_JOB_ID", ""), _node(), group.address)
        write_whole(home / PLACE_FILE, msgspec.json.encode(place))
        plan = plan_group(group, home, root, home / INSTANCES_FILE)
        if run_until_signalled(_hold(group, home, plan, drain_s)) and requeue:
            subprocess.run(["scontrol", "requeue", place.job], check=True)
    except (BlockError, subprocess.CalledProcessError) as error:
        print(f"block-deploy: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(1) from error


async def _hold(group: Group, home: Path, plan: ClusterPlan, drain_s: float) -> bool:
    return await GroupJob(group, home, plan).hold(drain_s)


def _take_secrets(path: Path) -> None:
    if path.exists():
        os.environ.update(msgspec.json.decode(path.read_bytes(), type=dict[str, str]))


def _address(command: str) -> str:
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    found = done.stdout.split()
    if done.returncode or not found:
        raise DeployError(f"backend.address: {command!r} named no address on {_node()}")
    return found[0]


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


if __name__ == "__main__":
    app()
