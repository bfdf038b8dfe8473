"""Answers what-ifs from the mirror's newest state, the ledger and a step-latency model.

Knows no sockets and no clock: the time comes in by call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from block.errors import StateError
from block.latency.base import StepLatencyModel
from block.lengths import LengthDistribution, scenario_levels
from block.messages import CandidateRequest, PredictResponse, RequestFacts, StateResponse, Wanted
from block.simulation.background import Background
from block.simulation.memory import Ints
from block.simulation.what_if import Newcomer, WhatIf
from block.types import Arrival, EngineLoad, EngineState, Prediction, PredictionSpread
from predictor.arrival_process import ArrivalProcess
from predictor.ledger import Ledger, length_of, router_id
from predictor.mirror import Mirror
from predictor.outside import OutsideTime
from predictor.scene import Scene

MOST_IN_VAIN = 8
"""States that are laid out ahead though no question comes."""


class BackEnd(Protocol):
    """One state laid out for questions, as ``WhatIf`` does it."""

    scenarios: int
    sequences: int
    """Of a newcomer."""

    def ask(self, newcomer: Newcomer, *, harm: bool = True) -> tuple[Prediction, PredictionSpread]:
        """``harm`` or not. Raises StateError when the engine could never run the newcomer."""
        ...


class Forecaster:
    """The what-ifs of one instance, asked of its mirror."""

    def __init__(
        self,
        instance: str,
        model: StepLatencyModel,
        ledger: Ledger,
        mirror: Mirror,
        *,
        expect_arrivals: bool = False,
        back_end: Callable[..., BackEnd] = WhatIf,
    ) -> None:
        """``instance`` is named in answers. ``expect_arrivals``: what-ifs count on more like the latest.

        ``back_end`` is called as ``WhatIf`` is.
        """
        self.instance = instance
        self.ledger = ledger
        self._model = model
        self._back_end = back_end
        self._mirror = mirror
        self._members: Mapping[int, RequestFacts] = {}
        self._arrivals = ArrivalProcess(ledger.length) if expect_arrivals else None
        self.outside = OutsideTime()
        self._scene: Scene | None = None
        self._what_if: tuple[Scene, BackEnd] | None = None
        self._in_vain = MOST_IN_VAIN
        self._scenarios = 0
        """Of the latest question; 0 if it was after the load alone."""

    def notice(self, now_s: float) -> None:
        """Call when the mirror has changed: who is in the engine is no longer under way."""
        members = self._mirror.members
        if members is not self._members:
            known, self._members = self._members, members
            self.ledger.observe(facts.id for facts in members.values())
            # An engine that restarts begins its handles anew.
            new = [
                facts
                for handle, facts in members.items()
                if handle not in known or known[handle].id != facts.id
            ]
            for facts in new:
                self.outside.arrived(router_id(facts.id), facts.arrival_s)
            if self._arrivals is not None:
                self._arrivals.note(new, now_s)

    def use(self, model: StepLatencyModel) -> None:
        """Answer by this step-latency model from now on."""
        self._model, self._what_if = model, None

    @property
    def state(self) -> EngineState:
        """The newest state; raises FeedError while there is none."""
        return self._mirror.state()

    def answer(
        self, candidate: CandidateRequest, now_s: float, scenarios: int, wanted: Wanted
    ) -> PredictResponse:
        """As much as is wanted; raises as ``predict``."""
        self._in_vain, self._scenarios = 0, 0 if wanted == "load" else scenarios
        if wanted == "load":
            return PredictResponse(self.instance, None, None, self.load(), self._mirror.columns().step)
        return self.predict(candidate, now_s, scenarios, harm=wanted == "harm")

    def predict(
        self, candidate: CandidateRequest, now_s: float, scenarios: int = 1, *, harm: bool = True
    ) -> PredictResponse:
        """One what-if. Raises FeedError without a state, StateError for what could never run."""
        what_if = self._current_what_if(now_s, scenarios, candidate.sequences)
        arrival, *siblings = candidate.arrivals(now_s)
        lengths = _scenario_lengths(length_of(candidate), candidate.id, 0, candidate.max_tokens, scenarios)
        outside_s, there_s = self.outside.seconds, self.outside.there_s
        newcomer = Newcomer(arrival, lengths, outside_s, there_s, tuple(siblings))
        prediction, spread = what_if.ask(newcomer, harm=harm)
        self.outside.asked(candidate.id, prediction.ttft_s - outside_s, now_s)
        return PredictResponse(
            instance=self.instance,
            prediction=prediction,
            spread=spread,
            load=self.load(),
            state_step=self._mirror.columns().step,
        )

    def prepare(self, now_s: float) -> None:
        """Lay out what is new ahead of the next question, for as long as questions come."""
        if self._in_vain >= MOST_IN_VAIN or not self._mirror.ready:
            return
        self._in_vain += 1
        try:
            self.load()
            if self._scenarios:
                self._current_what_if(now_s, self._scenarios)
        except StateError:
            return  # the next question will be told

    def describe(self, now_s: float, ready: bool, problem: str) -> StateResponse:
        """The mirror in brief; raises FeedError without a state."""
        columns = self._mirror.columns()
        return StateResponse(
            instance=self.instance,
            ready=ready,
            state_step=columns.step,
            state_age_s=max(now_s - columns.time_s, 0.0),
            load=self.load(),
            model_version=self._model.version,
            problem=problem,
            outside_s=self.outside.seconds,
        )

    def load(self) -> EngineLoad:
        """Counters for heuristics, choices under way included."""
        return self._current_scene().load

    def _current_what_if(self, now_s: float, scenarios: int, sequences: int = 1) -> BackEnd:
        """Laid out once per state, ledger, scenarios and sequences; shared by all questions on them."""
        scene = self._current_scene()
        if self._what_if is not None and self._what_if[0] is scene:
            what_if = self._what_if[1]
            if what_if.scenarios == scenarios and what_if.sequences == sequences:
                return what_if
        lengths, background = scene.scenarios(scenarios), self._background(now_s)
        coming = _come_by(now_s, scene.coming)
        what_if = self._back_end(scene.columns, self._model, lengths, coming, background, sequences)
        self._what_if = (scene, what_if)
        return what_if

    def _current_scene(self) -> Scene:
        columns = self._mirror.columns()
        self.ledger.expire()
        if self._scene is None or not self._scene.is_current(columns, self.ledger):
            self._scene = Scene.of(columns, self.ledger, self.ledger.arrivals(), self._scene)
        return self._scene

    def _background(self, now_s: float) -> Background | None:
        return None if self._arrivals is None else self._arrivals.expected(now_s)


def _come_by(now_s: float, committed: tuple[Arrival, ...]) -> tuple[Arrival, ...]:
    """Choices are made before the question, even where the time of day has been set back since."""
    return tuple(each if each.arrival_s <= now_s else replace(each, arrival_s=now_s) for each in committed)


def _scenario_lengths(
    length: LengthDistribution, request_id: str, generated: int, max_tokens: int, scenarios: int
) -> tuple[int, ...]:
    """Whole tokens in each scenario; a single scenario takes the conditional mean."""
    if scenarios == 1:
        return (min(max(round(length.mean(generated)), 1), max_tokens),)
    totals = length.totals(scenario_levels(request_id, scenarios), generated)
    whole: Ints = np.minimum(np.maximum(np.rint(totals), 1), max_tokens).astype(np.int64)
    return tuple(whole.tolist())
