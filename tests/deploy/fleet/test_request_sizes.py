"""Sizes that are drawn from histograms have their shape, and their true mean."""

from __future__ import annotations

from statistics import fmean

from deploy.fleet.request_sizes import Histogram, draw_sizes, read_histogram

PAGE = """\
vllm:request_prompt_tokens_bucket{engine="0",le="10",model_name="m"} 5.0
vllm:request_prompt_tokens_bucket{engine="0",le="1000",model_name="m"} 10.0
vllm:request_prompt_tokens_bucket{engine="0",le="+Inf",model_name="m"} 10.0
vllm:request_prompt_tokens_sum{engine="0",model_name="m"} 1000.0
vllm:request_prompt_tokens_count{engine="0",model_name="m"} 10.0
"""


def test_histograms_of_several_engines_are_summed() -> None:
    found = read_histogram([PAGE, PAGE], "request_prompt_tokens")
    assert found == Histogram({10.0: 10.0, 1000.0: 20.0, float("inf"): 20.0}, 2000.0)
    assert found.plus(read_histogram([PAGE], "request_prompt_tokens"), -1).total == 1000.0
    assert read_histogram([PAGE], "request_generation_tokens").count == 0


def test_wide_buckets_do_not_make_requests_longer_than_they_were() -> None:
    prompts = read_histogram([PAGE], "request_prompt_tokens")
    sizes = draw_sizes(prompts, prompts)
    assert abs(fmean(prompt for prompt, _ in sizes) - 100.0) < 2.0
    assert 64 <= sum(prompt <= 10 for prompt, _ in sizes) <= 70
    assert len({output for _, output in sizes}) > 32


def test_nothing_known_draws_nothing() -> None:
    assert draw_sizes(Histogram(), Histogram()) == ()
