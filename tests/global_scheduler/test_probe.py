"""Predictors: asked in parallel, believed by the deadline, told of the choice."""

from __future__ import annotations

import asyncio
import time

import pytest


@pytest.mark.parametrize("behaviour", ["slow", "broken", "damaged", "misplaced"])
async def test_a_predictor_without_an_answer_is_skipped(world, behaviour):
    fleet = await world(instances=3, predictors=True, policy="block", probe_deadline_s=0.5)
    fleet.predictors["a"].behaviour = behaviour
    fleet.predictors["a"].slow_s = 4.0
    fleet.predictors["a"].e2e_s = 0.1
    fleet.predictors["b"].e2e_s, fleet.predictors["c"].e2e_s = 5.0, 2.0
    started_s = time.perf_counter()
    answer = await fleet.chat()
    assert time.perf_counter() - started_s < 2.0  # far less than the slow one's 4 s
    assert answer.headers["x-block-instance"] == "c"
    assert "x-block-fallback" not in answer.headers
    outcome = "late" if behaviour == "slow" else "failed"
    assert await fleet.metric(f'block_probes_total{{outcome="{outcome}"}}') == 1
    assert await fleet.metric('block_probes_total{outcome="answered"}') == 2


async def test_what_fails_after_the_deadline_was_late_and_nothing_else(world):
    fleet = await world(instances=1, predictors=True, policy="block", probe_deadline_s=0.1)
    fleet.predictors["a"].behaviour, fleet.predictors["a"].slow_s = "slow and broken", 0.3
    await fleet.chat()
    await asyncio.sleep(0.5)
    counts = [
        await fleet.metric(f'block_probes_total{{outcome="{outcome}"}}')
        for outcome in ("answered", "failed", "late")
    ]
    assert counts == [0, 0, 1]


async def test_a_heuristic_chooses_when_no_predictor_answers(world, wait_until):
    """The one with fewer outstanding requests."""
    fleet = await world(predictors=True, policy="block")
    for name in "ab":
        fleet.predictors[name].behaviour = "broken"
        fleet.instances[name].behaviour = "hang"
    held = asyncio.create_task(fleet.chat(stream=True))
    await wait_until(lambda: fleet.instances["a"].active + fleet.instances["b"].active == 1)
    busy, idle = ("a", "b") if fleet.instances["a"].active else ("b", "a")
    fleet.instances[idle].behaviour = "serve"
    for _ in range(5):
        answer = await fleet.chat()
        assert answer.headers["x-block-instance"] == idle
        assert answer.headers["x-block-fallback"] == "no_prediction"
        assert "x-block-predicted-e2e-ms" not in answer.headers
    assert len(fleet.instances[busy].received) == 1
    held.cancel()
    await asyncio.wait([held])


async def test_answers_for_instances_that_went_down_meanwhile_are_none(world, wait_until):
    fleet = await world(predictors=True, policy="block", probe_deadline_s=2.0)
    fleet.predictors["a"].behaviour, fleet.predictors["a"].slow_s = "slow", 1.0
    fleet.predictors["b"].behaviour = "broken"
    waiting = asyncio.create_task(fleet.chat())
    await wait_until(lambda: fleet.predictors["a"].questions)
    fleet.instances["a"].healthy = False
    answer = await waiting
    assert answer.headers["x-block-instance"] == "b"
    assert answer.headers["x-block-fallback"] == "no_prediction"


async def test_dead_predictors_cost_nothing_but_the_prediction(world):
    fleet = await world(predictors=True, policy="block")
    for predictor in fleet.predictors.values():
        await predictor.stop()
    answer = await fleet.chat()
    assert answer.status_code == 200
    assert answer.headers["x-block-fallback"] == "no_prediction"


async def test_k_of_n_are_asked(world):
    fleet = await world(instances=4, predictors=True, policy="block", probe_count=2)
    for _ in range(30):
        assert (await fleet.chat()).status_code == 200
    asked = [len(predictor.questions) for predictor in fleet.predictors.values()]
    assert sum(asked) == 60
    assert min(asked) > 0


async def test_the_question_describes_the_request(world):
    fleet = await world(instances=1, predictors=True, policy="block", estimator="oracle")
    await fleet.http.post(
        f"{fleet.url}/v1/completions",
        json={"model": "llama", "prompt": [1] * 50, "max_tokens": 200, "priority": 3},
        headers={"x-block-output-tokens": "120", "x-request-id": "q-1"},
    )
    candidate = fleet.predictors["a"].questions[0].candidate
    assert candidate.id.startswith("q-1-")
    assert (candidate.prompt_tokens, candidate.output_tokens, candidate.max_tokens) == (50, 120, 200)
    assert candidate.priority == 3


