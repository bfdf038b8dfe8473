"""Keeps the fleet as a list of instances says, while requests run.

New instances are polled before they get requests; those that are off the list get none any more and are let
go when theirs are over, or at a deadline. Does not know where the list comes from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from block.config import InstanceConfig
from block.errors import RequestError
from global_scheduler.fleet import Fleet, Instance
from global_scheduler.health import HealthMonitor

LOOK_S = 0.05
"""Between two looks whether a leaving instance has requests left."""

logger = logging.getLogger(__name__)


class Roster:
    """Who is in service, who drains, who leaves."""

    def __init__(self, fleet: Fleet, monitor: HealthMonitor, drain_timeout_s: float) -> None:
        self.leaving: tuple[Instance, ...] = ()
        """Off the list, with requests that are not over."""
        self._fleet = fleet
        self._monitor = monitor
        self._drain_timeout_s = drain_timeout_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._drains: dict[Instance, asyncio.Task[None]] = {}

    @property
    def configs(self) -> tuple[InstanceConfig, ...]:
        """The list as it is followed now."""
        return tuple(instance.config for instance in self._fleet.instances)

    async def open(self) -> None:
        """Look at the instances that the fleet begins with."""
        await asyncio.gather(*(self._monitor.watch(instance) for instance in self._fleet.instances))
        for instance in self._fleet.instances:
            self._set_draining(instance, instance.config)

    async def close(self) -> None:
        """Wait for nobody any more."""
        tasks = [*self._tasks, *self._drains.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def follow(self, configs: Sequence[InstanceConfig]) -> None:
        """This is the list from now on."""
        present = {instance.name: instance for instance in self._fleet.instances}
        fleet = []
        for config in configs:
            instance = present.get(config.name)
            if instance is not None and _same_place(instance.config, config):
                del present[config.name]
            else:
                instance = self._fleet.make(config)
                self._start(self._monitor.watch(instance))
                logger.warning("instance %s is new, at %s", config.name, config.url)
            fleet.append(instance)
            self._set_draining(instance, config)
        self._fleet.arrange(fleet)
        for instance in present.values():
            self._dismiss(instance)

    def _set_draining(self, instance: Instance, config: InstanceConfig) -> None:
        instance.config = config
        if config.draining == instance.draining:
            return
        instance.draining = config.draining
        logger.warning("instance %s %s", instance.name, "drains" if config.draining else "is back in service")
        if config.draining:
            self._drains[instance] = asyncio.create_task(self._drain(instance))
        elif (drain := self._drains.pop(instance, None)) is not None:
            drain.cancel()

    def _dismiss(self, instance: Instance) -> None:
        instance.draining = True
        self.leaving = (*self.leaving, instance)
        logger.warning(
            "instance %s is off the list, with %d requests open", instance.name, instance.outstanding
        )
        self._start(self._see_out(instance))

    async def _see_out(self, instance: Instance) -> None:
        drain = self._drains.pop(instance, None) or asyncio.create_task(self._drain(instance))
        try:
            await drain
        finally:
            drain.cancel()
            self._monitor.leave(instance)
            self.leaving = tuple(one for one in self.leaving if one is not instance)

    async def _drain(self, instance: Instance) -> None:
        """Let its requests end; at the deadline, end them."""
        limit_s = instance.config.drain_timeout_s or self._drain_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                while instance.outstanding:  # noqa: ASYNC110  (to be told of each would cost each request)
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            logger.warning(
                "instance %s still has %d requests after %s s; they end now",
                instance.name,
                instance.outstanding,
                limit_s,
            )
            instance.signs.evict(_taken_out())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _same_place(one: InstanceConfig, other: InstanceConfig) -> bool:
    return (one.url, one.predictor_url) == (other.url, other.predictor_url)


def _taken_out() -> RequestError:
    return RequestError(
        "the instance was taken out of service in mid-stream", status=503, code="instance_drained"
    )
