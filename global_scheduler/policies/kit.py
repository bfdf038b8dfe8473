"""A test kit for policies: what the router expects of every one, to be checked in one call.

    from global_scheduler.policies.kit import check_policy

    def test_my_policy():
        check_policy(MyPolicy())

Each check raises AssertionError that says what was expected. All chance comes from seeds, so a failure
comes again.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence

from msgspec.structs import replace

from block.types import EngineLoad, Prediction, PredictionSpread
from global_scheduler.policies.base import Candidate, Choice, Needs, Policy, RoutingRequest

SPEED_LIMIT_US = 50.0
HUGE_FLEET = 2000


def check_policy(policy: Policy, seeds: Sequence[int] = range(40)) -> None:
    """All checks but the one of speed, on fleets and requests drawn by each seed."""
    assert isinstance(policy.needs, Needs), "needs must be a Needs"
    for seed in seeds:
        request, fleet = some_request(seed), some_candidates(seed)
        check_ranks_all(policy, request, fleet)
        check_pure(policy, request, fleet)
        check_ranks_all(policy, request, without_answers(fleet))
        check_ranks_all(policy, request, fleet[:1])
        check_ranks_all(policy, bare(request), fleet)
    check_ranks_all(policy, some_request(0), some_candidates(0, count=HUGE_FLEET))


def check_ranks_all(policy: Policy, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
    """The choice names each candidate exactly once, and gives a reason."""
    choice = policy.choose(request, list(candidates))
    assert isinstance(choice, Choice), f"choose() must return a Choice, not {choice!r}"
    assert choice.ranks(candidates), f"each candidate must be named once: {choice} of {candidates}"
    assert choice.reason, "a choice must have a reason"
    return choice


def check_pure(policy: Policy, request: RoutingRequest, candidates: Sequence[Candidate]) -> None:
    """Equal arguments give equal choices, whatever was asked between; nothing outside is touched."""
    given, chance = list(candidates), random.getstate()
    before = copy.deepcopy(policy)
    first = policy.choose(request, given)
    assert given == list(candidates), "choose() must not change the list of candidates"
    policy.choose(some_request(request.seed + 1), some_candidates(request.seed + 1))
    assert policy.choose(request, tuple(candidates)) == first, "equal arguments must give equal choices"
    assert before.choose(request, given) == first, "a choice must not depend on earlier ones"
    assert random.getstate() == chance, "take chance from request.dice(), not from the global source"


def check_speed(policy: Policy, candidates: int = 16, limit_us: float = SPEED_LIMIT_US) -> None:
    """A choice among so many takes at most ``limit_us`` of CPU."""
    took_us = cpu_us(policy, candidates)
    assert took_us <= limit_us, f"a choice among {candidates} takes {took_us:.1f} us of CPU"


def cpu_us(policy: Policy, candidates: int = 16, rounds: int = 7, choices: int = 200) -> float:
    """CPU time of one choice in microseconds: the best of some rounds, as others only add to it."""
    request, fleet = some_request(1), some_candidates(1, count=candidates)
    taken_ns = []
    for _ in range(rounds):
        started_ns = time.thread_time_ns()
        for _ in range(choices):
            policy.choose(request, fleet)
        taken_ns.append(time.thread_time_ns() - started_ns)
    return min(taken_ns) / choices / 1000


def some_request(seed: int) -> RoutingRequest:
    """A request in which everything that may be known is known."""
    source = random.Random(seed)
    return RoutingRequest(
        id=f"request-{seed}",
        model="a-model",
        prompt_tokens=source.randint(1, 4000),
        output_tokens=source.randint(1, 1000),
        max_tokens=1000,
        priority=source.choice((0, 0, 0, 5)),
        sequence=source.randrange(2**40),
        seed=seed,
        output_quantiles=((0.1, 20.0), (0.5, 200.0), (0.9, 900.0)),
        session=f"session-{source.randrange(10)}",
        prefix_digests=tuple(source.getrandbits(64) for _ in range(source.randint(1, 8))),
        slo_ttft_s=source.uniform(0.1, 5),
        slo_e2e_s=source.uniform(1, 60),
    )


def bare(request: RoutingRequest) -> RoutingRequest:
    """The same of a client that says as little as it may."""
    return replace(
        request, output_quantiles=(), session="", prefix_digests=(), slo_ttft_s=None, slo_e2e_s=None
    )


def some_candidates(seed: int, count: int | None = None) -> list[Candidate]:
    """A fleet in some state; now and then one has not answered, and some are equal in all but name."""
    source = random.Random(seed)
    fleet = [
        _some_candidate(source, f"instance-{number}") for number in range(count or source.randint(1, 24))
    ]
    if len(fleet) > 2:
        fleet[1] = replace(fleet[0], name=fleet[1].name)
    return fleet


def without_answers(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same fleet with all predictors silent."""
    return [replace(candidate, prediction=None, load=None, spread=None) for candidate in candidates]


def _some_candidate(source: random.Random, name: str) -> Candidate:
    outstanding = source.choice((0, source.randint(0, 200)))
    known = Candidate(
        name=name,
        outstanding=outstanding,
        outstanding_tokens=outstanding * source.randint(1, 500),
        sent_last_minute=outstanding + source.randint(0, 100),
        cached_tokens=source.choice((0, source.randint(0, 4000))),
    )
    if source.random() < 0.15:
        return known
    prediction, spread = some_prediction(source)
    return replace(known, prediction=prediction, spread=spread, load=_some_load(source, outstanding))


def some_prediction(source: random.Random, scenarios: int = 8) -> tuple[Prediction, PredictionSpread]:
    """A prediction, and the scenarios that it is the mean of."""
    ttft_s = tuple(source.expovariate(1.0) for _ in range(scenarios))
    e2e_s = tuple(ttft + source.expovariate(0.1) for ttft in ttft_s)
    mean_ttft_s, mean_e2e_s = sum(ttft_s) / scenarios, sum(e2e_s) / scenarios
    harm_s = source.choice((0.0, source.expovariate(1.0)))
    prediction = Prediction(
        mean_ttft_s, mean_e2e_s, 0.03, harm_s, harm_s / 2, source.choice((0.0, 1.5)), 0.01, "kit@0", 1.0
    )
    return prediction, PredictionSpread(scenarios, 0.5, max(ttft_s), 5.0, max(e2e_s), ttft_s, e2e_s)


def _some_load(source: random.Random, running: int) -> EngineLoad:
    total_blocks = 1052
    return EngineLoad(
        running=running,
        waiting=source.choice((0, source.randint(0, 50))),
        committed=source.randint(0, 3),
        free_blocks=source.randint(0, total_blocks) if running else total_blocks,
        total_blocks=total_blocks,
        waiting_prompt_tokens=source.choice((0, source.randint(0, 20_000))),
        unprocessed_tokens=running * source.randint(1, 400),
    )
