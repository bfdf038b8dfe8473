"""Counts of a fleet from its engines' pages, which start anew, come and go."""

from __future__ import annotations

from statistics import fmean

import pytest

from deploy.fleet.traffic import Traffic


def page(finished: int, running: int = 0, *, e2e_s: float = 2.0, tokens: int = 100) -> str:
    lines = [
        f'vllm:num_requests_running{{engine="0"}} {running}.0',
        f'vllm:e2e_request_latency_seconds_count{{engine="0"}} {finished}.0',
        f'vllm:e2e_request_latency_seconds_sum{{engine="0"}} {finished * e2e_s}',
    ]
    for name in ("request_prompt_tokens", "request_generation_tokens"):
        lines += [
            f'vllm:{name}_bucket{{engine="0",le="{bound}"}} {finished if tokens <= bound else 0}.0'
            for bound in (50, 100, 200, 400)
        ]
        lines += [
            f'vllm:{name}_bucket{{engine="0",le="+Inf"}} {finished}.0',
            f'vllm:{name}_count{{engine="0"}} {finished}.0',
            f'vllm:{name}_sum{{engine="0"}} {finished * tokens}.0',
        ]
    return "\n".join(lines) + "\n"


def noted(*looks: dict[str, str], fresh: tuple[str, ...] = ()) -> Traffic:
    traffic = Traffic(window_s=60.0)
    for number, pages in enumerate(looks):
        traffic.note(10.0 * number, pages, fresh if number == len(looks) - 1 else ())
    return traffic


def test_what_came_between_looks_is_counted_finished_or_not() -> None:
    assert noted({"a": page(100, 4)}, {"a": page(103, 6)}).requests == 5


def test_requests_that_their_clients_gave_up_are_no_restart() -> None:
    assert noted({"a": page(100_000, 9)}, {"a": page(100_000, 2)}).requests == 0


def test_an_engine_that_was_started_anew_counts_from_nothing() -> None:
    assert noted({"a": page(100, 4)}, {"a": page(7, 2)}).requests == 9


def test_what_an_engine_had_served_before_it_was_first_seen_does_not_count() -> None:
    assert noted({"a": page(10)}, {"a": page(10), "b": page(5000)}).requests == 0
    assert noted({"a": page(10)}, {"a": page(10), "b": page(3, 2)}, fresh=("b",)).requests == 5


def test_an_engine_out_of_sight_for_a_while_is_counted_once() -> None:
    assert noted({"a": page(10)}, {}, {"a": page(14)}).requests == 4


def test_the_latency_is_that_of_answers_since_the_last_look_at_the_worst_engine() -> None:
    first = {"a": page(10, e2e_s=90.0), "b": page(10, e2e_s=90.0)}
    assert noted(first).measured_e2e_s is None
    then = {"a": page(20, e2e_s=50.0), "b": page(20, e2e_s=47.0)}
    assert noted(first, then).measured_e2e_s == pytest.approx(10.0)
    assert noted(first, then, then).measured_e2e_s is None


def longer(count: int) -> str:
    """After 1,000 requests of 40 tokens, so many of 150."""
    text = page(1000, tokens=40).replace(
        '_tokens_sum{engine="0"} 40000.0', f'_tokens_sum{{engine="0"}} {40_000 + 150 * count}.0'
    )
    for bound in ("200", "400", "+Inf"):
        text = text.replace(f'le="{bound}"}} 1000.0', f'le="{bound}"}} {1000 + count}.0')
    return text


def _mean(traffic: Traffic) -> float:
    return fmean(prompt for prompt, _ in traffic.sizes)


def test_sizes_are_those_of_the_window_once_it_has_enough() -> None:
    before = {"a": page(1000, tokens=40)}
    assert _mean(noted(before)) == pytest.approx(40, abs=1)
    assert _mean(noted(before, {"a": longer(10)})) == pytest.approx(41, abs=1)
    many = noted(before, {"a": longer(100)})
    assert _mean(many) == pytest.approx(150, abs=1)
    assert min(many.sizes) >= (100, 100)


def test_nothing_is_known_of_a_fleet_that_has_answered_nobody() -> None:
    traffic = noted({"a": page(0, 3)})
    assert (traffic.sizes, traffic.mean_size) == ((), None)