async def test_absent_limits_follow_the_api(world):
    """A completion without max_tokens gets 16, a chat what is left of the model's length (4096)."""
    fleet = await world(instances=1, predictors=True, policy="block")
    await fleet.http.post(f"{fleet.url}/v1/completions", json={"model": "llama", "prompt": [1] * 50})
    await fleet.chat()
    completion, chat = (question.candidate for question in fleet.predictors["a"].questions)
    assert completion.max_tokens == 16
    assert chat.max_tokens == 4096 - chat.prompt_tokens


async def test_the_chosen_predictor_is_told_and_told_again_on_failure(world, wait_until):
    fleet = await world(predictors=True, policy="block")
    fleet.predictors["a"].e2e_s = 0.5
    fleet.instances["a"].behaviour = "die_first"
    await fleet.chat()
    (id_,) = (question.candidate.id for question in fleet.predictors["a"].questions)
    await wait_until(lambda: fleet.predictors["a"].released == [id_])
    await wait_until(lambda: fleet.predictors["b"].committed == [id_])
    assert fleet.predictors["a"].committed == [id_]
    assert fleet.predictors["b"].released == []


async def test_a_commitment_that_was_not_taken_is_told_by_the_next_probe_and_only_by_that(world, wait_until):
    fleet = await world(instances=1, predictors=True, policy="block")
    predictor = fleet.predictors["a"]
    predictor.refuses_commits = True
    fleet.instances["a"].behaviour = "hang"
    held = asyncio.create_task(fleet.chat(stream=True))
    await wait_until(lambda: fleet.instances["a"].active == 1 and predictor.refused == 1)
    fleet.instances["a"].behaviour = "serve"
    for _ in range(2):
        await fleet.chat()
    first, second, third = predictor.questions
    assert [earlier.id for earlier in second.committed] == [first.candidate.id]
    assert third.committed == ()
    held.cancel()
    await asyncio.wait([held])


async def test_what_is_over_is_told_no_more(world, wait_until):
    """Each probe fails, so nothing is ever acknowledged."""
    fleet = await world(instances=1, predictors=True, policy="block")
    predictor = fleet.predictors["a"]
    predictor.refuses_commits, predictor.behaviour = True, "broken"
    for count in range(1, 4):
        await fleet.chat()
        await wait_until(lambda: predictor.refused == count)  # noqa: B023
    assert all(question.committed == () for question in predictor.questions)


async def test_what_no_engine_gets_to_see_is_released_and_the_rest_is_not(world, wait_until):
    """Or it would weigh on the instance until the predictor gives it up."""
    fleet = await world(instances=1, predictors=True, policy="block")
    for path in ("/v1/embeddings", "/tokenize"):
        answer = await fleet.http.post(
            f"{fleet.url}{path}", json={"model": "llama", "input": "x", "prompt": "x"}
        )
        assert answer.status_code == 200
    predictor = fleet.predictors["a"]
    await wait_until(lambda: predictor.released)
    _, tokenized = predictor.committed
    assert predictor.released == [tokenized]


async def test_a_request_that_the_instance_refuses_is_released(world, wait_until):
    fleet = await world(instances=1, predictors=True)
    fleet.instances["a"].behaviour = "refuse"
    await fleet.chat()
    await wait_until(lambda: len(fleet.predictors["a"].released) == 1)
    assert fleet.predictors["a"].released == fleet.predictors["a"].committed


async def test_a_predictor_that_is_late_time_and_again_is_not_waited_for_until_it_is_in_time(world):
    """Decisions stop paying for it; it is asked all the same now and then, and believed again."""
    rules = {"failures_in_a_row": 2, "first_pause_s": 0.2, "longest_pause_s": 0.2}
    fleet = await world(
        instances=3, predictors=True, policy="block", probe_deadline_s=0.3, probe_minimum=0.5, breaker=rules
    )
    slow = fleet.predictors["a"]
    slow.behaviour, slow.slow_s, slow.e2e_s = "slow", 0.6, 0.1
    for _ in range(2):
        await fleet.chat()
    for _ in range(8):
        started_s = time.perf_counter()
        answer = await fleet.chat()
        assert time.perf_counter() - started_s < 0.25
        assert answer.headers["x-block-instance"] in "bc"
        assert "x-block-fallback" not in answer.headers
        await asyncio.sleep(0.1)
    assert 3 <= len(slow.questions) < 9
    slow.behaviour = "answer"
    async with asyncio.timeout(5):
        while (await fleet.chat()).headers["x-block-instance"] != "a":  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_predictors_that_are_not_waited_for_still_count_as_silent(world):
    """Else the few that are in time would get everything."""
    rules = {"failures_in_a_row": 1, "first_pause_s": 60.0, "longest_pause_s": 60.0}
    fleet = await world(
        instances=3, predictors=True, policy="block", probe_deadline_s=0.1, probe_minimum=0.5, breaker=rules
    )
    for name in "ab":
        fleet.predictors[name].behaviour = "slow"
    answers = [await fleet.chat() for _ in range(4)]
    assert all("x-block-fallback" in answer.headers for answer in answers)
