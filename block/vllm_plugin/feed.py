"""The state feed of one engine, as its scheduler sees it: four calls that cannot fail."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from vllm.logger import init_logger
from vllm.v1.core.sched.output import SchedulerOutput

from block.vllm_plugin.boundary import Boundary
from block.vllm_plugin.capture import Capturer
from block.vllm_plugin.engine_name import engine_name
from block.vllm_plugin.feed_state import FeedState
from block.vllm_plugin.limits import engine_limits
from block.vllm_plugin.publisher import Publisher
from block.vllm_plugin.settings import plugin_settings

logger = init_logger("vllm.block.feed")


class Feed:
    """Publishes a vLLM scheduler's state; whatever goes wrong, the scheduler does not notice."""

    def __init__(self, scheduler: Any) -> None:
        self._boundary = Boundary()
        self._live: LiveFeed | None = None
        self._boundary.run(self._open, scheduler)

    def step_scheduled(self, output: SchedulerOutput) -> None:
        """Call after ``schedule()``."""
        if self._live is not None:
            self._boundary.run(self._live.step_scheduled, output)

    def step_ended(self, output: SchedulerOutput) -> None:
        """Call before ``update_from_output()``."""
        if self._live is not None:
            self._boundary.run(self._live.step_ended, output)

    def outputs_processed(self) -> None:
        """Call after ``update_from_output()``."""
        if self._live is not None:
            self._boundary.run(self._live.outputs_processed)

    def close(self) -> None:
        """Send what is left and close the socket."""
        if self._live is not None:
            self._boundary.run(self._live.close)

    def _open(self, scheduler: Any) -> None:
        settings = plugin_settings(scheduler.vllm_config.additional_config).feed
        if settings is None:
            logger.warning("No state feed: --additional-config has no block.feed.address")
            return
        self._live = LiveFeed(scheduler, settings.address, self._boundary)
        logger.info("Publishing the engine's state on %s", settings.address)


class LiveFeed:
    """A feed that is open. Its methods run on the engine's thread and may raise."""

    def __init__(self, scheduler: Any, address: str, boundary: Boundary) -> None:
        self._scheduler = scheduler
        name = engine_name(scheduler.vllm_config)
        state = FeedState(uuid4().hex, engine_limits(scheduler), time.time(), name)
        self._capturer = Capturer(scheduler, time.time)
        self._publisher = Publisher(address, state, boundary)

    def step_scheduled(self, output: SchedulerOutput) -> None:
        """Publish the state with the new step in it."""
        self._publisher.put(self._capturer.step_scheduled(output))

    def step_ended(self, output: SchedulerOutput) -> None:
        """Note the time; it is published with the next state."""
        self._capturer.step_ended(output)

    def outputs_processed(self) -> None:
        """Publish an engine that has drained, as it may not schedule again soon."""
        if not self._scheduler.running and self._scheduler.get_num_unfinished_requests() == 0:
            self._publisher.put(self._capturer.between_steps())

    def close(self) -> None:
        """End the feed's thread."""
        self._publisher.close()
