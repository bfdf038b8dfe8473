"""The executor as vLLM's engine core calls it; whole servers are tested in ``test_engine_server``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from emulated_config import EMULATION, engine_config
from engine_server import LATENCY
from packs import HEADER, traffic_pack
from transformers import AutoTokenizer
from vllm import SamplingParams
from vllm.v1.core.sched.output import SchedulerOutput

from block.errors import ConfigError, PackError
from block.latency.oracle import StepOracle
from block.latency.pack import load_pack, save_pack
from block.latency.table import TableLatency
from block.types import BatchShape
from block.vllm_plugin import step_times
from block.vllm_plugin.emulated_executor import EmulatedExecutor
from block.vllm_plugin.settings import EmulationSettings
from block.vllm_plugin.step_times import load_step_times
from exp.virtual_engine import VirtualEngine, VirtualEngineSpec


@pytest.fixture(scope="module")
def executor(llama_model: Path) -> Iterator[EmulatedExecutor]:
    made = EmulatedExecutor(engine_config(llama_model, num_gpu_blocks_override=100))
    yield made
    made.shutdown()


@pytest.fixture
def engine() -> VirtualEngine:
    return VirtualEngine(VirtualEngineSpec(max_num_batched_tokens=64))


def test_a_step_takes_as_long_as_the_table_says(executor: EmulatedExecutor, engine: VirtualEngine) -> None:
    engine.add("a", [5] * 64, SamplingParams(max_tokens=3))
    output = engine.scheduler.schedule()
    started_s = time.monotonic()
    assert executor.execute_model(output, non_block=True).result() is None
    future = executor.sample_tokens(None, non_block=True)
    assert not future.done(), "a resolved future would break asynchronous scheduling"
    tokens = future.result(timeout=5)
    expected_s = TableLatency.load(LATENCY).seconds(BatchShape(64, 0, 64, 64 * 64, 1))
    assert time.monotonic() - started_s == pytest.approx(expected_s, abs=0.02)
    assert [len(sampled) for sampled in tokens.sampled_token_ids] == [1]


def test_without_overlap_the_caller_waits_itself(executor: EmulatedExecutor, engine: VirtualEngine) -> None:
    engine.add("b", [5] * 64, SamplingParams(max_tokens=3))
    assert executor.execute_model(engine.scheduler.schedule()) is None
    started_s = time.monotonic()
    tokens = executor.sample_tokens(None)
    assert time.monotonic() - started_s > 0.01
    assert tokens.req_ids == ["b"]


def test_a_batch_without_tokens_takes_no_time(executor: EmulatedExecutor) -> None:
    output = executor.execute_model(SchedulerOutput.make_empty(), non_block=True).result(timeout=0)
    assert output.req_ids == []


def test_the_vocabulary_is_the_tokenizers_words(executor: EmulatedExecutor, llama_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama_model)
    vocabulary = executor._model._vocabulary
    assert vocabulary.eos == tokenizer.eos_token_id
    assert not {*tokenizer.all_special_ids} & {*vocabulary.ordinary}
    assert tokenizer.decode(vocabulary.ordinary[:200]).isprintable()


def test_the_cache_has_the_models_dimensions(executor: EmulatedExecutor) -> None:
    (layers,) = executor.get_kv_cache_specs()
    bytes_per_block = 2 * 32 * 128 * 2 * 16
    assert len(layers) == 32
    assert executor.determine_available_memory() == [100 * 32 * bytes_per_block]


def test_tensor_parallelism_only_divides_the_heads(llama_model: Path) -> None:
    executor = EmulatedExecutor(
        engine_config(llama_model, {**EMULATION, "kv_blocks": 70}, tensor_parallel_size=2)
    )
    (layers,) = executor.get_kv_cache_specs()
    assert {spec.num_kv_heads for spec in layers.values()} == {16}
    assert executor.determine_available_memory() == [70 * 32 * 2 * 16 * 128 * 2 * 16]
    executor.shutdown()


def test_the_size_of_the_cache_must_be_given(llama_model: Path) -> None:
    executor = EmulatedExecutor(engine_config(llama_model))
    with pytest.raises(ConfigError, match=r"num-gpu-blocks-override,.*kv_blocks.*gpu"):
        executor.determine_available_memory()
    executor.shutdown()


@pytest.mark.parametrize(
    ("emulation", "named"),
    [
        (None, "block.emulation: missing"),
        ({}, "emulation.latency: missing"),
        ({"latency": "nowhere.yaml"}, "nowhere.yaml"),
        ({**EMULATION, "sede": 1}, "sede: unknown setting"),
        ({**EMULATION, "seed": -1}, "emulation.seed"),
        ({**EMULATION, "output_lengths": [[0.5, 9], [0.4, 8]]}, "emulation.output_lengths.*must rise"),
        ({**EMULATION, "allow": ["model"]}, r"emulation\.allow: .*\.yaml is no pack"),
    ],
)
def test_bad_settings_are_named(llama_model: Path, emulation: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        EmulatedExecutor(engine_config(llama_model, emulation))


PACK = LATENCY.parent.parent / "packs" / "a30-llama-2-7b.npz"


def test_a_packs_steps_are_sampled_and_its_cache_is_taken(llama_model: Path, engine: VirtualEngine) -> None:
    executor = EmulatedExecutor(engine_config(llama_model, {"latency": str(PACK)}))
    pack = load_pack(PACK)
    (layers,) = executor.get_kv_cache_specs()
    blocks = executor.determine_available_memory()[0] // sum(s.page_size_bytes for s in layers.values())
    assert blocks == pack.header.kv_blocks
    engine.add("p", [5] * 64, SamplingParams(max_tokens=3))
    started_s = time.monotonic()
    executor.execute_model(engine.scheduler.schedule(), non_block=True)
    assert len(executor.sample_tokens(None).sampled_token_ids[0]) == 1
    took_s = time.monotonic() - started_s
    expected_s = StepOracle(pack, 0).mean(BatchShape(64, 0, 64, 64 * 64, 1)).seconds
    assert took_s == pytest.approx(expected_s, rel=0.05, abs=0.01)
    executor.shutdown()


SHAPE = BatchShape(64, 0, 64, 64 * 64, 1)


def twenty(model: Path, **settings: Any) -> list[float]:
    times = load_step_times(EmulationSettings(latency=PACK, **settings), engine_config(model))
    return [times.seconds(SHAPE) for _ in range(20)]


def test_steady_steps_take_the_mean_every_time(llama_model: Path) -> None:
    assert set(twenty(llama_model, steady=True)) == {StepOracle(load_pack(PACK), 0).mean(SHAPE).seconds}
    assert len(set(twenty(llama_model))) > 1


def test_engines_are_slow_together_only_when_asked(llama_model: Path) -> None:
    assert twenty(llama_model) != twenty(llama_model)
    assert twenty(llama_model, seed=3) == twenty(llama_model, seed=3) != twenty(llama_model, seed=0)


def test_steps_follow_one_another_as_on_the_host_that_was_recorded(
    llama_model: Path, engine: VirtualEngine, tmp_path: Path
) -> None:
    pack, ends_s = traffic_pack(duration_s=60, host_s=0.006, header=replace(HEADER, model=None)), []
    save_pack(tmp_path / "slow-host.npz", pack)
    emulation = {"latency": str(tmp_path / "slow-host.npz"), "steady": True}
    executor = EmulatedExecutor(engine_config(llama_model, emulation, num_gpu_blocks_override=100))
    engine.add("c", [5] * 64, SamplingParams(max_tokens=16))
    while engine.scheduler.has_requests():
        output = engine.scheduler.schedule()
        tokens = executor.execute_model(output) or executor.sample_tokens(None)
        if output.total_num_scheduled_tokens:
            ends_s.append(time.monotonic())
        engine.scheduler.update_from_output(output, tokens)
    executor.shutdown()
    oracle, decodes = StepOracle(pack, 0), [BatchShape(0, 1, 65 + n, 0, 1) for n in range(15)]
    cadence_s = sum(oracle.mean(shape).seconds + 0.006 for shape in decodes)
    assert ends_s[-1] - ends_s[0] == pytest.approx(cadence_s, rel=0.02)


@pytest.mark.parametrize("overlap", [False, True])
def test_what_hides_behind_the_steps_is_not_waited_for(
    llama_model: Path, tmp_path: Path, overlap: bool
) -> None:
    limits = replace(HEADER.limits, async_scheduling=overlap)
    pack = traffic_pack(duration_s=60, host_s=0.006, header=replace(HEADER, model=None, limits=limits))
    save_pack(tmp_path / "p.npz", pack)
    times = load_step_times(EmulationSettings(latency=tmp_path / "p.npz"), engine_config(llama_model))
    host_s = times.host_seconds(BatchShape(0, 1, 65, 0, 1))
    assert host_s == (None if overlap else pytest.approx(0.006, rel=0.02))


def test_another_models_pack_is_refused_at_start(tiny_model: Path) -> None:
    named = r"a30-llama-2-7b\.npz: .* another engine: model \(layers recorded 32, here 4, hidden"
    with pytest.raises(PackError, match=named):
        EmulatedExecutor(engine_config(tiny_model, {"latency": str(PACK)}))
    accepted = {"latency": str(PACK), "allow": ["model"]}
    EmulatedExecutor(engine_config(tiny_model, accepted)).shutdown()


def test_a_pack_of_another_parallel_size_is_refused(llama_model: Path) -> None:
    with pytest.raises(PackError, match="tensor_parallel"):
        EmulatedExecutor(engine_config(llama_model, {"latency": str(PACK)}, tensor_parallel_size=2))


def test_a_damaged_pack_is_refused_at_start(llama_model: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(PACK.read_bytes()[:-9])
    with pytest.raises(PackError, match="cut short"):
        EmulatedExecutor(engine_config(llama_model, {"latency": str(tmp_path / "cut.npz")}))


@pytest.mark.parametrize(
    "emulation",
    [
        {"latency": str(LATENCY.parent / "roofline-a30-llama-2-7b.yaml")},
        {**EMULATION, "gpu": str(LATENCY.parent.parent / "gpus" / "a30.yaml")},
    ],
)
def test_a_gpu_gives_the_size_of_the_cache(llama_model: Path, emulation: Any) -> None:
    flags = {"max_num_seqs": 48, "max_num_batched_tokens": 512, "gpu_memory_utilization": 0.9}
    executor = EmulatedExecutor(engine_config(llama_model, emulation, **flags))
    (layers,) = executor.get_kv_cache_specs()
    blocks = executor.determine_available_memory()[0] // sum(s.page_size_bytes for s in layers.values())
    # The paper's engines have 1052.
    assert blocks == pytest.approx(1052, rel=0.1)
    executor.shutdown()


@pytest.mark.parametrize(
    ("scheduler", "overlap"),
    [
        ("vllm.v1.core.sched.async_scheduler.AsyncScheduler", True),
        ("block.vllm_plugin.scheduler.AsyncFeedScheduler", True),
        ("block.vllm_plugin.scheduler.FeedScheduler", False),
    ],
)
def test_an_asynchronous_scheduler_overlaps_with_the_emulated_gpu(
    llama_model: Path, scheduler: str, overlap: bool
) -> None:
    config = engine_config(llama_model, scheduler_cls=scheduler)
    EmulatedExecutor(config).shutdown()
    assert config.max_concurrent_batches == (2 if overlap else 1)


@pytest.mark.parametrize("scheduler", ["scheduler.Scheduler", "async_scheduler.AsyncScheduler"])
def test_a_pack_is_judged_by_the_overlap_that_the_engine_will_have(
    llama_model: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(step_times.logger, "warning", lambda text, *values: said.append(text % values))
    config = engine_config(
        llama_model, {"latency": str(PACK)}, scheduler_cls=f"vllm.v1.core.sched.{scheduler}"
    )
    EmulatedExecutor(config).shutdown()
    # The pack is of an engine with overlap.
    assert any("async_scheduling" in each for each in said) is (scheduler == "scheduler.Scheduler")
