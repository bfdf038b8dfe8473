"""Settings and headers of policies reach the decision, through the whole service."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter


async def test_options_choose_the_objective(world):
    fleet = await world(
        predictors=True, policy="block", policy_options={"block": {"objective": "harm", "harm_weight": 10}}
    )
    fleet.predictors["a"].e2e_s, fleet.predictors["a"].harm_s = 1.0, 0.5
    fleet.predictors["b"].e2e_s, fleet.predictors["b"].harm_s = 2.0, 0.0
    assert (await fleet.chat()).headers["x-block-instance"] == "b"
    answer = await fleet.chat(headers={"x-block-policy": "min_latency"})
    assert answer.headers["x-block-instance"] == "a"


async def test_a_policys_k_is_how_many_are_asked(world):
    fleet = await world(instances=4, predictors=True, policy="block", policy_options={"block": {"k": 2}})
    for _ in range(10):
        await fleet.chat()
    assert sum(len(predictor.questions) for predictor in fleet.predictors.values()) == 20


async def test_a_quorum_does_not_wait_for_the_slow_one(world):
    fleet = await world(
        instances=3,
        predictors=True,
        policy="block",
        probe_deadline_s=20.0,
        probe_quorum=2,
        probe_grace_s=0.01,
    )
    fleet.predictors["a"].behaviour, fleet.predictors["a"].slow_s = "slow", 15.0
    fleet.predictors["a"].e2e_s = 0.1
    fleet.predictors["b"].e2e_s, fleet.predictors["c"].e2e_s = 5.0, 2.0
    started_s = time.perf_counter()
    answer = await fleet.chat()
    assert time.perf_counter() - started_s < 10.0
    assert answer.headers["x-block-instance"] == "c"
    assert "x-block-fallback" not in answer.headers
    assert await fleet.metric('block_probes_total{outcome="late"}') == 1


async def test_predictors_that_fall_silent_leave_their_last_loads(world):
    """All hear one question; then none answers, and requests are shared out by what was sent since."""
    fleet = await world(predictors=True, policy="block", estimator="oracle")
    await fleet.chat()
    for name in "ab":
        fleet.predictors[name].behaviour = "broken"
        fleet.instances[name].behaviour = "hang"
    headers = {"x-block-output-tokens": "100"}
    held = [asyncio.create_task(fleet.chat(stream=True, headers=headers)) for _ in range(10)]
    async with asyncio.timeout(10):
        while sum(fleet.instances[name].active for name in "ab") < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [fleet.instances[name].active for name in "ab"] == [5, 5]
    for name in "ab":
        fleet.instances[name].behaviour = "serve"
    answer = await fleet.chat()
    assert answer.headers["x-block-fallback"] == "last_known_state"
    assert "x-block-predicted-e2e-ms" not in answer.headers
    for task in held:
        task.cancel()
    await asyncio.wait(held)


async def test_a_late_answer_still_tells_the_load(world):
    fleet = await world(predictors=True, policy="block", probe_deadline_s=0.05)
    for predictor in fleet.predictors.values():
        predictor.behaviour, predictor.slow_s = "slow", 0.2
    assert (await fleet.chat()).headers["x-block-fallback"] == "no_prediction"
    await asyncio.sleep(0.5)
    assert (await fleet.chat()).headers["x-block-fallback"] == "last_known_state"


async def test_too_few_answers_do_not_get_all_requests(world):
    fleet = await world(instances=4, predictors=True, policy="block")
    for name in "bcd":
        fleet.predictors[name].behaviour = "broken"
    answers = [await fleet.chat() for _ in range(20)]
    assert {answer.headers["x-block-fallback"] for answer in answers} == {"no_prediction"}
    assert len({answer.headers["x-block-instance"] for answer in answers}) > 1


async def test_what_will_miss_is_refused_when_admission_is_on(world):
    fleet = await world(predictors=True, policy="block", admission_max_miss=0.5)
    for predictor in fleet.predictors.values():
        predictor.e2e_s = 7.5
    assert (await fleet.chat(headers={"x-block-slo-e2e-ms": "8000"})).status_code == 200
    refused = await fleet.chat(headers={"x-block-slo-e2e-ms": "2000"})
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "slo_unattainable"
    assert refused.headers["retry-after"] == "6"
    assert len(fleet.instances["a"].received) + len(fleet.instances["b"].received) == 1


async def test_a_session_stays_with_its_instance(world):
    fleet = await world(instances=4, policy="session")
    homes = {}
    for _ in range(3):
        for session in range(12):
            answer = await fleet.chat(headers={"x-block-session": f"s-{session}"})
            home = answer.headers["x-block-instance"]
            assert homes.setdefault(session, home) == home
    assert len(set(homes.values())) > 1


async def test_a_prompt_goes_where_its_beginning_went(world):
    fleet = await world(instances=4, policy="prefix_affinity")
    for number in range(6):
        first = {"role": "user", "content": f"{number}" * 3000}
        answers = [
            await fleet.chat(messages=[first, *({"role": "user", "content": "more"} for _ in range(turns))])
            for turns in range(3)
        ]
        assert len({answer.headers["x-block-instance"] for answer in answers}) == 1


async def test_power_of_two_weighs_the_tokens_of_what_is_under_way(world, wait_until):
    fleet = await world(policy="power_of_two", estimator="oracle")
    for name in "ab":
        fleet.instances[name].behaviour = "hang"
    heavy = asyncio.create_task(fleet.chat(stream=True, headers={"x-block-output-tokens": "2000"}))
    await wait_until(lambda: sum(one.active for one in fleet.instances.values()) == 1)
    busy, idle = ("a", "b") if fleet.instances["a"].active else ("b", "a")
    light = [
        asyncio.create_task(fleet.chat(stream=True, headers={"x-block-output-tokens": "1"})) for _ in range(5)
    ]
    await wait_until(lambda: sum(one.active for one in fleet.instances.values()) == 6)
    assert (fleet.instances[busy].active, fleet.instances[idle].active) == (1, 5)
    for task in (heavy, *light):
        task.cancel()
    await asyncio.wait((heavy, *light))


async def test_min_qpm_remembers_what_is_over(world):
    fleet = await world(instances=3, policy="min_qpm")
    chosen = Counter([(await fleet.chat()).headers["x-block-instance"] for _ in range(12)])
    assert set(chosen.values()) == {4}


async def test_an_operators_own_policy_serves_requests(world, tmp_path, monkeypatch):
    (tmp_path / "house_policy.py").write_text(
        "from global_scheduler.policies import Choice, Needs\n"
        "class Last:\n"
        "    needs = Needs()\n"
        "    def choose(self, request, candidates):\n"
        "        if request.priority == 13:\n"
        "            raise LookupError\n"
        "        return Choice.of(reversed(candidates), 'last')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "house_policy", raising=False)
    fleet = await world(instances=3, policy="house_policy:Last")
    answer = await fleet.chat()
    assert answer.headers["x-block-instance"] == "c"
    assert answer.headers["x-block-policy"] == "house_policy:Last"
    assert (await fleet.chat(priority=13)).headers["x-block-fallback"] == "policy_failed"
    assert (await fleet.chat(headers={"x-block-policy": "house_policy:Other"})).status_code == 400
