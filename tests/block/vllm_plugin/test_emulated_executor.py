"""The executor as vLLM's engine core calls it; whole servers are tested in ``test_engine_server``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_server import LATENCY
from transformers import AutoTokenizer
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.core.sched.output import SchedulerOutput

from block.errors import ConfigError
from block.latency.table import TableLatency
from block.types import BatchShape
from block.vllm_plugin.emulated_executor import EmulatedExecutor
from exp.virtual_engine import VirtualEngine, VirtualEngineSpec

BACKEND = "block.vllm_plugin.emulated_executor.EmulatedExecutor"
EMULATION = {"latency": str(LATENCY)}


def engine_config(model: Path, emulation: dict[str, Any] | None = EMULATION, **flags: Any) -> Any:
    block = {} if emulation is None else {"emulation": emulation}
    return EngineArgs(
        model=str(model),
        load_format="dummy",
        distributed_executor_backend=BACKEND,
        additional_config={"block": block},
        block_size=16,
        max_model_len=1024,
        **flags,
    ).create_engine_config()


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
    with pytest.raises(ConfigError, match=r"num-gpu-blocks-override,.*kv_blocks"):
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
    ],
)
def test_bad_settings_are_named(llama_model: Path, emulation: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        EmulatedExecutor(engine_config(llama_model, emulation))


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
