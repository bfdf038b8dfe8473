"""Groups as Slurm jobs, over a folder that this machine and all nodes see."""

from __future__ import annotations

import asyncio
import shlex
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from block.fleet_config import FleetConfig, SlurmBackend
from deploy.fleet.agent import fetch_pages, read_lines
from deploy.fleet.agent_messages import Logs
from deploy.fleet.bundle import Bundle
from deploy.fleet.group import Group
from deploy.fleet.group_folder import (
    GroupFolder,
    Started,
    group_of,
    last_words,
    read_started,
    write_whole,
)
from deploy.fleet.group_state import GroupPhase, GroupState
from deploy.fleet.install import Layout, Report, install
from deploy.fleet.placement import ANYWHERE
from deploy.fleet.registry import STALE_AFTER_S, InService, Registry
from deploy.fleet.shell import HostError, LocalShell, run_script
from deploy.fleet.slurm_job import PLACE_FILE, SECRETS_FILE, Place
from deploy.fleet.slurm_queue import Job, SlurmQueue, sbatch_options
from deploy.state import ClusterState

RecordT = TypeVar("RecordT", Place, ClusterState)


class SlurmJobs:
    """One job per group."""

    def __init__(self, config: FleetConfig, layout: Layout, bundle: Bundle | None) -> None:
        assert isinstance(config.backend, SlurmBackend)
        self._backend = config.backend
        self._gpus = config.gpus_per_instance if config.engine.executor == "real" else 0
        self._layout = layout
        self._bundle = bundle
        self._folder = config.backend.folder.expanduser() / "fleets" / config.name / ANYWHERE
        self._queue = SlurmQueue(config.name)
        self._registry = Registry(self._folder)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Slurm as a whole."""
        return (ANYWHERE,)

    async def put(self, host: str, report: Report) -> bool:
        """Once for all nodes, from here."""
        assert self._bundle is not None
        return await install(LocalShell(host), self._layout, self._bundle, report)

    async def start(self, group: Group, secrets: Mapping[str, str]) -> None:
        """Queue a job, unless one with the same settings is in the queue or runs."""
        present = {state.name: state for state in await self.look(ANYWHERE)}.get(group.name)
        if present and present.digest == group.digest and present.phase in {"waiting", "starting", "ready"}:
            return
        await self.stop(ANYWHERE, group.name)
        home = self._folder / group.name
        home.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / SECRETS_FILE, msgspec.json.encode(dict(secrets)))
        started = Started(msgspec.Raw(group.model_dump_json().encode()), group.digest)
        write_whole(home / "group.json", msgspec.json.encode(started))
        gpus = self._gpus if group.role == "instance" else 0
        options = sbatch_options(self._backend, group, gpus, str(home / "launcher.log"))
        number = await self._queue.submit(options, self._script(home))
        (home / "job").write_text(number)

    async def stop(self, host: str, name: str) -> None:  # noqa: ARG002
        """Cancel a group's job and remove its folder."""
        job = (await self._queue.jobs()).get(name)
        await self._queue.cancel([job.number] if job else [])
        self._registry.leave(name)
        shutil.rmtree(self._folder / name, ignore_errors=True)

    async def look(self, host: str) -> tuple[GroupState, ...]:  # noqa: ARG002
        """What the queue says, and what jobs have written down."""
        jobs = await self._queue.jobs()
        homes = [path.parent for path in sorted(self._folder.glob("*/group.json"))]
        return tuple([await self._look(home, jobs.get(home.name)) for home in homes])

    async def tell(
        self,
        host: str,  # noqa: ARG002
        groups: Sequence[Group],
        drained: Collection[str],
    ) -> None:
        """Instances register by themselves; this says which of them are wanted."""
        self._folder.mkdir(parents=True, exist_ok=True)
        instances = [group.name for group in groups if group.role == "instance"]
        self._registry.serve([InService(name, name in drained) for name in instances])

    async def logs(self, host: str, known: Mapping[str, int], tail: int) -> Logs:  # noqa: ARG002
        """From the shared folder."""
        text, offsets = {}, {}
        groups = GroupFolder(self._folder)
        for path in self._folder.glob("*/group.json"):
            for process, log in groups.logs(path.parent.name).items():
                start = known.get(process, max(0, log.stat().st_size - tail))
                text[process], offsets[process] = read_lines(log, start, tail)
        return Logs(text, offsets)

    async def fetch(
        self,
        host: str,  # noqa: ARG002
        pages: Mapping[str, str],
        key: str = "",
    ) -> Mapping[str, str]:
        """Asked from here."""
        return await asyncio.to_thread(fetch_pages, dict(pages), key)

    async def run(self, host: str, program: str, timeout_s: float) -> str:
        """On this machine."""
        script = f"{self._layout.prepare}exec {self._layout.setup.python} -"
        return await run_script(LocalShell(host), script, program.encode(), timeout_s)

    async def clean_up(self, host: str) -> None:
        """Cancel all jobs of the fleet and remove its folder, with the secrets in it."""
        await self._queue.cancel(job.number for job in (await self._queue.jobs()).values())
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._folder.exists():
            raise HostError(f"{host}: {self._folder} could not be removed")

    async def close(self) -> None:
        """Nothing is held."""

    async def _look(self, home: Path, job: Job | None) -> GroupState:
        started = read_started(home)
        if job is None:
            return GroupState(home.name, started.digest, ANYWHERE, "ended", await self._end_of(home))
        state = GroupState(home.name, started.digest, ANYWHERE, "waiting", job.reason, job=job.number)
        if job.state in {"PENDING", "REQUEUED", "SUSPENDED"}:
            return state
        state = _with_place(state, _read(home / PLACE_FILE, Place), home, job)
        if state.address:
            predictor_url = group_of(started).predictor_url(state.address)
            state = msgspec.structs.replace(state, predictor_url=predictor_url)
        is_instance = home.name.startswith("instance")
        return self._doubted(state) if is_instance and state.phase == "ready" else state

    def _doubted(self, state: GroupState) -> GroupState:
        """Slurm may take minutes to notice that a node is gone; the registry tells sooner."""
        silent_s = self._registry.silent_s(state.name)
        if silent_s is None:
            return msgspec.structs.replace(state, phase="starting", reason="not registered")
        if silent_s <= STALE_AFTER_S:
            return state
        reason = f"nothing heard of it on {state.node} for {silent_s:.0f} s"
        return msgspec.structs.replace(state, phase="failed", reason=reason)

    async def _end_of(self, home: Path) -> str:
        said = last_words(home / "launcher.log")
        number = home / "job"
        how = await self._queue.end_of(number.read_text()) if number.exists() else ""
        parts = (f"its job has ended, {how}" if how else "its job has ended", said)
        return " - ".join(part for part in parts if part)

    def _script(self, home: Path) -> str:
        backend = self._backend
        return "#!/bin/sh\n" + self._layout.run(
            "deploy.fleet.slurm_job",
            shlex.quote(str(home)),
            *("--root", '"$PWD"'),
            *("--address-command", shlex.quote(backend.address)),
            *("--drain-s", str(backend.drain_s)),
            "--requeue" if backend.at_time_limit == "requeue" else "--no-requeue",
        )


def _with_place(state: GroupState, place: Place | None, home: Path, job: Job) -> GroupState:
    """What a job that runs has written down; what an earlier run of it wrote is not taken for its own."""
    cluster = _read(home / "state.json", ClusterState)
    if place is None or place.job != job.number or cluster is None:
        return msgspec.structs.replace(state, phase="starting", reason="", node=job.node)
    processes = tuple(
        msgspec.structs.replace(one, url=f"http://{place.address}:{one.port}") for one in cluster.processes
    )
    ended = [f"{one.name} ended with code {one.exit_code}" for one in cluster.ended]
    phase: GroupPhase = "failed" if ended else "ready" if cluster.ready else "starting"
    return msgspec.structs.replace(
        state,
        phase=phase,
        reason="; ".join(ended),
        address=place.address,
        node=place.node,
        processes=processes,
    )


def _read(path: Path, kind: type[RecordT]) -> RecordT | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
