"""What strategies see and say. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from block.latency.base import StepLatencyModel
from block.types import EngineLimits, EngineLoad


@dataclass(frozen=True, slots=True)
class EngineModel:
    """What instances of the fleet are, for those who simulate them."""

    limits: EngineLimits
    latency: StepLatencyModel


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
    """Now, as the window's second half has it."""
    growth_per_s: float = 0.0
    """By how much that is above the first half's."""
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
