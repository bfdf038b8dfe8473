"""Virtual time: deterministic, and through vLLM's scheduler the same as through the compiled simulation."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from block.latency.base import KernelLatency
from block.types import BatchShape, EngineLimits
from exp.host_overheads import HostOverheads
from exp.load import Load
from exp.run_log import RunLog
from exp.serving_metrics import ServingMetrics
from exp.virtual_clock import VirtualClock
from exp.workload import TraceRequest, Workload

HOST = HostOverheads(0.004, 2e-6, 0.002, 0.001, 1e-4, 3e-4, 2e-5)
MEAN = KernelLatency((0.0, 16.0, 256.0), (0.014, 0.018, 0.16), 1e-7, 1e-9, 1e-5)


def limits(*, asynchronous: bool = False, blocks: int = 128) -> EngineLimits:
    return EngineLimits(
        block_size=32,
        total_blocks=blocks,
        max_num_seqs=16,
        max_num_batched_tokens=256,
        max_model_len=1024,
        async_scheduling=asynchronous,
    )


def workload(mix: str = "sharegpt", rate_per_s: float = 5.0) -> Load:
    return Load(mix, rate_per_s, 8.0, seed=5)


def virtual(clock: VirtualClock, load: Load, seed: int | None = None) -> RunLog:
    draw = None if seed is None else random.Random(seed)

    def seconds(shape: BatchShape) -> float:
        return MEAN.seconds(shape) * (1.0 if draw is None else draw.uniform(0.8, 1.2))

    return clock.run(load.workload(1024, Path("nowhere")), seconds)


def test_the_same_seed_gives_the_same_run_and_another_one_does_not() -> None:
    clock = VirtualClock(limits(), HOST)
    first, again, other = (virtual(clock, workload(), seed).requests for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("mix", "blocks"), [("sharegpt", 128), ("deep", 40)])
def test_vllms_scheduler_and_the_simulation_see_the_same_tokens(
    asynchronous: bool, mix: str, blocks: int
) -> None:
    engine = limits(asynchronous=asynchronous, blocks=blocks)
    # The engine's own time is a pause in one and part of a step in the other.
    clock = VirtualClock(engine, HostOverheads(0.004, 2e-6, 0.002, 0.001, 1e-4))
    load = workload(mix)
    ours, theirs = clock.run_fast(load.workload(1024, Path("nowhere")), MEAN), virtual(clock, load)
    for mine, vllms in zip(ours.requests, theirs.requests, strict=True):
        assert len(mine.token_s) == mine.output_tokens
        assert mine.token_s == pytest.approx(vllms.token_s, abs=1e-9)
    assert ours.header.preemptions == theirs.header.preemptions
    assert (ours.header.preemptions > 0) == (blocks == 40)
    assert ours.header.kv_use_max == theirs.header.kv_use_max > 0


def test_the_engines_own_time_makes_synchronous_steps_longer_and_hides_behind_asynchronous_ones() -> None:
    tpot_s = {}
    for asynchronous in (False, True):
        for host in (HostOverheads(), HostOverheads(engine_s=0.005)):
            clock = VirtualClock(limits(asynchronous=asynchronous), host)
            run = virtual(clock, workload("short", 1.0))
            tpot_s[asynchronous, host.engine_s > 0] = ServingMetrics.of(run).tpot_s.mean
    assert tpot_s[False, True] - tpot_s[False, False] == pytest.approx(0.005, rel=0.1)
    assert tpot_s[True, True] == pytest.approx(tpot_s[True, False], rel=0.01)


def test_the_fast_way_takes_the_engines_own_time_into_its_steps() -> None:
    clock, load = VirtualClock(limits(), HOST), workload()
    fast = ServingMetrics.of(clock.run_fast(load.workload(1024, Path("nowhere")), MEAN))
    slow = ServingMetrics.of(virtual(clock, load))
    assert fast.e2e_s.mean == pytest.approx(slow.e2e_s.mean, rel=0.01)
    assert fast.tpot_s.mean == pytest.approx(slow.tpot_s.mean, rel=0.01)


def test_requests_of_a_burst_come_in_one_after_the_other() -> None:
    clock = VirtualClock(limits(), HostOverheads(way_in_s=0.004))
    times = ((0.5, 0.504), (0.5, 0.506), (0.5, 0.508), (0.503, 0.510), (0.6, 0.604))
    burst = Workload("burst", tuple(TraceRequest(sent_s, 10, 2) for sent_s, _ in times))
    arrivals = clock._arrivals(burst)
    assert [each.id for each in arrivals] == ["0", "1", "2", "3", "4"]
    assert [each.arrival_s for each in arrivals] == pytest.approx([in_s for _, in_s in times])


def test_the_way_in_and_out_shift_every_token() -> None:
    load = workload("short", 0.5)
    bare = virtual(VirtualClock(limits(), HostOverheads()), load)
    late = virtual(VirtualClock(limits(), HostOverheads(way_in_s=0.1, first_out_s=0.2, way_out_s=0.3)), load)
    for before, after in zip(bare.requests, late.requests, strict=True):
        assert after.token_s[0] - before.token_s[0] == pytest.approx(0.3, abs=0.05)
        assert after.token_s[-1] - before.token_s[-1] == pytest.approx(0.4, abs=0.05)
