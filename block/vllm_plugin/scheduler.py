"""vLLM's schedulers with the state feed: ``--scheduler-cls`` takes one of the two classes by name.

Scheduling is vLLM's own to the letter; each hook calls ``super()`` and tells the feed.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput

from block.vllm_plugin.feed import Feed


class FeedHooks(Scheduler):
    """What both schedulers tell the feed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.block_feed = Feed(self)

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Schedule, then publish the state."""
        output = super().schedule(throttle_prefills)
        self.block_feed.step_scheduled(output)
        return output

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """Time the step that ended, then process its output."""
        self.block_feed.step_ended(scheduler_output)
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(
            scheduler_output, model_runner_output
        )
        self.block_feed.outputs_processed()
        return outputs

    def shutdown(self) -> None:
        """End the feed with the engine."""
        self.block_feed.close()
        super().shutdown()


class FeedScheduler(FeedHooks):
    """vLLM's ``Scheduler`` with the state feed."""


class AsyncFeedScheduler(FeedHooks, AsyncScheduler):
    """vLLM's ``AsyncScheduler`` with the state feed."""
