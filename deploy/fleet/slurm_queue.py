"""Slurm's own commands and what they print. Pure but for ``SlurmQueue``, which runs them."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from block.fleet_config import SlurmBackend
from deploy.fleet.group import Group
from deploy.fleet.placement import ANYWHERE
from deploy.fleet.shell import HostError, LocalShell, run_script

_FORMAT = "%i|%j|%T|%N|%r"
_POLL_S = 0.5
_COMMAND_TIMEOUT_S = 60.0
_GONE_TIMEOUT_S = 120.0
_LATE_S = 60
"""Slurm may send its signal up to so much late."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job in the queue. ``state`` in Slurm's words, ``node`` empty until it has one."""

    number: str
    name: str
    state: str
    node: str
    reason: str


def read_queue(printed: str) -> tuple[Job, ...]:
    """What ``squeue`` printed."""
    rows = (line.split("|", 4) for line in printed.splitlines() if line.count("|") >= 4)
    return tuple(Job(*(part.strip() for part in row)) for row in rows)


def job_name(fleet: str, group: str) -> str:
    """By which a group's job is known."""
    return f"block:{fleet}:{group}"


def sbatch_options(backend: SlurmBackend, group: Group, gpus: int, log: str) -> list[str]:
    """Options of ``sbatch`` for one group. Secrets are no part of them, nor of the job's environment."""
    is_instance = group.role == "instance"
    partition = backend.partition if is_instance else backend.scheduler_partition or backend.partition
    named = {
        "job-name": job_name(group.fleet, group.name),
        "output": log,
        "open-mode": "append",
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": backend.cpus if is_instance else 1,
        # Sent to the job's own process, so long before its walltime is over.
        "signal": f"B:USR1@{backend.drain_s + _LATE_S}",
        "export": "HOME,PATH,USER,LOGNAME,LANG",
        "partition": partition,
        "account": backend.account,
        "qos": backend.qos,
        "mem": f"{backend.memory_mb}M" if backend.memory_mb and is_instance else None,
        "time": backend.time_limit_min,
        "gres": f"gpu:{backend.gpu_type + ':' if backend.gpu_type else ''}{gpus}" if gpus else None,
    }
    given = [f"--{name}={value}" for name, value in named.items() if value is not None]
    return ["--parsable", "--requeue", *given, *backend.options]


class SlurmQueue:
    """This user's jobs, through ``sbatch``, ``squeue`` and ``scancel`` of this machine."""

    def __init__(self, fleet: str) -> None:
        self._fleet = fleet
        self._shell = LocalShell(ANYWHERE)

    async def jobs(self) -> dict[str, Job]:
        """This fleet's jobs by group."""
        prefix = job_name(self._fleet, "")
        printed = await self._run(["squeue", "--me", "--noheader", f"--format={_FORMAT}"])
        mine = (job for job in read_queue(printed) if job.name.startswith(prefix))
        return {job.name.removeprefix(prefix): job for job in mine}

    async def submit(self, options: list[str], script: str) -> str:
        """Queue a job; returns its number."""
        printed = await self._run(["sbatch", *options], script)
        return printed.strip().partition(";")[0]

    async def cancel(self, numbers: Iterable[str]) -> None:
        """End jobs and wait until Slurm has let go of them."""
        chosen = sorted(numbers)
        if not chosen:
            return
        await self._run(["scancel", *chosen])
        try:
            async with asyncio.timeout(_GONE_TIMEOUT_S):
                while left := await self._among(chosen):  # noqa: ASYNC110  (Slurm has no event for it)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise HostError(
                f"{ANYWHERE}: jobs {', '.join(left)} have not ended "
                f"{_GONE_TIMEOUT_S:g} s after scancel; look at squeue"
            ) from error

    async def _among(self, numbers: list[str]) -> list[str]:
        """Those that are still in the queue."""
        there = {job.number for job in (await self.jobs()).values()}
        return [number for number in numbers if number in there]

    async def end_of(self, number: str) -> str:
        """How a job that has left the queue ended, in Slurm's words, while Slurm remembers; else empty."""
        try:
            printed = await self._run(["scontrol", "--oneliner", "show", "job", number])
        except HostError:
            return ""
        facts = dict(word.partition("=")[::2] for word in printed.split())
        return facts.get("JobState", "")

    async def _run(self, argv: list[str], stdin: str = "") -> str:
        return await run_script(self._shell, shlex.join(argv), stdin.encode(), _COMMAND_TIMEOUT_S)
