"""Step times learned from one engine's feed, for as long as its configuration stays the same.

An engine that restarts as it was keeps what was learned of it; one with other limits, another model or
on another device is another engine, and starts from the base model. Knows the mirror's state and nothing of
how it got there.
"""

from __future__ import annotations

import hashlib

import msgspec

from block.latency.base import StepLatencyModel
from block.latency.calibration import OnlineCalibration
from block.types import CalibrationStatus, EngineLimits
from predictor.mirror import Held


class FeedCalibration:
    """The current step-latency model of one engine."""

    def __init__(self, base: StepLatencyModel) -> None:
        """``base`` is what a new engine is taken to be like."""
        self._base = base
        self._engine_id = ""
        self._config_hash = ""
        self._online: OnlineCalibration | None = None

    @property
    def current(self) -> StepLatencyModel:
        """The model in force."""
        return self._base if self._online is None else self._online.current()

    @property
    def status(self) -> CalibrationStatus | None:
        """None before the first state."""
        return None if self._online is None else self._online.status

    def notice(self, held: Held) -> bool:
        """Learn from the steps that the latest message reports; returns whether the model changed."""
        online, changed = self._online, False
        if online is None or held.engine_id != self._engine_id:
            self._engine_id = held.engine_id
            config_hash = engine_config_hash(held.engine_name, held.limits)
            if online is None or config_hash != self._config_hash:
                changed = online is not None
                online = OnlineCalibration(self._base, config_hash, held.limits.max_num_batched_tokens)
                self._online, self._config_hash = online, config_hash
            online.forget_order()
        return online.observe(held.clock.finished_steps, held.clock.time_s) or changed

    def reset(self) -> None:
        """Go back to the base model and start anew."""
        if self._online is not None:
            self._online.reset()


def engine_config_hash(engine_name: str, limits: EngineLimits) -> str:
    """Eight hexadecimal digits that change with what the engine computes, on what, and its limits."""
    return hashlib.sha256(msgspec.json.encode((engine_name, limits))).hexdigest()[:8]
