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
from vidur_adapter.batch import StepBatch
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
    assumed_share: float
    """Of their time: from datasheets and stand-ins."""


@dataclass(frozen=True)
class Replayed:
    """One simulation of all arrivals."""

    times: RequestTimes
    replays: tuple[Replay, ...]
    wall_s: float

    @property
    def batches(self) -> list[StepBatch]:
        """Of all engines."""
        return [batch for replay in self.replays for batch in replay.batches]

    @property
    def covered_share(self) -> float:
        """Of the steps: within what was measured."""
        return float(np.mean([flag for replay in self.replays for flag in replay.covered]))

    @property
    def assumed_share(self) -> float:
        """Of their time: from datasheets and stand-ins."""
        assumed_s = sum(sum(replay.assumed_s) for replay in self.replays)
        return assumed_s / sum(sum(replay.step_s) for replay in self.replays)


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

    def variants(self, *, fit: bool = True) -> Iterator[Simulated]:
        """Nothing fitted, by the operators and by their table; with ``fit``, constants from each half too.

        Each half is fitted to by some ten simulations of the whole run.
        """
        everything = np.ones(len(self.arrivals), dtype=bool)
        yield self._judged("profile alone", "all", RunConstants(), everything)
        yield self._tabulated(everything)
        for name, fitted_on, judged_on in self._halves() if fit else ():
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
            return self._replay(_ANY_KERNEL, model).times.values["tpot"]

        return fit_constants(self.model, tpot_of, self.recorded.values["tpot"], rows)

    def _judged(
        self, name: str, judged: str, constants: RunConstants, rows: npt.NDArray[np.bool_]
    ) -> Simulated:
        plain = constants == RunConstants()
        found = self._unfitted if plain else self._replay(_ANY_KERNEL, constants.of(self.model))
        errors = LatencyErrors(self.recorded.only(rows), found.times.only(rows))
        shares = (found.covered_share, found.assumed_share)
        return Simulated(name, judged, constants, errors, found.wall_s, len(found.batches), *shares)

    @cached_property
    def _unfitted(self) -> Replayed:
        return self._replay(_ANY_KERNEL, RunConstants().of(self.model))

    def _tabulated(self, rows: npt.NDArray[np.bool_]) -> Simulated:
        """The form that predictors evaluate, fitted to the batches of a simulation of these arrivals."""
        table = OperatorLatency.of(self.model, self._unfitted.batches, of_a_run=True)
        found = self._replay(table.kernel, None)
        errors = LatencyErrors(self.recorded.only(rows), found.times.only(rows))
        shares = (table.covered_share, table.assumed_share)
        return Simulated(
            "as a table", "all", RunConstants(), errors, found.wall_s, len(found.batches), *shares
        )

    def _replay(self, kernel: KernelLatency, model: OperatorModel | None) -> Replayed:
        started_s = time.perf_counter()
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
        simulated = RequestTimes.of(times, self._output_tokens)
        return Replayed(simulated, tuple(replays), time.perf_counter() - started_s)


def _times(replay: Replay, outcomes: list[Outcome]) -> list[tuple[float, float, float, float]]:
    """Queued, scheduled, first and last token of each request, in order."""
    return [
        (request.arrival_s, replay.scheduled_s[request.id], outcome.first_token_s, outcome.finish_s)
        for request, outcome in zip(replay.simulation.requests, outcomes, strict=True)
    ]
