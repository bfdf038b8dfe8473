"""One engine's arrivals through our simulation and through Vidur's scheduler, with the same step times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from rich.table import Table

from block.latency.base import KernelLatency
from block.latency.least_squares import Floats
from block.simulation.engine import EngineSimulation, Outcome, SimulatedRequest
from block.types import EngineLimits
from vidur_adapter.vidur_checkout import VidurCheckout
from vidur_adapter.vidur_replica import VidurReplica, by_shape


@dataclass(frozen=True)
class Side:
    """What one of the two made of the arrivals."""

    ttft_s: Floats
    e2e_s: Floats
    preemptions: int
    steps: int
    cpu_s: float


@dataclass(frozen=True)
class VidurComparison:
    """Both, for the same requests in the same order."""

    ours: Side
    theirs: Side

    @classmethod
    def of(
        cls,
        checkout: VidurCheckout,
        limits: EngineLimits,
        kernel: KernelLatency,
        arrivals: Sequence[SimulatedRequest],
    ) -> Self:
        """Simulate twice; ours is compiled before it is timed."""
        EngineSimulation(limits, kernel, arrivals[:2]).run()

        def ours() -> tuple[list[Outcome], int]:
            simulation = EngineSimulation(limits, kernel, arrivals)
            simulation.run()
            return simulation.outcomes(), simulation.step_count

        def theirs() -> tuple[list[Outcome], int]:
            replica = VidurReplica(checkout, limits, by_shape(kernel))
            return replica.replay(arrivals), replica.steps

        return cls(_side(ours, arrivals), _side(theirs, arrivals))

    def table(self) -> Table:
        """For people."""
        table = Table("", "ours, mean", "Vidur, mean", "ours, p99", "Vidur, p99", "requests: p50", "p99")
        for name in ("ttft_s", "e2e_s"):
            own, other = getattr(self.ours, name), getattr(self.theirs, name)
            figures = (own.mean(), other.mean(), np.quantile(own, 0.99), np.quantile(other, 0.99))
            off = np.abs(other / own - 1)
            cells = [f"{value:.3f} s" for value in figures]
            table.add_row(
                name.removesuffix("_s"), *cells, f"{np.median(off):.2%}", f"{np.quantile(off, 0.99):.1%}"
            )
        return table

    def summary(self) -> dict[str, Any]:
        """Vidur's figures relative to ours, and what both cost."""
        found: dict[str, Any] = {"requests": len(self.ours.e2e_s)}
        for name in ("ttft", "e2e"):
            own, other = getattr(self.ours, f"{name}_s"), getattr(self.theirs, f"{name}_s")
            found[f"{name}_mean_diff"] = round(float(other.mean() / own.mean() - 1), 5)
            found[f"{name}_p99_diff"] = round(float(np.quantile(other, 0.99) / np.quantile(own, 0.99) - 1), 5)
            found[f"{name}_request_median_diff"] = round(float(np.median(np.abs(other / own - 1))), 5)
        for prefix, side in (("", self.ours), ("vidur_", self.theirs)):
            found |= {
                f"{prefix}preemptions": side.preemptions,
                f"{prefix}steps": side.steps,
                f"{prefix}cpu_s": round(side.cpu_s, 5),
            }
        return {**found, "speed_ratio": round(self.theirs.cpu_s / self.ours.cpu_s, 1)}


def _side(run: Callable[[], tuple[list[Outcome], int]], arrivals: Sequence[SimulatedRequest]) -> Side:
    started_s = time.thread_time()
    outcomes, steps = run()
    cpu_s = time.thread_time() - started_s
    arrived = np.array([request.arrival_s for request in arrivals])
    return Side(
        np.array([each.first_token_s for each in outcomes]) - arrived,
        np.array([each.finish_s for each in outcomes]) - arrived,
        sum(each.preemptions for each in outcomes),
        steps,
        cpu_s,
    )
