"""What a fleet's predictors answer is what the predictor itself answers, fed by the same engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from known_latency import KnownLatency
from msgspec import structs

from block.latency.base import KernelLatency
from block.lengths import LengthDistribution
from block.messages import CandidateRequest, PredictResponse, RequestFacts
from block.simulation.fleet import EngineFleet
from block.simulation.fleet_members import FleetEngine, FleetRequests
from block.simulation.length_rows import length_rows
from block.simulation.what_if import Newcomer, WhatIf
from block.simulation.what_if_runs import E2E, E2E_STD, HARM_MAX, HARM_SUM, PREEMPTIONS, TPOT, TTFT
from block.types import Arrival, EngineLimits, EngineLoad
from exp.simulated_feed import SimulatedFeed
from predictor.arrival_process import ArrivalProcess
from predictor.forecaster import Forecaster
from predictor.ledger import Ledger
from predictor.mirror import Mirror

LEVELS = np.array([0.1, 0.5, 0.9])
ENGINES = 2


MODEL = KnownLatency(KernelLatency((1.0, 64.0, 512.0), (0.02, 0.022, 0.06), 7e-7, 6e-9, 1e-5))


class RealPredictors:
    """Mirror, ledger and forecaster beside each engine of a fleet."""

    def __init__(self, fleet: EngineFleet) -> None:
        self._fleet = fleet
        self._mirrors = [Mirror() for _ in range(ENGINES)]
        self.ledgers = [Ledger(ttl_s=float("inf")) for _ in range(ENGINES)]
        parts = zip(self.ledgers, self._mirrors, strict=True)
        self._forecasters = [Forecaster(str(i), MODEL, *part) for i, part in enumerate(parts)]

    def answer(
        self, candidate: CandidateRequest, now_s: float, scenarios: int, cached: list[int]
    ) -> list[PredictResponse]:
        """``cached``: tokens of its prompt at each engine."""
        for ended in self._fleet.done[1 : 1 + self._fleet.done[0]]:
            for ledger in self.ledgers:  # one that came and went between two looks was never shown
                ledger.release(self._fleet.requests.ids[ended])
        for engine, mirror in enumerate(self._mirrors):
            mirror.apply(SimulatedFeed().snapshot(self._fleet.state(engine)))
            self._forecasters[engine].notice(now_s)
        return [
            forecaster.predict(structs.replace(candidate, cached_tokens=tokens), now_s, scenarios)
            for forecaster, tokens in zip(self._forecasters, cached, strict=True)
        ]


def _requests(count: int, seed: int) -> tuple[FleetRequests, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    output = random.integers(1, 200, count)
    tokens = np.sort(random.uniform(1, 250, (count, len(LEVELS))), axis=1)
    requests = FleetRequests(
        prompt_tokens=random.integers(1, 400, count),
        output_tokens=output,
        max_tokens=output + random.integers(0, 200, count),
        lengths=length_rows(LEVELS, tokens),
        priority=np.zeros(count, np.int64),
        ids=[f"{index:03}" for index in range(count)],
        block_hashes=[tuple(range(family, family + 20)) for family in random.integers(0, 4, count) * 100],
    )
    return requests, np.cumsum(random.exponential(0.03, count)), tokens


def _candidate(fleet: EngineFleet, number: int, tokens: np.ndarray) -> CandidateRequest:
    requests = fleet.requests
    return CandidateRequest(
        requests.ids[number],
        int(requests.prompt_tokens[number]),
        int(fleet.expected[number]),
        int(requests.max_tokens[number]),
        output_quantiles=tuple(zip(LEVELS.tolist(), tokens[number].tolist(), strict=True)),
    )


@pytest.mark.parametrize(
    ("scenarios", "asynchronous", "caching"),
    [(1, True, False), (1, False, False), (5, True, False), (1, True, True), (5, False, True)],
)
def test_a_fleet_answers_as_predictors_do(scenarios: int, asynchronous: bool, caching: bool) -> None:
    limits = EngineLimits(16, 150, 16, 128, 1024, async_scheduling=asynchronous, prefix_caching=caching)
    requests, arrivals_s, tokens = _requests(60, seed=scenarios)
    fleet = EngineFleet([FleetEngine(limits, MODEL.kernel)] * ENGINES, requests, scenarios)
    predictors = RealPredictors(fleet)
    preempting, found = 0.0, 0
    for number, now_s in enumerate(arrivals_s.tolist()):
        fleet.run_until(now_s)
        candidate = _candidate(fleet, number, tokens)
        cached = fleet.cached(number, np.arange(ENGINES))
        found += int(cached.sum())
        answers = fleet.ask(number, np.arange(ENGINES), now_s, cached_tokens=cached)
        for engine, real in enumerate(predictors.answer(candidate, now_s, scenarios, cached.tolist())):
            told = answers.figures[engine]
            prediction = real.prediction
            assert told[TTFT] == pytest.approx(prediction.ttft_s, abs=1e-9)
            assert told[E2E] == pytest.approx(prediction.e2e_s, abs=1e-9)
            assert told[TPOT] == pytest.approx(prediction.tpot_s, abs=1e-9)
            assert told[HARM_SUM] == pytest.approx(prediction.harm_sum_s, abs=1e-7)
            assert told[HARM_MAX] == pytest.approx(prediction.harm_max_s, abs=1e-7)
            assert told[PREEMPTIONS] == pytest.approx(prediction.extra_preemptions)
            assert told[E2E_STD] == pytest.approx(real.spread.e2e_std_s, abs=1e-9)
            assert EngineLoad(*answers.loads[engine].tolist()) == real.load
            preempting += prediction.extra_preemptions
        quick = fleet.ask(number, np.arange(ENGINES), now_s, harm=False, cached_tokens=cached)
        np.testing.assert_array_equal(quick.figures[:, [TTFT, E2E]], answers.figures[:, [TTFT, E2E]])
        chosen = number % ENGINES
        fleet.tell(number, 0, now_s, int(cached[chosen]))
        fleet.send(number, chosen, now_s + 0.003)
        predictors.ledgers[chosen].commit(
            structs.replace(candidate, cached_tokens=int(cached[chosen])), now_s
        )
    assert preempting != 0
    assert (found > 0) == caching


def test_a_fleet_expects_and_waits_as_what_ifs_do() -> None:
    """More arrivals on their grid, and steps that last longer than the predictor takes them to."""
    kernel = replace(MODEL.kernel, token_seconds=tuple(s / 2 for s in MODEL.kernel.token_seconds))
    limits = EngineLimits(16, 150, 16, 128, 1024, async_scheduling=True)
    requests, arrivals_s, _ = _requests(60, seed=7)
    output = requests.output_tokens
    requests = replace(requests, lengths=length_rows(np.array([0.5]), output[:, None].astype(np.float64)))
    fleet = EngineFleet([FleetEngine(limits, MODEL.kernel, believed=kernel)], requests)
    of_id = dict(zip(requests.ids, output.tolist(), strict=True))
    seen = ArrivalProcess(lambda name: LengthDistribution.point(of_id[name]))
    fleet.expect_arrivals(0, 0.0)
    seen.note((), 0.0)
    moved = late = 0
    for number, now_s in enumerate(arrivals_s.tolist()):
        fleet.run_until(now_s)
        told = fleet.ask(number, np.array([0]), now_s, told=False).figures[0]
        state, background = fleet.state(0), seen.expected(now_s)
        lengths = np.array([[of_id[each.id] for each in (*state.running, *state.waiting)]], np.int64)
        name, prompt, most = requests.ids[number], *_sizes(requests, number)
        newcomer = Newcomer.certain(Arrival(name, now_s, prompt, of_id[name], most))
        prediction, _ = WhatIf(state, KnownLatency(kernel), lengths, (), background).ask(newcomer)
        assert told[TTFT] == pytest.approx(prediction.ttft_s, abs=1e-9)
        assert told[E2E] == pytest.approx(prediction.e2e_s, abs=1e-9)
        assert told[HARM_SUM] == pytest.approx(prediction.harm_sum_s, abs=1e-7)
        moved += background.grid_s > 0
        late += any(now_s > step.submit_s + kernel.seconds(step.shape) for step in state.in_flight)
        fleet.send(number, 0, now_s)
        seen.note((RequestFacts(number, name, now_s, prompt, most),), now_s)
    assert moved > 40
    assert late > 5


def _sizes(requests: FleetRequests, number: int) -> tuple[int, int]:
    return int(requests.prompt_tokens[number]), int(requests.max_tokens[number])


def test_choices_that_a_predictor_was_not_told_of_do_not_count() -> None:
    limits = EngineLimits(16, 150, 16, 128, 1024, async_scheduling=True)
    requests, _, _ = _requests(4, seed=3)
    fleet = EngineFleet([FleetEngine(limits, MODEL.kernel)], requests)
    fleet.tell(0, sender=1, told_s=0.5)
    fleet.send(0, 0, 1.0)
    alone = fleet.ask(1, np.array([0]), 0.1, asker=2).loads[0].tolist()
    assert EngineLoad(*alone).committed == 0
    by_sender = fleet.ask(1, np.array([0]), 0.1, asker=1).loads[0].tolist()
    assert EngineLoad(*by_sender).committed == 1
    told = fleet.ask(1, np.array([0]), 0.6, asker=2)
    assert EngineLoad(*told.loads[0].tolist()).committed == 1
    untold = fleet.ask(1, np.array([0]), 0.6, asker=1, told=False)
    assert EngineLoad(*untold.loads[0].tolist()).committed == 0
    assert untold.figures[0, TTFT] < told.figures[0, TTFT]
