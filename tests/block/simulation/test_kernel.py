"""The simulation against its judge: vLLM's own Scheduler, batch by batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from simulated_workloads import Workload, workloads

from block.errors import StateError
from block.latency.base import KernelLatency
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.types import EngineLimits

LIMITS = EngineLimits(
    block_size=16, total_blocks=64, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=512
)


@pytest.mark.filterwarnings("default")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(workload=workloads())
def test_every_step_equals_vllms_own_scheduler(workload: Workload, latency: KernelLatency) -> None:
    from exp.judge import mismatch

    assert mismatch(workload.limits, latency, workload.requests) is None


def test_a_request_runs_alone_in_the_expected_steps(latency: KernelLatency) -> None:
    simulation = EngineSimulation(LIMITS, latency, [SimulatedRequest("a", 1.0, 100, 3)])
    steps = list(simulation.steps())
    assert [step.scheduled for step in steps] == [{"a": 64}, {"a": 36}, {"a": 1}, {"a": 1}]
    assert steps[0].start_s == 1.0
    assert [step.free_blocks for step in steps] == [60, 57, 57, 64]
    (outcome,) = simulation.outcomes()
    assert outcome.first_token_s == steps[1].end_s
    assert outcome.finish_s == steps[-1].end_s


def test_the_same_inputs_give_the_same_bytes(latency: KernelLatency) -> None:
    requests = [SimulatedRequest(f"r{i}", i * 0.01, 50 + i, 40 + i) for i in range(40)]
    runs = [EngineSimulation(LIMITS, latency, requests) for _ in range(2)]
    for simulation in runs:
        simulation.run()
    assert runs[0].memory.f.tobytes() == runs[1].memory.f.tobytes()


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (SimulatedRequest("a", 0.0, 0, 1), "prompt_tokens"),
        (SimulatedRequest("a", 0.0, 512, 1), "max_model_len"),
        (SimulatedRequest("a", 0.0, 5, 9, max_tokens=3), "max_tokens"),
    ],
)
def test_requests_that_cannot_be_are_refused(request_, named, latency: KernelLatency) -> None:
    with pytest.raises(StateError, match=named):
        EngineSimulation(LIMITS, latency, [request_])


def test_a_prompt_larger_than_the_cache_is_an_error_not_a_hang(latency: KernelLatency) -> None:
    limits = EngineLimits(
        block_size=16, total_blocks=4, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=512
    )
    with pytest.raises(StateError, match="never be scheduled"):
        EngineSimulation(limits, latency, [SimulatedRequest("a", 0.0, 100, 3)])


def test_a_request_fits_if_all_but_its_last_token_do(latency: KernelLatency) -> None:
    limits = replace(LIMITS, total_blocks=4)
    EngineSimulation(limits, latency, [SimulatedRequest("a", 0.0, 60, 5)]).run()
    with pytest.raises(StateError, match="need 5 blocks"):
        EngineSimulation(limits, latency, [SimulatedRequest("a", 0.0, 60, 6)])
