"""A cluster of local processes: brought up together, watched, and taken down whole.

Any failure while coming up takes everything down again. A process that dies later is reported and the
others stay up; one that may be started again, is, and one that hangs is ended first. Does not know what the
processes serve, nor how they were planned.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Self

import aiohttp
import psutil

from block.errors import DeployError
from deploy.hang_watch import end_of
from deploy.plan import ClusterPlan
from deploy.process import ManagedProcess
from deploy.readiness import check_ports, early_end, late, wait_until_ready
from deploy.restart_pauses import RestartPauses
from deploy.run_folder import RunFolder
from deploy.state import ClusterState, ProcessPhase, ProcessState

_log = logging.getLogger(__name__)

_GRACE_S = 10.0
_AFTER_GRACE_S = 5.0

OnChange = Callable[[ClusterState], None]


class LocalCluster:
    """``async with LocalCluster(plan) as cluster:`` has a ready cluster inside, and none after it."""

    def __init__(
        self, plan: ClusterPlan, on_change: OnChange | None = None, grace_s: float = _GRACE_S
    ) -> None:
        self.plan = plan
        self.folder = RunFolder(plan.folder, plan.socket_folder)
        self._on_change = on_change
        self._grace_s = grace_s
        self._processes: list[ManagedProcess] = []
        self._restarts = [0] * len(plan.processes)
        self._ready: set[str] = set()
        self._watchers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def state(self) -> ClusterState:
        """What ``status`` shows."""
        launcher = psutil.Process()
        return ClusterState(
            name=self.plan.name,
            launcher_pid=os.getpid(),
            launcher_start_s=launcher.create_time(),
            ready=len(self._ready) == len(self.plan.processes),
            openai_base_url=self.plan.openai_base_url,
            model=self.plan.served_model_name,
            processes=tuple(map(self._process_state, self._processes, self._restarts)),
        )

    async def start(self) -> None:
        """Bring everything up; returns when all is ready. Raises DeployError, with nothing left behind."""
        self.folder.open(self.plan.configs)
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End all processes within the grace, by force after it, and clean the run folder."""
        for watcher in self._watchers:
            watcher.cancel()
        self._watchers.clear()
        for process in self._processes:
            process.ask_to_end()
        if self._processes:
            ends = [process.ended for process in self._processes]
            _, alive = await asyncio.wait(ends, timeout=self._grace_s + _AFTER_GRACE_S)
            await asyncio.gather(*(p.kill() for p in self._processes if p.ended in alive))
        self.folder.close()

    async def _start(self) -> None:
        check_ports(self.plan.processes)
        self._processes = [ManagedProcess.start(plan, self._grace_s) for plan in self.plan.processes]
        self._publish()
        deadline_s = asyncio.get_running_loop().time() + self.plan.ready_timeout_s
        async with aiohttp.ClientSession() as session:
            waits = [asyncio.create_task(self._await_ready(p, session, deadline_s)) for p in self._processes]
            try:
                await asyncio.gather(*waits)
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
        for process in self._processes:
            if process.ended.done():
                raise DeployError(early_end(process.plan, process.ended.result()))
        self._watchers = [asyncio.create_task(self._watch(place)) for place in range(len(self._processes))]

    async def _await_ready(
        self, process: ManagedProcess, session: aiohttp.ClientSession, deadline_s: float
    ) -> None:
        try:
            async with asyncio.timeout_at(deadline_s):
                await wait_until_ready(process, session)
        except TimeoutError as error:
            raise DeployError(late(process.plan, self.plan.ready_timeout_s)) from error
        self._ready.add(process.plan.name)
        self._publish()

    async def _watch(self, place: int) -> None:
        """Note a process's end; start it again if its plan says so, after a pause."""
        pauses = RestartPauses()
        while True:
            process, began_s = self._processes[place], asyncio.get_running_loop().time()
            code = await end_of(process)
            _log.error("%s ended with code %d; its log: %s", process.plan.name, code, process.plan.log)
            self._ready.discard(process.plan.name)
            self._publish()
            if not process.plan.restarts:
                return
            await asyncio.sleep(pauses.next_s(asyncio.get_running_loop().time() - began_s))
            await self._restart(place)

    async def _restart(self, place: int) -> None:
        """Returns once it answers, or has ended again."""
        # What it depends on may be what is missing: then it answers 503 for long, and does what it can.
        plan = self.plan.processes[place]
        lenient = replace(plan, ready_on=plan.ready_on | {503})
        process = self._processes[place] = ManagedProcess.start(lenient, self._grace_s)
        self._restarts[place] += 1
        self._publish()
        async with aiohttp.ClientSession() as session:
            try:
                async with asyncio.timeout(self.plan.ready_timeout_s):
                    await wait_until_ready(process, session)
            except DeployError:
                return  # whoever watches it sees its end, too
            except TimeoutError:
                _log.error("%s", late(plan, self.plan.ready_timeout_s))
                process.strike()
                return
        self._ready.add(plan.name)
        self._publish()

    def _publish(self) -> None:
        state = self.state
        self.folder.write_state(state)
        if self._on_change is not None:
            self._on_change(state)

    def _process_state(self, process: ManagedProcess, restarts: int) -> ProcessState:
        plan, ended = process.plan, process.ended.done()
        phase: ProcessPhase = "ready" if plan.name in self._ready else "starting"
        if ended and not (plan.restarts and self._watchers):
            phase = "ended"
        return ProcessState(
            name=plan.name,
            role=plan.role,
            phase=phase,
            port=plan.port,
            url=plan.health_url.removesuffix("/health"),
            log=str(plan.log),
            pid=process.pid,
            exit_code=process.ended.result() if ended else None,
            restarts=restarts,
        )
