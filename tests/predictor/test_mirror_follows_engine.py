"""The mirror built from the feed's deltas equals vLLM's own scheduler after every step, whatever happens."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm import SamplingParams

from block.errors import FeedError
from block.latency.base import KernelLatency
from block.latency.calibration import CalibratedLatency
from block.simulation.what_if import Newcomer, WhatIf
from block.types import (
    Arrival,
    BatchShape,
    EngineState,
    InFlightStep,
    RequestState,
    RequestStatus,
    StepRecord,
)
from block.vllm_plugin.capture import Capturer
from block.vllm_plugin.feed_state import FeedState
from block.vllm_plugin.limits import engine_limits
from exp.virtual_engine import VirtualEngine, VirtualEngineSpec
from predictor.mirror import Mirror

SYNC = "vllm.v1.core.sched.scheduler.Scheduler"
ASYNC = "vllm.v1.core.sched.async_scheduler.AsyncScheduler"
TIGHT = {"num_gpu_blocks": 17, "max_num_seqs": 6, "max_num_batched_tokens": 48, "max_model_len": 192}
VARIANTS = {
    "sync": VirtualEngineSpec(SYNC, **TIGHT),
    "async": VirtualEngineSpec(ASYNC, asynchronous=True, **TIGHT),
    "async, prefix caching": VirtualEngineSpec(
        ASYNC, asynchronous=True, flags={"enable_prefix_caching": True}, **TIGHT
    ),
    "sync, priority, prefix caching": VirtualEngineSpec(
        SYNC, flags={"scheduling_policy": "priority", "enable_prefix_caching": True}, **TIGHT
    ),
    "async, priority, long prompts capped": VirtualEngineSpec(
        ASYNC,
        asynchronous=True,
        flags={"scheduling_policy": "priority", "long_prefill_token_threshold": 20, "watermark": 0.1},
        **TIGHT,
    ),
}

ARRIVAL = st.tuples(
    st.just("add"), st.integers(1, 150), st.integers(1, 40), st.integers(0, 3), st.integers(0, 2)
)
ABORT = st.tuples(st.just("abort"), st.integers(0, 10))
TURNS = st.tuples(st.just("turns"), st.integers(1, 12))
WORKLOAD = st.lists(st.one_of(ARRIVAL, ARRIVAL, ABORT, TURNS), max_size=40)
REQUEST_NUMBERS = itertools.count()
STEPS_OF_10_MS = CalibratedLatency("steps of 10 ms", KernelLatency((0.0, 1000.0), (0.01, 0.01)))


@pytest.fixture(scope="module", params=list(VARIANTS))
def engine(request: pytest.FixtureRequest) -> VirtualEngine:
    return VirtualEngine(VARIANTS[request.param])


@dataclass
class Witness:
    """Drives an engine step by step beside its feed; knows the truth from vLLM's own objects."""

    engine: VirtualEngine
    on_capture: Callable[[bytes | None], None] = lambda frame: None
    step_s: Callable[[int], float] = lambda step: 0.01 + 0.001 * (step % 7)
    now_s: float = 1_000.0
    preemptions: int = 0
    steps: int = 0
    under_way: list[InFlightStep] = field(default_factory=list)
    newest: dict[str, int] = field(default_factory=dict)
    finished: list[StepRecord] = field(default_factory=list)
    cached: dict[str, int] = field(default_factory=dict)
    gpu_free_s: float = 0.0

    def __post_init__(self) -> None:
        scheduler = self.engine.scheduler
        assert scheduler.reset_prefix_cache(), "the engine must be empty between workloads"
        # As after an idle turn: vLLM reports finished requests in the schedule that follows.
        scheduler.schedule()
        self.limits = engine_limits(scheduler)
        self.capturer = Capturer(scheduler, lambda: self.now_s)
        self.feed = FeedState("engine", self.limits, self.now_s)

    def turn(self) -> bool:
        """One turn of the engine core's loop; False when there is nothing to do."""
        if not self.engine.busy:
            return False
        output = self.engine.schedule()
        if output is not None:
            self._note_schedule(output)
            self._publish(self.capturer.step_scheduled(output))
        if self.engine.must_wait(output):
            self._finish_step()
        return True

    def _note_schedule(self, output: Any) -> None:
        self.preemptions += len(output.preempted_req_ids or ())
        requests = self.engine.scheduler.requests
        for request in requests.values():
            # vLLM's own note of the hit, which it keeps until the first output.
            if request.prefill_stats is not None and request.status.name == "RUNNING":
                self.cached.setdefault(request.request_id, request.prefill_stats.num_local_cached_tokens)
        if tokens := output.num_scheduled_tokens:
            self.steps += 1
            self.newest = dict(tokens)
            shape = BatchShape.of((n, requests[id_].num_computed_tokens) for id_, n in tokens.items())
            self.under_way.append(InFlightStep(self.steps, self.now_s, shape))

    def _finish_step(self) -> None:
        output = self.engine.under_way[0][0]
        if output.num_scheduled_tokens:
            oldest = self.under_way.pop(0)
            latency_s = self.step_s(oldest.step)
            self.gpu_free_s = max(oldest.submit_s, self.gpu_free_s) + latency_s
            self.now_s = self.gpu_free_s
            record = StepRecord(oldest.step, oldest.submit_s, self.now_s, latency_s, oldest.shape)
            self.finished.append(record)
        self.capturer.step_ended(output)
        self.engine.finish_step()
        if self.engine.scheduler.get_num_unfinished_requests() == 0:
            self._publish(self.capturer.between_steps())

    def _publish(self, capture: Any) -> None:
        delta = self.feed.update(capture)
        self.on_capture(None if delta is None else msgspec.msgpack.encode(delta))

    def truth(self) -> EngineState:
        """From vLLM's objects, by their public properties."""
        scheduler = self.engine.scheduler
        waiting = [*scheduler.kv_holding_waiting, *scheduler.waiting]
        return EngineState(
            engine_id="engine",
            step=self.steps,
            time_s=self.now_s,
            limits=self.limits,
            running=tuple(self._request(request) for request in scheduler.running),
            waiting=tuple(self._request(request) for request in waiting),
            free_blocks=scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            preemptions=self.preemptions,
            # None of them has begun before the end of the latest step that is over.
            in_flight=tuple(
                replace(step, submit_s=max(step.submit_s, self.gpu_free_s)) for step in self.under_way
            ),
        )

    def _request(self, request: Any) -> RequestState:
        statuses = {"RUNNING": RequestStatus.RUNNING, "PREEMPTED": RequestStatus.PREEMPTED}
        return RequestState(
            id=request.request_id,
            status=statuses.get(request.status.name, RequestStatus.WAITING),
            arrival_s=request.arrival_time,
            prompt_tokens=request.num_prompt_tokens,
            max_tokens=request.max_tokens,
            computed_tokens=request.num_computed_tokens,
            generated_tokens=request.num_output_tokens,
            in_flight_tokens=request.num_in_flight_tokens,
            newest_tokens=self.newest.get(request.request_id, 0) if self.under_way else 0,
            output_placeholders=self._promised(request),
            cached_tokens=self.cached.get(request.request_id, 0),
            priority=request.priority,
        )

    def _promised(self, request: Any) -> int:
        """vLLM forgets what it promised to a request that it preempts; it is on its way all the same."""
        if request.status.name != "PREEMPTED":
            return int(request.num_output_placeholders)
        sampled = 0
        for _, tokens in self.engine.under_way:
            row = tokens.req_id_to_index.get(request.request_id)
            sampled += 0 if row is None else len(tokens.sampled_token_ids[row])
        return sampled

    def play(self, workload: list[tuple[Any, ...]]) -> None:
        """Apply a workload, then run until the engine is empty."""
        added: list[str] = []
        for action, *values in workload:
            if action == "add":
                added.append(self._add(*values))
            elif action == "abort":
                self.engine.abort(added[values[0] : values[0] + 1])
            else:
                for _ in range(values[0]):
                    self.turn()
        while self.turn():
            pass

    def _add(self, prompt_tokens: int, max_tokens: int, family: int, priority: int) -> str:
        request_id = f"request-{next(REQUEST_NUMBERS)}"
        sampling = SamplingParams(max_tokens=max_tokens)
        # Few families of prompts, so that prefixes repeat.
        prompt = [3 + family] * prompt_tokens
        self.engine.add(request_id, prompt, sampling, priority=priority, arrival_time=self.now_s)
        return request_id


