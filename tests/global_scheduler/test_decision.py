"""Decisions on answers made by hand: the fallbacks, admission, and what policies get to know."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from block.config import InstanceConfig, SchedulerSettings
from block.errors import RequestError
from block.messages import PredictResponse
from block.types import EngineLoad, Prediction, PredictionSpread
from global_scheduler.decision import Decider, Decision
from global_scheduler.fleet import Fleet, Instance
from global_scheduler.inquiry import read_inquiry
from global_scheduler.policies import Choice, Needs, make_policies, make_policy
from global_scheduler.question import Question
from global_scheduler.quorum import Quorum
from global_scheduler.traffic import Burden
from length_estimation.estimator import OracleEstimator
from length_estimation.length_service import LengthService
from length_estimation.token_counter import make_token_counter

IDLE = EngineLoad(0, 0, 0, 1000, 1000, 0, 0)


class Predictors:
    """Answers what it is told to."""

    def __init__(self) -> None:
        self.answers: dict[str, PredictResponse] = {}
        self.questions: list[Question] = []

    async def ask(self, instances: Sequence[Instance], question: Question) -> dict[str, PredictResponse]:
        self.questions.append(question)
        return self.answers

    def tell(self, name: str, e2e_s: float = 1.0, load: EngineLoad = IDLE, times: Any = ()) -> None:
        ttft, e2e = (tuple(column) for column in zip(*times, strict=True)) if times else ((), ())
        self.answers[name] = PredictResponse(
            name,
            Prediction(0.1, e2e_s, 0.01, 0.0, 0.0, 0, 0.0, "test@0", 1.0),
            PredictionSpread(len(times), 0.0, 0.0, 0.0, 0.0, ttft, e2e),
            load,
            1,
        )


class Bench:
    """A decider over instances a, b, c, and the predictors it asks."""

    def __init__(
        self, *, without_predictor: str = "", own: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        configs = [
            InstanceConfig(
                name=name,
                url="http://127.0.0.1:1",
                predictor_url=None if name in without_predictor else "http://127.0.0.1:2",
            )
            for name in "abc"
        ]
        self.settings = SchedulerSettings.model_validate(settings)
        self.fleet = Fleet(configs, retry_after_s=1.0)
        self.instances = {instance.name: instance for instance in self.fleet.instances}
        for instance in self.fleet.instances:
            instance.healthy = True
        self.predictors = Predictors()
        self.decider = Decider(
            fleet=self.fleet,
            prober=self.predictors,
            policies=make_policies(self.settings) | (own or {}),
            lengths=LengthService(quick=OracleEstimator()),
            counter=make_token_counter(None),
            settings=self.settings,
        )

    async def decide(
        self, prompt: str = "hi", headers: dict[str, str] | None = None, **fields: Any
    ) -> Decision:
        body = json.dumps({"prompt": prompt, "max_tokens": 100, **fields}).encode()
        inquiry = read_inquiry("id", chat=False, body=body, headers=headers or {})
        return self.decider.decide_at_once(inquiry) or await self.decider.decide(inquiry)

    def carry_out(self, decision: Decision) -> None:
        """Dispatch it to the best instance; it never ends."""
        decision.instances[0].traffic.begin(decision.burden, time.monotonic())

    def send(self, name: str, times: int = 1) -> None:
        """Dispatch requests there that never end."""
        for _ in range(times):
            self.instances[name].traffic.begin(Burden(), time.monotonic())

    def hear(self, **unprocessed_tokens: int) -> None:
        """Each told its load a moment ago."""
        for name, tokens in unprocessed_tokens.items():
            traffic = self.instances[name].traffic
            load = replace(IDLE, running=1, unprocessed_tokens=tokens, free_blocks=1000 - tokens // 10)
            traffic.hear(load, traffic.tally, time.monotonic())


async def test_fresh_answers_need_no_fallback() -> None:
    bench = Bench()
    for name, e2e_s in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        bench.predictors.tell(name, e2e_s)
    decision = await bench.decide()
    assert [instance.name for instance in decision.instances] == ["b", "c", "a"]
    assert decision.fallback is None
    assert set(decision.predictions) == {"a", "b", "c"}


async def test_silent_predictors_leave_the_last_known_loads() -> None:
    """Block takes the least work by what was last heard; a heuristic on loads goes on by its own score."""
    bench = Bench()
    bench.hear(a=5000, b=300, c=900)
    decision = await bench.decide()
    assert [instance.name for instance in decision.instances] == ["b", "c", "a"]
    assert decision.fallback == "last_known_state"
    assert decision.predictions == {}
    decision = await bench.decide(headers={"x-block-policy": "infaas_textbook"})
    assert (decision.instances[0].name, decision.fallback) == ("b", "last_known_state")


async def test_what_was_sent_since_moves_the_last_known_state() -> None:
    """No herd on the instance that was best when last heard of."""
    bench = Bench()
    bench.hear(a=5000, b=300, c=900)
    chosen = []
    for _ in range(12):
        decision = await bench.decide(max_tokens=200)
        chosen.append(decision.instances[0].name)
        bench.carry_out(decision)
    assert set(chosen) == {"b", "c"}


async def test_loads_that_are_too_old_are_not_used() -> None:
    bench = Bench(last_state_max_age_s=0.000001)
    bench.hear(a=0, b=0, c=0)
    bench.send("a")
    bench.send("b")
    decision = await bench.decide()
    assert (decision.instances[0].name, decision.fallback) == ("c", "no_prediction")


async def test_loads_known_of_only_some_are_not_used_either() -> None:
    """They would get it all."""
    bench = Bench()
    bench.hear(a=10, b=10)
    bench.send("a", 2)
    bench.send("b", 2)
    decision = await bench.decide()
    assert (decision.instances[0].name, decision.fallback) == ("c", "no_prediction")


async def test_an_instance_without_a_predictor_does_not_spoil_the_last_known_state() -> None:
    bench = Bench(without_predictor="c")
    bench.hear(a=900, b=100)
    decision = await bench.decide()
    assert [instance.name for instance in decision.instances] == ["b", "a", "c"]
    assert decision.fallback == "last_known_state"


async def test_the_questions_terms_come_from_settings_and_policy() -> None:
    bench = Bench(probe_quorum=2, probe_grace_s=0.003, probe_minimum=0.25, policy_options={"block": {"k": 2}})
    await bench.decide()
    await bench.decide(headers={"x-block-policy": "llumnix"})
    await bench.decide(headers={"x-block-policy": "round_robin"})
    quorums = [question.quorum for question in bench.predictors.questions]
    assert quorums == [Quorum(2, 2, 0.003, 0.25), Quorum(None, 2, 0.003, 0.25)]


async def test_no_more_is_asked_than_the_policy_looks_at() -> None:
    """Heuristics on loads make no predictor simulate; only what weighs the others has it do so twice."""
    bench = Bench(
        admission_max_miss=0.5,
        policy_options={"block": {"objective": "ttft"}},
        own={"harmful": make_policy("block", {"objective": "harm"})},
    )
    objective = {"x-block-slo-ttft-ms": "100000"}
    for policy in ("llumnix", "block", "harmful", "min_latency"):
        await bench.decide(headers={"x-block-policy": policy})
    await bench.decide(headers={"x-block-policy": "llumnix", **objective})  # admission looks at the times
    wanted = [question.wanted for question in bench.predictors.questions]
    assert wanted == ["load", "times", "harm", "harm", "times"]


async def test_a_load_without_a_prediction_serves_heuristics_and_predicts_nothing() -> None:
    bench = Bench(policy="block_nosim")
    for name, tokens in (("a", 500), ("b", 100), ("c", 300)):
        load = replace(IDLE, unprocessed_tokens=tokens)
        bench.predictors.answers[name] = PredictResponse(name, None, None, load, 1)
    decision = await bench.decide()
    assert [instance.name for instance in decision.instances] == ["b", "c", "a"]
    assert (decision.fallback, decision.predictions) == (None, {})


async def test_predictors_are_told_what_their_instance_has_cached() -> None:
    bench = Bench()
    bench.predictors.tell("b", 1.0)
    prompt = "x" * 2100
    bench.instances["b"].traffic.begin((await bench.decide(prompt)).burden, time.monotonic())
    await bench.decide(prompt + "y" * 2000)
    first, second = bench.predictors.questions
    assert first.cached_tokens == {}
    assert first.about("b") == first.candidate
    assert set(second.cached_tokens) == {"b"}
    expected = second.candidate.prompt_tokens * 2048 / 4102
    assert second.about("b").cached_tokens == pytest.approx(expected, abs=1)
    assert second.about("a").cached_tokens == 0


async def test_admission_refuses_what_would_miss_everywhere() -> None:
    bench = Bench(admission_max_miss=0.5)
    bench.predictors.tell("a", times=[(1.0, 9.0), (1.0, 9.0), (1.0, 9.0), (9.0, 9.0)])
    bench.predictors.tell("b", times=[(6.0, 9.0), (6.0, 9.0), (6.0, 9.0), (1.0, 9.0)])
    await bench.decide()  # no objective, nothing to miss
    await bench.decide(headers={"x-block-slo-ttft-ms": "2000"})  # a misses in one of four
    with pytest.raises(RequestError) as refusal:
        await bench.decide(headers={"x-block-slo-ttft-ms": "900"})
    assert (refusal.value.status, refusal.value.code) == (429, "slo_unattainable")
    assert refusal.value.retry_after_s == pytest.approx((3 * 0.1 + 8.1) / 4)


async def test_admission_is_off_by_default_and_never_refuses_blindly() -> None:
    headers = {"x-block-slo-e2e-ms": "1"}
    bench = Bench()
    bench.predictors.tell("a", e2e_s=99.0)
    assert (await bench.decide(headers=headers)).fallback is None
    blind = Bench(admission_max_miss=0.0)
    assert (await blind.decide(headers=headers)).fallback == "no_prediction"
    blind.hear(a=1, b=1, c=1)
    assert (await blind.decide(headers=headers)).fallback == "last_known_state"


@pytest.mark.parametrize("policy", ["round_robin", "least_request", "prefix_affinity"])
async def test_admission_judges_whatever_the_policy_looks_at(policy: str) -> None:
    """Or a client would be admitted by naming a policy that asks nobody."""
    bench = Bench(admission_max_miss=0.5, slo_e2e_s=2.0, policy=policy)
    bench.predictors.tell("a", e2e_s=1.0)
    assert (await bench.decide()).fallback is None
    bench.predictors.tell("a", e2e_s=3.0)
    with pytest.raises(RequestError):
        await bench.decide()
    assert [question.wanted for question in bench.predictors.questions] == ["times", "times"]
    bench.predictors.answers.clear()
    assert (await bench.decide()).fallback is None
    indifferent = Bench(admission_max_miss=0.5, policy=policy)
    await indifferent.decide()
    assert indifferent.predictors.questions == []


async def test_objectives_in_the_settings_hold_for_requests_without_their_own() -> None:
    bench = Bench(admission_max_miss=0.5, slo_e2e_s=2.0)
    bench.predictors.tell("a", e2e_s=3.0)
    with pytest.raises(RequestError):
        await bench.decide()
    await bench.decide(headers={"x-block-slo-e2e-ms": "4000"})


@dataclass(frozen=True)
class Watching:
    """Keeps what it was shown."""

    seen: list[Any]
    needs: ClassVar[Needs] = Needs(prefixes=True)

    def choose(self, request: Any, candidates: Any) -> Choice:
        self.seen.append((request, list(candidates)))
        return Choice.of(candidates, "first")


async def test_a_policy_gets_to_know_what_was_sent() -> None:
    watching = Watching([])
    bench = Bench(own={"watching": watching}, policy="random")
    headers = {"x-block-policy": "watching", "x-block-session": "s-1", "x-block-slo-ttft-ms": "1500.5"}
    decision = await bench.decide("x" * 2100, headers, max_tokens=40)
    traffic = bench.instances["b"].traffic
    number = traffic.begin(decision.burden, time.monotonic())
    await bench.decide("x" * 2100 + "y" * 2000, headers)
    traffic.end(number)
    await bench.decide("z" * 4100, {"x-block-policy": "watching"}, user="someone")
    (first, before), (_, during), (third, after) = watching.seen
    assert (first.session, first.slo_ttft_s, first.slo_e2e_s) == ("s-1", 1.5005, None)
    assert len(first.prefix_digests) == 4
    assert third.session == '"someone"'
    assert [(one.outstanding, one.sent_last_minute, one.cached_tokens) for one in before] == [(0, 0, 0)] * 3
    b = during[1]
    assert (b.outstanding, b.sent_last_minute) == (1, 1)
    assert b.outstanding_tokens == first.prompt_tokens + 40
    assert b.cached_tokens == pytest.approx(watching.seen[1][0].prompt_tokens * 2048 / 4102, abs=1)
    assert (after[1].outstanding, after[1].sent_last_minute, after[1].cached_tokens) == (0, 1, 0)
    assert all(one.cached_tokens == 0 for one in (during[0], during[2]))


async def test_prompts_are_not_digested_for_policies_that_do_not_look() -> None:
    decision = await Bench(policy="least_request").decide("x" * 5000)
    assert decision.burden.prefix_digests == ()


class Raising(Watching):
    def choose(self, request: Any, candidates: Any) -> Choice:
        raise ZeroDivisionError


class Inventing(Watching):
    def choose(self, request: Any, candidates: Any) -> Choice:
        return Choice("nowhere", ("a", "b"), "made up")


class Mute(Watching):
    def choose(self, request: Any, candidates: Any) -> Any:
        return None


@pytest.mark.parametrize("policy", [Raising([]), Inventing([]), Mute([])])
async def test_a_policy_that_fails_costs_no_request(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(own={"faulty": policy})
    bench.send("a")
    bench.send("c")
    decision = await bench.decide(headers={"x-block-policy": "faulty"})
    assert (decision.instances[0].name, decision.fallback) == ("b", "policy_failed")
    assert len(decision.instances) == 3
    assert "policy" in caplog.text
