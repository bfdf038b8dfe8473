"""What the predictor answers, given a mirror and a ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from feed_messages import snapshot
from msgspec.structs import replace

from block.errors import FeedError, StateError
from block.latency.table import TableLatency
from block.messages import CandidateRequest
from predictor.forecaster import MOST_IN_VAIN, Forecaster
from predictor.ledger import Ledger
from predictor.mirror import Mirror

MODEL = TableLatency.load(Path(__file__).parents[2] / "config/latency/a30-llama-2-7b.yaml")
NEW = CandidateRequest(id="new", prompt_tokens=100, output_tokens=20, max_tokens=50)


def _forecaster(ids: list[str]) -> Forecaster:
    mirror = Mirror()
    forecaster = Forecaster("i0", MODEL, Ledger(5.0), mirror)
    mirror.apply(snapshot(ids, 100.0))
    forecaster.notice(100.0)
    return forecaster


def test_an_idle_engine_answers_with_its_step_times() -> None:
    answer = _forecaster([]).predict(NEW, 100.0)
    assert answer.prediction.ttft_s == pytest.approx(0.0238, abs=0.001)
    assert answer.prediction.e2e_s == pytest.approx(answer.prediction.ttft_s + 19 * 0.0196, rel=0.01)
    assert answer.load.running == 0


def test_before_the_first_snapshot_there_is_no_answer() -> None:
    forecaster = Forecaster("i0", MODEL, Ledger(5.0), Mirror())
    with pytest.raises(FeedError):
        forecaster.predict(NEW, 1.0)


def test_committed_choices_delay_and_are_counted() -> None:
    forecaster = _forecaster(["chatcmpl-a-00000000"])
    before = forecaster.predict(NEW, 100.0)
    forecaster.ledger.commit(CandidateRequest("other", 2000, 300, 300), 100.0)
    after = forecaster.predict(NEW, 100.0)
    assert after.prediction.ttft_s > before.prediction.ttft_s + 0.1
    assert (before.load.committed, after.load.committed) == (0, 1)
    assert after.load.unprocessed_tokens == before.load.unprocessed_tokens + 2300


def test_choices_made_before_the_time_of_day_was_set_back_delay_as_before() -> None:
    forecaster = _forecaster(["chatcmpl-a-00000000"])
    forecaster.ledger.commit(CandidateRequest("other", 2000, 300, 300), 1100.0)
    answer = forecaster.predict(NEW, 100.0)
    forecaster = _forecaster(["chatcmpl-a-00000000"])
    forecaster.ledger.commit(CandidateRequest("other", 2000, 300, 300), 100.0)
    assert answer.prediction == forecaster.predict(NEW, 100.0).prediction


def test_several_sequences_cost_what_as_many_requests_do() -> None:
    forecaster = _forecaster(["chatcmpl-a-00000000"])
    one, four = (forecaster.predict(replace(NEW, sequences=count, samples=count), 100.0) for count in (1, 4))
    assert four.prediction.harm_sum_s > one.prediction.harm_sum_s
    assert four.prediction.e2e_s > one.prediction.e2e_s
    forecaster.ledger.commit(CandidateRequest("other", 50, 30, 30, sequences=4, samples=2), 100.0)
    assert forecaster.load().committed == 4
    assert forecaster.load().unprocessed_tokens == one.load.unprocessed_tokens + 4 * 80
    assert forecaster.predict(NEW, 100.0).prediction.e2e_s > one.prediction.e2e_s


def test_what_the_router_said_of_a_length_is_used() -> None:
    forecaster = _forecaster(["chatcmpl-a-00000000"])
    free = forecaster.load().unprocessed_tokens
    forecaster.ledger.commit(CandidateRequest("a", 20, 31, 100), 100.0)
    assert forecaster.load().unprocessed_tokens == free - 100 + 31


def test_a_prompt_beyond_the_model_is_refused_by_name() -> None:
    with pytest.raises(StateError, match="prompt"):
        _forecaster([]).predict(CandidateRequest("new", 4096, 5, 5), 100.0)


def test_an_outlived_estimate_leaves_its_conditional_expectation() -> None:
    forecaster = _forecaster(["chatcmpl-a-00000000"])
    forecaster.ledger.commit(CandidateRequest("a", 20, 1, 100), 100.0)
    # One token generated, one expected: some more are still to come, but not the limit.
    left = forecaster.load().unprocessed_tokens
    assert 1 < left < 20


def test_scenarios_spread_what_a_distribution_leaves_open() -> None:
    forecaster = _forecaster(["chatcmpl-a-00000000"])
    unsure = CandidateRequest("new", 100, 20, 200, output_quantiles=((0.1, 5), (0.5, 20), (0.9, 90)))
    answer = forecaster.predict(unsure, 100.0, scenarios=8)
    assert answer.spread.scenarios == 8
    assert answer.spread.e2e_std_s > 0.3
    assert answer.prediction.e2e_s < answer.spread.e2e_max_s
    certain = forecaster.predict(NEW, 100.0, scenarios=8)
    assert certain.spread.e2e_std_s == pytest.approx(0, abs=1e-9)


def test_a_commitment_that_vllm_would_refuse_blocks_nobody() -> None:
    forecaster = _forecaster([])
    forecaster.ledger.commit(CandidateRequest("endless", 50_000, 5, 5), 100.0)
    assert forecaster.predict(NEW, 100.0).prediction.ttft_s < 0.1


def test_only_the_load_is_answered_where_no_more_is_wanted() -> None:
    forecaster = _forecaster(["chatcmpl-a-00000000"])
    whole = forecaster.answer(NEW, 100.0, 1, "harm")
    times = forecaster.answer(NEW, 100.0, 1, "times")
    load = forecaster.answer(NEW, 100.0, 1, "load")
    assert (load.prediction, load.spread, load.load) == (None, None, whole.load)
    assert whole.prediction.harm_sum_s > 0 == times.prediction.harm_sum_s
    assert times.prediction.e2e_s == whole.prediction.e2e_s


def test_what_is_new_is_laid_out_ahead_while_questions_come() -> None:
    forecaster = _forecaster(["chatcmpl-a-00000000"])
    laid_out: list[int] = []
    lay_out = forecaster._current_what_if
    forecaster._current_what_if = lambda *given: laid_out.append(1) or lay_out(*given)
    forecaster.prepare(100.0)
    assert laid_out == []  # nobody has ever asked
    forecaster.answer(NEW, 100.0, 2, "times")
    before = len(laid_out)
    for number in range(2 * MOST_IN_VAIN):
        forecaster.ledger.commit(CandidateRequest(f"c{number}", 10, 10, 10), 100.0)
        forecaster.prepare(100.0)
    assert len(laid_out) - before == MOST_IN_VAIN
    asked_ahead = forecaster.answer(NEW, 100.0, 2, "times")
    fresh = _forecaster(["chatcmpl-a-00000000"])
    for number in range(2 * MOST_IN_VAIN):
        fresh.ledger.commit(CandidateRequest(f"c{number}", 10, 10, 10), 100.0)
    assert fresh.answer(NEW, 100.0, 2, "times") == asked_ahead


def test_heuristics_have_nothing_laid_out() -> None:
    forecaster = _forecaster(["chatcmpl-a-00000000"])
    forecaster.answer(NEW, 100.0, 1, "load")
    forecaster.prepare(100.0)
    assert forecaster._what_if is None


def test_an_engine_that_restarts_brings_arrivals_though_its_handles_begin_anew() -> None:
    mirror = Mirror()
    forecaster = Forecaster("i0", MODEL, Ledger(5.0), mirror, expect_arrivals=True)
    shown = ([], ["a", "b", "c"], ["d", "e", "f"], ["d", "e", "f"])  # the last only tells it again
    for time_s, names in zip((100.0, 101.0, 102.0, 103.0), shown, strict=True):
        ids = [f"chatcmpl-{name}-00000000" for name in names]
        mirror.apply(replace(snapshot(ids, time_s), engine_id=f"engine-{time_s >= 102.0}"))
        forecaster.notice(time_s)
    assert forecaster._arrivals is not None
    assert forecaster._arrivals.rate_per_s(103.0) == pytest.approx(6 / 3.0)
