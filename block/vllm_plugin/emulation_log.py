"""Says how well an emulation goes: how exactly it keeps time, and how much of it is extrapolated.

While it goes, as vLLM often kills its engine core instead of letting it end. Times are told when the engine
has nothing to do, so that no step waits for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from vllm.logger import init_logger

from block.types import BatchShape
from block.vllm_plugin.step_timer import StepTimer
from block.vllm_plugin.step_times import StepTimes

logger = init_logger("vllm.block.emulation")

_STEPS_BETWEEN = 1000
_RARER = 10
"""A step unlike any recorded is told of when it is the first, the tenth, the hundredth ..."""


class EmulationLog:
    """Follows one executor, on its engine's thread."""

    def __init__(self, times: StepTimes, timer: StepTimer[Any]) -> None:
        self._times = times
        self._timer = timer
        self._steps = 0
        self._told_steps = 0
        self._next_uncovered = 1

    def step(self, shape: BatchShape) -> None:
        """A step has got its time."""
        self._steps += 1
        if self._times.uncovered >= self._next_uncovered:
            self._next_uncovered *= _RARER
            logger.warning(
                "%d of %d steps so far were unlike any recorded; the last: %s",
                self._times.uncovered,
                self._steps,
                shape,
            )

    def idle(self) -> None:
        """Nothing runs: time to speak, if enough has happened."""
        if self._steps - self._told_steps >= _STEPS_BETWEEN:
            self.tell()

    def tell(self) -> None:
        """What has happened since the start, and how late recent steps ended."""
        lateness_s = self._timer.lateness_s()
        if self._steps == self._told_steps or not lateness_s:
            return
        self._told_steps = self._steps
        p50_ms, p99_ms = np.percentile(lateness_s, [50, 99]) * 1e3
        logger.info(
            "Emulated %d steps, %d unlike any recorded; the last %d ended late by p50 %.3f ms, p99 %.3f ms",
            self._steps,
            self._times.uncovered,
            len(lateness_s),
            p50_ms,
            p99_ms,
        )