def snapshot_mirror(witness: Witness) -> Mirror:
    mirror = Mirror()
    mirror.apply_bytes(msgspec.msgpack.encode(witness.feed.snapshot()))
    return mirror


PROPERTY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@PROPERTY
@given(workload=WORKLOAD)
def test_mirror_equals_the_engine_after_every_step(engine: VirtualEngine, workload: Any) -> None:
    witness = Witness(engine)
    mirror = snapshot_mirror(witness)

    def compare(frame: bytes | None) -> None:
        truth = witness.truth()
        if frame is None:
            truth = replace(truth, time_s=mirror.state().time_s)
        else:
            mirror.apply_bytes(frame)
        assert mirror.state() == truth

    witness.on_capture = compare
    witness.play(workload)
    kept = mirror.state().recent_steps
    assert [record.step for record in kept] == [record.step for record in witness.finished[-len(kept) :]]
    for seen, record in zip(kept, witness.finished[-len(kept) :], strict=True):
        assert seen.shape == record.shape
        assert seen.duration_s == pytest.approx(record.duration_s)


@PROPERTY
@given(workload=WORKLOAD, fates=st.lists(st.booleans(), min_size=1, max_size=30))
def test_mirror_recovers_from_lost_messages_by_a_snapshot(
    engine: VirtualEngine, workload: Any, fates: list[bool]
) -> None:
    witness = Witness(engine)
    mirror = snapshot_mirror(witness)
    lost = itertools.cycle(fates)

    def lose_or_compare(frame: bytes | None) -> None:
        if frame is None or next(lost):
            return
        try:
            mirror.apply_bytes(frame)
        except FeedError:
            mirror.apply_bytes(msgspec.msgpack.encode(witness.feed.snapshot()))
        assert mirror.state() == witness.truth()

    witness.on_capture = lose_or_compare
    witness.play(workload)


