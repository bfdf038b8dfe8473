"""The emulated model under vLLM's own scheduler: tokens when vLLM expects them, and no others."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm import SamplingParams

from exp.virtual_engine import VirtualEngine, VirtualEngineSpec

SYNC = "vllm.v1.core.sched.scheduler.Scheduler"
ASYNC = "vllm.v1.core.sched.async_scheduler.AsyncScheduler"
TIGHT = {"num_gpu_blocks": 17, "max_num_seqs": 6, "max_num_batched_tokens": 48, "max_model_len": 192}
ROOMY = {"num_gpu_blocks": 500, "max_num_seqs": 64, "max_num_batched_tokens": 512, "max_model_len": 192}
VARIANTS = {
    "sync": VirtualEngineSpec(SYNC, **TIGHT),
    "async": VirtualEngineSpec(ASYNC, asynchronous=True, **TIGHT),
    "async, prefix caching": VirtualEngineSpec(
        ASYNC, asynchronous=True, flags={"enable_prefix_caching": True}, **TIGHT
    ),
}
REQUEST_NUMBERS = itertools.count()
Plan = list[tuple[int, int, int | None]]
PLANS = st.lists(
    st.tuples(st.integers(1, 140), st.integers(1, 45), st.none() | st.integers(1, 45)),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module", params=[*VARIANTS, "resumed as new"])
def engine(request: pytest.FixtureRequest) -> VirtualEngine:
    made = VirtualEngine(VARIANTS.get(request.param, VARIANTS["async"]))
    # How the scheduler speaks to vLLM's second model runner, which needs Triton to be chosen by itself.
    made.scheduler.use_v2_model_runner = request.param == "resumed as new"
    return made


@pytest.fixture(scope="module")
def roomy_engine() -> VirtualEngine:
    return VirtualEngine(VirtualEngineSpec(ASYNC, asynchronous=True, **ROOMY))


def run(engine: VirtualEngine, plan: Plan) -> tuple[list[list[int]], int]:
    """Play a plan of (prompt tokens, max_tokens, recorded length); returns the responses and preemptions."""
    requests, preemptions = [], 0
    for number, (prompt_tokens, max_tokens, recorded) in enumerate(plan):
        extra = {} if recorded is None else {"block_output_tokens": recorded}
        sampling = SamplingParams(max_tokens=max_tokens, extra_args=extra)
        prompt = [3 + number] * prompt_tokens
        requests.append(engine.add(f"request-{next(REQUEST_NUMBERS)}", prompt, sampling))
    while engine.busy:
        output = engine.schedule()
        if output is not None and output.num_scheduled_tokens:
            preemptions += len(output.preempted_req_ids or ())
            check_tokens(engine)
        if engine.must_wait(output):
            engine.finish_step()
    return [list(request.output_token_ids) for request in requests], preemptions


def check_tokens(engine: VirtualEngine) -> None:
    """A token exactly for the requests that vLLM itself does not take as mid-prefill."""
    output, tokens = engine.under_way[-1]
    for request_id in output.num_scheduled_tokens:
        sampled = tokens.sampled_token_ids[tokens.req_id_to_index[request_id]]
        assert len(sampled) == (0 if engine.scheduler.requests[request_id].is_prefill_chunk else 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=PLANS)
def test_responses_have_the_length_asked_for(engine: VirtualEngine, plan: Plan) -> None:
    responses, _ = run(engine, plan)
    for (prompt_tokens, max_tokens, recorded), response in zip(plan, responses, strict=True):
        expected = min(max_tokens, recorded or max_tokens, 192 - prompt_tokens)
        assert len(response) == expected
        assert (response[-1] == 2) == (recorded is not None and recorded <= expected)
        assert 2 not in response[:-1]


def test_preemption_changes_no_token(engine: VirtualEngine, roomy_engine: VirtualEngine) -> None:
    plan: Plan = [(40 + 7 * number, 45, None) for number in range(8)]
    disturbed, preemptions = run(engine, plan)
    undisturbed, none = run(roomy_engine, plan)
    assert preemptions > 0
    assert none == 0
    assert disturbed == undisturbed
