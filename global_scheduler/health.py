"""Health polling: finds out which instances are up and what they serve, and tells the fleet."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from block.errors import InstanceError, TransportError
from block.http.client import Client
from block.http.message import Headers, Response
from global_scheduler.fleet import Fleet, Instance
from global_scheduler.model_list import parse_model_list

POLL_TIMEOUT_S = 5.0
"""A busy API server may take seconds to answer; that alone does not make it dead."""
SLOW_POLLS_ALLOWED = 3
"""Polls in a row that may time out before an instance counts as down."""
POLLS_PER_MODEL_LIST = 30
"""How often the model list is read again: adapters come and go while a server runs."""

logger = logging.getLogger(__name__)


class HealthMonitor:
    """Polls every instance of a fleet, each at its own pace."""

    def __init__(self, http: Client, fleet: Fleet, interval_s: float, headers: Headers | None = None) -> None:
        """``headers`` go with every poll."""
        self._http = http
        self._fleet = fleet
        self._interval_s = interval_s
        self._headers = headers or []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Poll everyone once, so that the first request finds the fleet, then go on in the background."""
        watches = [_Watch(self._http, instance, self._headers) for instance in self._fleet.instances]
        await asyncio.gather(*(watch.poll() for watch in watches))
        self._tasks = [asyncio.create_task(watch.run(self._interval_s)) for watch in watches]

    async def stop(self) -> None:
        """End the polling."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Watch:
    """One instance under watch."""

    def __init__(self, http: Client, instance: Instance, headers: Headers) -> None:
        self._http = http
        self._headers = headers
        self._instance = instance
        self._slow_polls = 0
        self._polls_since_list = 0

    async def run(self, interval_s: float) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._instance.doubted.wait(), interval_s)
                await asyncio.sleep(interval_s / 10)  # doubts come in bursts; one poll settles them
            self._instance.doubted.clear()
            await self.poll()

    async def poll(self) -> None:
        was_healthy = self._instance.healthy
        healthy = await self._answers()
        if healthy is None:
            return
        if healthy and (not was_healthy or self._polls_since_list >= POLLS_PER_MODEL_LIST):
            await self._read_models()
        self._polls_since_list += 1
        if healthy:
            self._instance.healthy = True
        else:
            self._instance.give_up()
        if healthy != was_healthy:
            logger.warning("instance %s is %s", self._instance.name, "up" if healthy else "down")

    async def _answers(self) -> bool | None:
        """None while it is merely slow, which changes nothing."""
        try:
            answer = await self._get(b"/health")
        except TimeoutError:
            self._slow_polls += 1
            return None if self._slow_polls < SLOW_POLLS_ALLOWED else False
        except TransportError:
            return False
        self._slow_polls = 0
        return answer.status == 200

    async def _read_models(self) -> None:
        """Failing here is no ground to call it down: what it serves stays as it was known."""
        self._polls_since_list = 0
        try:
            answer = await self._get(b"/v1/models")
            if answer.status == 200:
                self._instance.models = parse_model_list(answer.body)
        except (TimeoutError, TransportError, InstanceError) as error:
            logger.warning("instance %s does not list its models: %s", self._instance.name, error)

    async def _get(self, path: bytes) -> Response:
        origin, prefix = self._instance.origin, self._instance.prefix
        target = prefix + path
        return await self._http.fetch(b"GET", origin, target, self._headers, timeout_s=POLL_TIMEOUT_S)
