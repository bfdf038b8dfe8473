from __future__ import annotations

from deploy.fleet.engine_gauges import read_gauges

PAGE = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 9.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.3",model_name="m"} 1.0
vllm:e2e_request_latency_seconds_count{engine="0",model_name="m"} 4.0
vllm:e2e_request_latency_seconds_sum{engine="0",model_name="m"} 6.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 4.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 1e-01
vllm:request_prompt_tokens_count{engine="0",model_name="m"} 4.0
vllm:request_prompt_tokens_sum{engine="0",model_name="m"} 400.0
"""


def test_gauges_and_means_are_read() -> None:
    gauges = read_gauges(PAGE)
    assert (gauges.running, gauges.waiting, gauges.outstanding, gauges.requests) == (3, 2, 5, 4)
    assert (gauges.mean_e2e_s, gauges.mean_ttft_s, gauges.mean_prompt_tokens) == (1.5, 0.025, 100)


def test_an_engine_that_has_served_nobody_has_no_means() -> None:
    gauges = read_gauges("")
    assert (gauges.outstanding, gauges.mean_e2e_s, gauges.mean_output_tokens) == (0, None, 0)
