"""What each strategy wishes, by what it sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from block.latency.load import load_latency
from block.provisioning_config import ProvisioningSettings
from block.types import BatchShape, EngineLimits, EngineLoad
from global_scheduler.provisioning import STRATEGIES, EngineModel, Observation, Wish
from global_scheduler.provisioning.base import ArrivalProcess, InstanceSeen, MeasuredPace

ENGINE = EngineModel(
    EngineLimits(16, 1052, 48, 512, 4096, async_scheduling=True),
    load_latency(Path(__file__).parents[3] / "config/latency/a30-llama-2-7b.yaml"),
)
IDLE = EngineLoad(0, 0, 0, 1052, 1052, 0, 0)
FULL = EngineLoad(40, 60, 0, 10, 1052, 15_000, 40_000)
SIZES = ((50, 200), (600, 400), (20, 500), (200, 300))


def _wish(strategy: str, seen: Observation, rate_per_s: float = 0.0, **settings: object) -> Wish:
    chosen = ProvisioningSettings(strategy=strategy, **settings)  # type: ignore[arg-type]
    return STRATEGIES[strategy](chosen, ENGINE).wish(seen, ArrivalProcess(rate_per_s))


def _fleet(count: int, load: EngineLoad = IDLE) -> Observation:
    return Observation(0.0, tuple(InstanceSeen(f"i{n}", load) for n in range(count)), sizes=SIZES)


def test_static_never_wishes_anything() -> None:
    assert _wish("static", _fleet(1, FULL), 99.0).change == 0


@pytest.mark.parametrize(
    ("strategy", "signal"), [("relief", "measured_e2e_s"), ("preempt", "predicted_e2e_s")]
)
def test_a_threshold_is_passed_by_its_own_signal_only(strategy: str, signal: str) -> None:
    other = {"measured_e2e_s", "predicted_e2e_s"} - {signal}
    assert _wish(strategy, replace(_fleet(2), **{signal: 71.0})).change == 1
    assert _wish(strategy, replace(_fleet(2), **{signal: 70.0})).change == 0
    assert _wish(strategy, replace(_fleet(2), **{other.pop(): 71.0})).change == 0
    assert _wish(strategy, replace(_fleet(2), **{signal: 4.0}), spare_below_s=5.0).change == -1
    assert _wish(strategy, replace(_fleet(2), **{signal: 4.0})).change == 0


def test_slo_adds_as_many_as_the_load_needs_at_once_and_says_what_that_does() -> None:
    some, many = _wish("slo", _fleet(2), 12.0), _wish("slo", _fleet(2), 20.0)
    assert 1 <= some.change < many.change <= 10
    assert some.effect["misses"] > 0.01 >= some.effect["misses_then"]


def test_slo_counts_on_what_starts_already() -> None:
    needed = _wish("slo", _fleet(2), 16.0).change
    coming = replace(_fleet(2), starting_s=(5.0,) * needed)
    assert _wish("slo", coming, 16.0).change == 0


def test_slo_sees_queues_that_the_arrival_rate_does_not_show() -> None:
    quick = {"cold_start_s": 5.0, "horizon_s": 60.0}
    queued = _wish("slo", _fleet(3, FULL), 6.0, **quick)
    assert queued.change > _wish("slo", _fleet(3), 6.0, **quick).change


def test_slo_gives_back_one_at_a_time_and_keeps_what_more_load_would_need() -> None:
    assert _wish("slo", _fleet(10), 4.0).change == -1
    assert _wish("slo", _fleet(10), 0.0).change == -1
    enough = next(count for count in range(1, 12) if _wish("slo", _fleet(count), 16.0).change <= 0)
    assert _wish("slo", _fleet(enough), 16.0, headroom=0.5).change == 0


def test_slo_is_deterministic() -> None:
    assert _wish("slo", _fleet(3, FULL), 14.0) == _wish("slo", _fleet(3, FULL), 14.0)


def test_slo_asks_for_one_more_when_nothing_serves_and_never_beyond_what_helps() -> None:
    assert _wish("slo", _fleet(0), 3.0).change >= 1
    assert _wish("slo", _fleet(2), 200.0, max_instances=6).change <= 4


def test_slo_guesses_nothing_before_a_request_has_ended() -> None:
    wish = _wish("slo", replace(_fleet(3, FULL), sizes=()), 12.0)
    assert (wish.change, wish.reason) == (
        0,
        "no request has ended yet, so that none like it can be simulated",
    )
    assert _wish("slo", replace(_fleet(3), sizes=()), 0.0).change == -1


def test_slo_sees_the_misses_of_a_load_that_is_too_fast_to_be_simulated_to_the_horizon() -> None:
    wish = _wish("slo", replace(_fleet(1), sizes=((8, 2),)), 700.0)
    assert wish.change > 0
    assert wish.effect["misses"] > 0.5


def test_slo_goes_by_the_pace_that_was_measured() -> None:
    slow = replace(_fleet(6), pace=MeasuredPace(factor=2.0))
    quick = replace(_fleet(6), pace=MeasuredPace(factor=0.4, context_factor=0.4))
    assert _wish("slo", slow, 14.0).change > _wish("slo", _fleet(6), 14.0).change
    assert _wish("slo", quick, 14.0).change == -1


def test_an_engine_at_another_pace_has_steps_of_that_length() -> None:
    shape = BatchShape.of([(512, 512)])
    found = ENGINE.at(MeasuredPace(2.0, 0.001, 3.0)).latency.seconds(shape)
    kernel = ENGINE.latency.kernel
    curve_s = ENGINE.latency.seconds(shape) - kernel.per_context_token_s * shape.context_tokens
    assert found == pytest.approx(
        2.0 * curve_s + 0.001 + 3.0 * kernel.per_context_token_s * shape.context_tokens
    )
    assert ENGINE.at(MeasuredPace()) is ENGINE


def test_slo_adds_all_that_help_where_not_even_the_most_keep_the_objective() -> None:
    assert _wish("slo", _fleet(2, FULL), 60.0, max_instances=6).change == 4


def test_slo_adds_nothing_where_nothing_would_help() -> None:
    wish = _wish("slo", _fleet(4), 2.0, slo_ttft_s=None, slo_e2e_s=0.001)
    assert (wish.change, wish.reason) == (0, "100.0% would miss the SLO, and 100.0% with 8 more")
