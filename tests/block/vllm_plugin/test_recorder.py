"""Recording executors: what is written down is what the device took, each time with its own batch.

The emulated executor stands in for a device whose step times are known; vLLM's own schedulers, with and
without overlap, feed it. Recording a real forward pass is tested in ``test_record_and_serve``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_config import engine_config
from vllm import SamplingParams
from vllm.v1.kv_cache_interface import KVCacheConfig

from block.errors import ConfigError, PackError
from block.latency.journal import pack_from_journal
from block.latency.table import TableLatency
from block.vllm_plugin.pack_header import model_dimensions
from block.vllm_plugin.recorder import RecordingEmulatedExecutor
from exp.virtual_engine import VirtualEngine, VirtualEngineSpec

SYNC = "vllm.v1.core.sched.scheduler.Scheduler"
ASYNC = "vllm.v1.core.sched.async_scheduler.AsyncScheduler"
TABLE = """
kind: table
source: a device whose prompts are much dearer than its decodes
tokens_ms: {1: 4.0, 8: 4.5, 16: 12.0, 64: 30.0}
"""
LIMITS = {"max_num_batched_tokens": 64, "max_num_seqs": 16, "num_gpu_blocks_override": 200}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "device.yaml"
    path.write_text(TABLE)
    return path


def recording(model: Path, table: Path, journal: Path, scheduler: str) -> RecordingEmulatedExecutor:
    settings = {"emulation": {"latency": str(table)}, "record": {"journal": str(journal), "notes": "a test"}}
    config = engine_config(model, None, scheduler_cls=scheduler, **LIMITS)
    config.additional_config["block"] = settings
    executor = RecordingEmulatedExecutor(config)
    executor.initialize_from_config([KVCacheConfig(num_blocks=200, kv_cache_tensors=[], kv_cache_groups=[])])
    return executor


def serve(executor: Any, engine: VirtualEngine, overlap: bool, later: Iterator[Any] | None = None) -> int:
    """Run to the end as vLLM's engine core does, a request of ``later`` joining at every third step.

    Returns how many steps came back.
    """
    scheduler, queue, steps = engine.scheduler, deque[tuple[Any, Any]](), 0
    while scheduler.has_requests() or queue:
        if scheduler.has_requests() and len(queue) < 2:
            output = scheduler.schedule()
            future = executor.execute_model(output, non_block=True)
            if output.total_num_scheduled_tokens and overlap:
                future = executor.sample_tokens(None, non_block=True)
            queue.append((output, future))
            if overlap and len(queue) < 2 and output.total_num_scheduled_tokens:
                continue
        output, future = queue.popleft()
        tokens = future.result()
        if tokens is None:
            tokens = executor.sample_tokens(None)
        scheduler.update_from_output(output, tokens)
        steps += bool(output.total_num_scheduled_tokens)
        if steps % 3 == 0:
            next(later or iter(()), None)
    return steps


def requests(engine: VirtualEngine, asked: list[Any]) -> Iterator[Any]:
    """Prompts of one step, two and three."""
    for number in range(10):
        prompt = [5 + number] * (40 + 60 * (number % 3))
        asked.append(engine.add(f"r{number}", prompt, SamplingParams(max_tokens=10 + number)))
        yield asked[-1]


@pytest.mark.parametrize(("scheduler", "overlap"), [(SYNC, False), (ASYNC, True)])
def test_each_duration_stands_with_its_own_batch(
    llama_model: Path, table: Path, tmp_path: Path, scheduler: str, overlap: bool
) -> None:
    journal = tmp_path / "engine.journal"
    executor = recording(llama_model, table, journal, scheduler)
    engine = VirtualEngine(
        VirtualEngineSpec(scheduler, asynchronous=overlap, max_num_batched_tokens=64, max_num_seqs=16)
    )
    asked: list[Any] = []
    later = requests(engine, asked)
    next(later)
    steps = serve(executor, engine, overlap, later)
    executor.shutdown()
    assert [request.num_output_tokens for request in asked] == [10 + number for number in range(10)]
    pack = pack_from_journal(journal)
    truth = np.array([TableLatency.load(table).seconds(shape) for shape in pack.shapes()])
    assert len(pack) == steps >= 30
    # Single steps may be late on a busy machine; the medians judge whose time is written where.
    late = np.abs(pack.duration_s - truth)
    prompts = pack.prefill_tokens > 0
    assert np.median(truth[prompts]) > np.median(truth[~prompts]) + 0.01, "a shift by one step would show"
    assert np.count_nonzero(np.diff(prompts)) >= 8
    assert np.median(late[prompts]) < 0.005
    assert np.median(late[~prompts]) < 0.005
    assert pack.prefill_tokens.sum() == sum(request.num_prompt_tokens for request in asked)
    assert (np.diff(pack.ready_s) > 0).all()
    assert pack.header.async_scheduling is overlap
    told = pack.host_s[np.isfinite(pack.host_s)]
    assert len(told) > len(pack) / 2
    assert np.isnan(pack.host_s[0])
    assert np.median(told) < 0.01


def test_the_header_says_what_was_recorded(llama_model: Path, table: Path, tmp_path: Path) -> None:
    executor = recording(llama_model, table, tmp_path / "j", SYNC)
    engine = VirtualEngine(VirtualEngineSpec(max_num_batched_tokens=64))
    engine.add("a", [5] * 8, SamplingParams(max_tokens=2))
    serve(executor, engine, overlap=False)
    header = pack_from_journal(tmp_path / "j").header
    assert header.model == model_dimensions(executor.model_config)
    assert (header.kv_blocks, header.limits.block_size, header.limits.max_num_seqs) == (200, 16, 16)
    assert (header.executor, header.notes, header.source) == ("EmulatedExecutor", "a test", "measured")
    assert header.vllm_version.startswith("0.32")
    executor.shutdown()


def test_another_engine_does_not_go_on_with_a_journal(llama_model: Path, table: Path, tmp_path: Path) -> None:
    recording(llama_model, table, tmp_path / "j", SYNC).shutdown()
    with pytest.raises(PackError, match="another engine"):
        recording(llama_model, table, tmp_path / "j", ASYNC)


def test_without_a_journal_it_does_not_start(llama_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"block\.record: missing"):
        RecordingEmulatedExecutor(engine_config(llama_model))


def test_a_full_disk_ends_the_recording_and_not_the_engine(
    llama_model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = recording(llama_model, table, tmp_path / "j", SYNC)
    engine = VirtualEngine(VirtualEngineSpec(max_num_batched_tokens=64))
    request = engine.add("a", [5] * 8, SamplingParams(max_tokens=6))

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(executor._journal, "append", full)
    serve(executor, engine, overlap=False)
    assert request.num_output_tokens == 6
    executor.shutdown()
