"""A recorded run simulated anew from a profile: with nothing fitted, and with two constants from its half."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from block.errors import PackError
from block.latency.base import KernelLatency
from block.latency.least_squares import Floats
from block.simulation.engine import EngineSimulation, Outcome, SimulatedRequest
from block.types import EngineLimits
from exp.ground_truth_fit import RunConstants, fit_constants
from exp.latency_errors import LatencyErrors, RequestTimes
from exp.recorded_run import RecordedRun
from vidur_adapter.lockstep import run_in_lockstep
from vidur_adapter.model import OperatorModel
from vidur_adapter.replay import Replay
from vidur_adapter.tabulated import OperatorLatency

_ANY_KERNEL = KernelLatency((1.0, 2.0), (0.03, 0.03))


@dataclass(frozen=True)
class Simulated:
    """One variant of the simulation."""

    name: str
    judged: str
    """Which requests its errors are of."""
    constants: RunConstants
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
        """Nothing fitted, by the operators and by their table; then with constants from each half."""
        everything = np.ones(len(self.arrivals), dtype=bool)
        yield self._judged("profile alone", "all", RunConstants(), everything)
        yield self._tabulated(everything)
        for name, fitted_on, judged_on in self._halves():
            yield self._judged("profile alone", f"{name[1]} half", RunConstants(), judged_on)
            constants = self._fitted_on(fitted_on)
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

    def _fitted_on(self, rows: npt.NDArray[np.bool_]) -> RunConstants:
        def tpot_of(model: OperatorModel) -> Floats:
            return self._replay(_ANY_KERNEL, model)[0].values["tpot"]

        return fit_constants(self.model, tpot_of, self.recorded.values["tpot"], rows)

    def _judged(
        self, name: str, judged: str, constants: RunConstants, rows: npt.NDArray[np.bool_]
    ) -> Simulated:
        started_s = time.perf_counter()
        simulated, replays = self._replay(_ANY_KERNEL, constants.of(self.model))
        wall_s = time.perf_counter() - started_s
        errors = LatencyErrors(self.recorded.only(rows), simulated.only(rows))
        steps = sum(len(replay.batches) for replay in replays)
        covered = float(np.mean([flag for replay in replays for flag in replay.covered]))
        return Simulated(name, judged, constants, errors, wall_s, steps, covered)

    def _tabulated(self, rows: npt.NDArray[np.bool_]) -> Simulated:
        """The form that predictors evaluate, fitted to the batches of a simulation of these arrivals."""
        _, replays = self._replay(_ANY_KERNEL, self.model)
        batches = [batch for replay in replays for batch in replay.batches]
        table = OperatorLatency.of(self.model, batches, of_a_run=True)
        started_s = time.perf_counter()
        simulated, replays = self._replay(table.kernel, None)
        wall_s = time.perf_counter() - started_s
        errors = LatencyErrors(self.recorded.only(rows), simulated.only(rows))
        steps = sum(len(replay.batches) for replay in replays)
        return Simulated("as a table", "all", RunConstants(), errors, wall_s, steps, table.covered_share)

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
