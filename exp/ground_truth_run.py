"""A recorded run simulated anew from a profile: with nothing fitted, and with one constant from its half."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from block.errors import PackError
from block.latency.base import KernelLatency
from block.simulation.engine import EngineSimulation, Outcome, SimulatedRequest
from block.types import EngineLimits
from exp.latency_errors import LatencyErrors, RequestTimes
from exp.recorded_run import RecordedRun
from vidur_adapter.lockstep import run_in_lockstep
from vidur_adapter.model import Constants, OperatorModel
from vidur_adapter.replay import Replay
from vidur_adapter.tabulated import OperatorLatency

_ANY_KERNEL = KernelLatency((1.0, 2.0), (0.03, 0.03))
_FIT_ROUNDS = 4
_CLOSE_ENOUGH = 2e-4


@dataclass(frozen=True)
class Simulated:
    """One variant of the simulation."""

    name: str
    judged: str
    """Which requests its errors are of."""
    constants: Constants
    errors: LatencyErrors
    wall_s: float
    steps: int
    covered_share: float
    """Of the steps: within what was measured."""


@dataclass(frozen=True)
class GroundTruth:
    """A run and a profile's model for it."""

    run: RecordedRun
    model: OperatorModel
    limits: EngineLimits
    arrivals: tuple[SimulatedRequest, ...]
    engines: int = 1
    """That share the requests, taken to be given them in turn."""
    lockstep: bool = False
    """Whether the engines share layers of experts, and so step together."""

    def variants(self) -> Iterator[Simulated]:
        """Nothing fitted, by the operators and by their table; then a constant from each half."""
        everything = np.ones(len(self.arrivals), dtype=bool)
        yield self._judged("profile alone", "all", self.model.constants, everything)
        yield self._tabulated(everything)
        for name, fitted_on, judged_on in self._halves():
            constants = self._fit(fitted_on)
            yield self._judged(f"fitted on the {name[0]} half", f"{name[1]} half", constants, judged_on)

    @cached_property
    def recorded(self) -> RequestTimes:
        """What really happened."""
        return RequestTimes.of(self.run.times(), self._output_tokens)

    @cached_property
    def _output_tokens(self) -> npt.NDArray[np.int64]:
        return np.array([request.output_toks for request in self.run.requests])

    def _halves(self) -> Iterator[tuple[tuple[str, str], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
        """By the time at which responses ended: what was known then, and what came after."""
        ended = self.run.times()[:, 3]
        first = ended <= np.median(ended)
        spaced = self._output_tokens > 1
        if not (spaced & first).any() or not (spaced & ~first).any():
            return  # nothing to fit to, or nothing to judge
        yield ("first", "second"), first, ~first
        yield ("second", "first"), ~first, first

    def _fit(self, rows: npt.NDArray[np.bool_]) -> Constants:
        """Seconds per step that make these requests' mean TPOT right; by secants."""
        constants = self.model.constants
        wanted = self.recorded.only(rows).statistic("tpot", "mean")
        step_s = constants.step_s
        for _ in range(_FIT_ROUNDS):
            tried = replace(
                constants, step_s=step_s, origin="fitted", note="mean TPOT of one half of the run"
            )
            simulated, _ = self._replayed(tried)
            short_s = wanted - simulated.only(rows).statistic("tpot", "mean")
            if abs(short_s) < _CLOSE_ENOUGH * wanted:
                break
            step_s += short_s  # a token takes about a step
        return replace(tried, step_s=step_s)

    def _judged(self, name: str, judged: str, constants: Constants, rows: npt.NDArray[np.bool_]) -> Simulated:
        started_s = time.perf_counter()
        simulated, replays = self._replayed(constants)
        wall_s = time.perf_counter() - started_s
        errors = LatencyErrors(self.recorded.only(rows), simulated.only(rows))
        steps = sum(len(replay.batches) for replay in replays)
        covered = float(np.mean([flag for replay in replays for flag in replay.covered]))
        return Simulated(name, judged, constants, errors, wall_s, steps, covered)

    def _tabulated(self, rows: npt.NDArray[np.bool_]) -> Simulated:
        """The form that predictors evaluate, fitted to the batches of a simulation of these arrivals."""
        _, replays = self._replayed(self.model.constants)
        batches = [batch for replay in replays for batch in replay.batches]
        table = OperatorLatency.of(self.model, batches, of_a_run=True)
        started_s = time.perf_counter()
        simulated, replays = self._replay(table.kernel, None)
        wall_s = time.perf_counter() - started_s
        errors = LatencyErrors(self.recorded.only(rows), simulated.only(rows))
        steps = sum(len(replay.batches) for replay in replays)
        return Simulated(
            "as a table", "all", self.model.constants, errors, wall_s, steps, table.covered_share
        )

    def _replayed(self, constants: Constants) -> tuple[RequestTimes, list[Replay]]:
        return self._replay(_ANY_KERNEL, replace(self.model, constants=constants))

    def _replay(
        self, kernel: KernelLatency, model: OperatorModel | None
    ) -> tuple[RequestTimes, list[Replay]]:
        replays = [
            Replay(EngineSimulation(self.limits, kernel, self.arrivals[first :: self.engines]), model)
            for first in range(self.engines)
        ]
        outcomes = run_in_lockstep(replays) if self.lockstep else [replay.run() for replay in replays]
        times = np.full((len(self.arrivals), 4), np.nan)
        for first, (replay, found) in enumerate(zip(replays, outcomes, strict=True)):
            times[first :: self.engines] = _times(replay, found)
        if not np.isfinite(times).all():
            raise PackError(
                f"{self.run.folder}: some requests never ended in the simulation; check meta.json"
            )
        return RequestTimes.of(times, self._output_tokens), replays


def _times(replay: Replay, outcomes: list[Outcome]) -> list[tuple[float, float, float, float]]:
    """Queued, scheduled, first and last token of each request, in order."""
    return [
        (request.arrival_s, replay.scheduled_s[request.id], outcome.first_token_s, outcome.finish_s)
        for request, outcome in zip(replay.simulation.requests, outcomes, strict=True)
    ]
