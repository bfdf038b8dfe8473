"""What an emulation check compares: loads that were not recorded, by model.

Recorded are ShareGPT's lengths at 15, 50 and 90 % of an engine's capacity, and corners. Judged are other
seeds, another length mix, rates between and beyond, and bursts.
"""

from __future__ import annotations

from dataclasses import dataclass

from exp.load import Load

HELD_OUT_MIX = "long-prompts"
_BURSTY = 0.25
_RATES = (0.1, 0.35, 0.7, 0.85, 1.3)
"""Shares of the capacity, from idle to saturation; beyond 1 the queue grows until the load ends."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One load to judge by, its rate as a share of what the engine can do of its mix."""

    mix: str
    share: float
    burstiness: float
    seed: int

    def load(self, capacity_per_s: float, duration_s: float) -> Load:
        """In requests per second."""
        return Load(self.mix, self.share * capacity_per_s, duration_s, self.seed, self.burstiness)

    @property
    def name(self) -> str:
        """For tables and file names."""
        shape = "Poisson" if self.burstiness == 1.0 else "bursty"
        return f"{self.mix} {self.share:.0%} {shape}"


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """Which models, how long to record and to judge."""

    models: tuple[str, ...]
    record_s: float
    cell_s: float
    cells: tuple[Cell, ...]
    real_runs: int = 4
    """Of each cell; recording rounds lie before, between and after them. A machine's speed wanders by some
    percent from minute to minute: the more often both take turns, the more alike are their minutes."""
    emulated_runs: int = 2
    steady_runs: int = 1
    """Emulated without the recorded ups and downs, beside virtual time without them: by chance alone, samples
    of two runs differ by more than these clocks do."""
    seed: int = 0

    @property
    def rounds(self) -> int:
        """Of the recording."""
        return self.real_runs + 1

    @property
    def mixes(self) -> set[str]:
        """All that appear."""
        return {cell.mix for cell in self.cells}


def quick(models: tuple[str, ...], seed: int) -> CheckPlan:
    """Ten minutes."""
    cells = (
        ("sharegpt", 0.35, 1.0),
        ("sharegpt", 0.7, _BURSTY),
        (HELD_OUT_MIX, 0.6, 1.0),
        ("sharegpt", 1.3, 1.0),
    )
    return CheckPlan(models, 70.0, 10.0, _cells(cells, seed), emulated_runs=3, seed=seed)


def full(models: tuple[str, ...], seed: int) -> CheckPlan:
    """The whole table."""
    sharegpt = tuple(("sharegpt", share, shape) for shape in (1.0, _BURSTY) for share in _RATES)
    other = tuple((HELD_OUT_MIX, share, 1.0) for share in (0.35, 0.7))
    return CheckPlan(models, 150.0, 20.0, _cells(sharegpt + other, seed), steady_runs=2, seed=seed)


def _cells(wanted: tuple[tuple[str, float, float], ...], seed: int) -> tuple[Cell, ...]:
    # Recording draws from seeds below 1,000 further.
    return tuple(Cell(*each, seed=seed + 1000 + index) for index, each in enumerate(wanted))