@pytest.mark.parametrize("variant", ["sync", "async"])
def test_a_what_if_foresees_when_vllm_gives_the_newcomers_first_token(variant: str) -> None:
    witness = Witness(VirtualEngine(VARIANTS[variant]), step_s=lambda _: 0.01)
    mirror = snapshot_mirror(witness)
    witness.on_capture = lambda frame: None if frame is None else mirror.apply_bytes(frame)
    witness._add(20, 60, 0, 0)
    for _ in range(9):
        witness.turn()
    asked_s = witness.now_s - 0.004  # while the step was under way that has ended since
    arrival = Arrival("new", asked_s, 30, 5, 5)
    foreseen, _ = WhatIf(mirror.columns(), STEPS_OF_10_MS).ask(Newcomer.certain(arrival))
    newcomer = witness.engine.scheduler.requests[witness._add(30, 5, 1, 0)]
    while newcomer.num_output_tokens == 0:
        witness.turn()
    assert foreseen.ttft_s == pytest.approx(witness.now_s - asked_s)


def test_the_workloads_reach_preemption_and_cache_hits() -> None:
    """Else the properties above would prove little."""
    witness = Witness(VirtualEngine(VARIANTS["async, prefix caching"]))
    witness.play([("add", 60, 40, family % 2, 0) for family in range(8)])
    assert witness.preemptions > 0
    assert any(tokens > 0 for tokens in witness.cached.values())
    assert len({record.shape.prefill_tokens > 0 for record in witness.finished}) == 2
