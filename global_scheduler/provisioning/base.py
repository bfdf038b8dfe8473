"""What strategies see and say. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from block.latency.base import StepLatencyModel
from block.latency.calibration import CalibratedLatency
from block.types import EngineLimits, EngineLoad


@dataclass(frozen=True, slots=True)
class MeasuredPace:
    """How the engines' steps differ from their model, as predictors have measured; 1 and 0: not at all."""

    factor: float = 1.0
    """On the curve over a step's tokens."""
    offset_s: float = 0.0
    """Added to each step."""
    context_factor: float = 1.0
    """On what a step costs per token of context."""


AS_MODELLED = MeasuredPace()


@dataclass(frozen=True, slots=True)
class EngineModel:
    """What instances of the fleet are, for those who simulate them."""

    limits: EngineLimits
    latency: StepLatencyModel

    def at(self, pace: MeasuredPace) -> Self:
        """The same with steps as they were measured."""
        if pace == AS_MODELLED:
            return self
        base = self.latency.kernel
        kernel = replace(
            base.scaled(pace.factor),
            token_seconds=tuple(pace.factor * each_s + pace.offset_s for each_s in base.token_seconds),
            per_context_token_s=pace.context_factor * base.per_context_token_s,
        )
        return replace(self, latency=CalibratedLatency(f"{self.latency.version} as measured", kernel))


@dataclass(frozen=True, slots=True)
class InstanceSeen:
    """One instance that requests are sent to."""

    name: str
    load: EngineLoad


@dataclass(frozen=True, slots=True)
class Observation:
    """A fleet at one moment."""

    at_s: float
    instances: tuple[InstanceSeen, ...]
    """Those in service; what drains is not among them."""
    starting_s: tuple[float, ...] = ()
    """For each that was asked for and does not serve yet: in how many seconds it is expected to."""
    requests: int = 0
    """All that have come since somebody began to count."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Prompt and response tokens of requests like the latest."""
    measured_e2e_s: float | None = None
    """The highest latency measured since the last look; None if nothing was answered."""
    predicted_e2e_s: float | None = None
    """What a request would meet where it would do best; None if nobody has said."""
    pace: MeasuredPace = AS_MODELLED
    """Of the engines' steps."""
    changing: bool = False
    """Whether an earlier change is still being made."""

    @property
    def count(self) -> int:
        """Instances in service or on their way to it."""
        return len(self.instances) + len(self.starting_s)


@dataclass(frozen=True, slots=True)
class ArrivalProcess:
    """How requests have come lately."""

    rate_per_s: float = 0.0
    """Of the window or, where its halves differ by more than chance, of the second."""
    growth_per_s: float = 0.0
    """By how much the second half is above the first; 0 where that may be chance."""
    dispersion: float = 1.0
    """Variance of counts over their mean: 1 is Poisson, more is burstier."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a strategy would do, were there no bounds."""

    change: int
    """Instances to add, or, negative, to drain."""
    reason: str
    effect: Mapping[str, float] = field(default_factory=dict)
    """What it predicts, by name."""


class Strategy(Protocol):
    """Pure: neither clock nor I/O, and the same input gives the same wish."""

    def wish(self, seen: Observation, arrivals: ArrivalProcess) -> Wish:
        """What should be changed."""
        ...
