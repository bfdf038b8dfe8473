"""What failures are tried on: processes of their own, which a fault can signal, end and start again.

Knows which parts there are and when all are ready; not what the engines are.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
import psutil

from block.errors import DeployError

READY_S = 240.0
LOOKS_PER_WORKER = 3
"""The kernel deals connections out by chance: so many looks see every worker, most likely."""

Condition = Callable[[], Awaitable[bool]]


@dataclass(slots=True)
class Part:
    """One process, the leader of its group."""

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    """On top of this process's own."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it, or start it again."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **self.env}
            )

    def signal(self, number: signal.Signals) -> None:
        """To the whole group."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def wait(self) -> None:
        """Until it has ended."""
        if self._process is not None:
            self._process.wait(READY_S)

    @property
    def children(self) -> list[psutil.Process]:
        """Its own processes."""
        return [] if self._process is None else psutil.Process(self._process.pid).children()

    def end(self) -> None:
        """By force."""
        self.signal(signal.SIGKILL)
        self.wait()


@dataclass(frozen=True, slots=True)
class Parts:
    """All processes of a stage."""

    engines: Sequence[Part]
    predictors: Sequence[Part]
    scheduler: Part


class Stage:
    """``async with stage:`` has everything up inside, and nothing left after it."""

    def __init__(self, parts: Parts, port: int, predictor_ports: Sequence[int], workers: int) -> None:
        """``port``: the scheduler's, which has so many ``workers``."""
        self.parts = parts
        self.port = port
        self.names = [engine.name for engine in parts.engines]
        self._predictor_ports = predictor_ports
        self._workers = workers
        self.http = httpx.AsyncClient(timeout=2.0, limits=httpx.Limits(max_keepalive_connections=0))

    async def __aenter__(self) -> Self:
        try:
            for part in (*self.parts.engines, *self.parts.predictors):
                part.start()
            await self._until(self._predictors_ready, "the predictors")
            self.parts.scheduler.start()
            await self.until_ready()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for part in (self.parts.scheduler, *self.parts.engines, *self.parts.predictors):
            part.signal(signal.SIGCONT)
            part.end()
        await self.http.aclose()

    async def until_ready(self) -> None:
        """Wait until every worker would send requests to every instance, with predictions."""
        await self._until(self._all_ready, "the fleet")

    async def _all_ready(self) -> bool:
        for _ in range(LOOKS_PER_WORKER * self._workers):
            answer = await self.http.get(f"http://127.0.0.1:{self.port}/admin/instances")
            if any(one["condition"] != "ready" for one in answer.json()["instances"]):
                return False
        complete = self._workers in (1, len(self.parts.scheduler.children))
        return complete and await self._predictors_ready()

    async def _predictors_ready(self) -> bool:
        for port in self._predictor_ports:
            if (await self.http.get(f"http://127.0.0.1:{port}/health")).status_code != 200:
                return False
        return True

    async def _until(self, condition: Condition, who: str) -> None:
        try:
            async with asyncio.timeout(READY_S):
                while not await _holds(condition):  # noqa: ASYNC110  (of other processes)
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            log = self.parts.scheduler.log
            raise DeployError(f"{who}: not ready after {READY_S:g} s; logs: {log.parent}") from error


async def _holds(condition: Condition) -> bool:
    try:
        return await condition()
    except (httpx.HTTPError, psutil.NoSuchProcess):
        return False
