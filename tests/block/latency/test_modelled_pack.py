"""Packs from datasheets: marked as such, within their limits, and the roofline again when asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from block.config import load_config
from block.errors import ConfigError
from block.latency.dimensions import ModelDimensions
from block.latency.gpu_memory import MemoryUse, kv_cache_bytes
from block.latency.load import load_latency
from block.latency.modelled_pack import modelled_pack, shapes_within
from block.latency.oracle import StepOracle
from block.latency.pack import load_pack
from block.latency.roofline import Gpu, RooflineLatency
from block.types import BatchShape, EngineLimits

CONFIG = Path(__file__).parents[3] / "config"
LIMITS = EngineLimits(16, 0, 48, 512, 4096)


@pytest.fixture(scope="module")
def roofline() -> RooflineLatency:
    return RooflineLatency.load(CONFIG / "latency" / "roofline-a30-llama-2-7b.yaml")


def test_its_oracle_is_the_roofline_without_noise(roofline: RooflineLatency) -> None:
    pack = modelled_pack(roofline, LIMITS, "llama-2-7b", "2026-11-21")
    oracle = StepOracle(pack, seed=1)
    for shape in (BatchShape(0, 41, 16_000, 0, 41), BatchShape(300, 8, 9_000, 300 * 2000, 9)):
        for sample in (oracle.sample(shape), oracle.sample(shape)):
            assert sample.seconds == pytest.approx(roofline.seconds(shape), rel=0.01)
            assert sample.covered
    assert pack.header.source == "modelled"
    assert "not measured" in pack.header.notes


def test_shapes_keep_to_the_limits() -> None:
    limits = EngineLimits(16, 1060, 48, 512, 4096)
    shapes = list(shapes_within(limits))
    assert len(set(shapes)) == len(shapes)
    assert max(shape.tokens for shape in shapes) == 512
    assert max(shape.requests for shape in shapes) == 48
    assert max(shape.context_tokens for shape in shapes) == 1060 * 16
    assert max(shape.context_tokens for shape in shapes if shape.requests == 1) == 4096
    assert all(shape.prefill_context_products <= shape.prefill_tokens * 4096 for shape in shapes)
    assert all(shape.context_tokens >= shape.tokens for shape in shapes)


def batches(limits: EngineLimits, count: int, seed: int) -> Iterator[BatchShape]:
    """Random ones of all kinds and sizes, small ones as often as large ones, that the engine could run."""
    random, room = np.random.default_rng(seed), limits.total_blocks * limits.block_size
    while count:
        decodes = _log_uniform(random, limits.max_num_seqs) - 1
        prompts = random.choice([0, 1, 1, 2, 5])
        left = limits.max_num_batched_tokens - decodes
        lengths = [_log_uniform(random, limits.max_model_len) for _ in range(decodes + prompts)]
        wanted = [min(length, max(1, left // max(1, prompts))) for length in lengths[decodes:]]
        if random.random() < 0.3 and wanted:
            wanted[0] += max(0, min(lengths[decodes], left) - sum(wanted))
        scheduled = [(1, length) for length in lengths[:decodes]]
        scheduled += [
            (tokens, max(tokens, own)) for tokens, own in zip(wanted, lengths[decodes:], strict=True)
        ]
        shape = BatchShape.of(scheduled)
        fits = shape.context_tokens <= room and shape.tokens <= limits.max_num_batched_tokens
        if scheduled and fits and shape.requests <= limits.max_num_seqs:
            count -= 1
            yield shape


def _log_uniform(random: np.random.Generator, most: int) -> int:
    return int(np.exp(random.uniform(0.0, np.log(most + 1.0))))


@pytest.mark.parametrize("limits", [LIMITS, EngineLimits(16, 0, 256, 8192, 4096)], ids=["small", "large"])
def test_nothing_within_the_limits_is_unlike_its_steps(
    roofline: RooflineLatency, limits: EngineLimits
) -> None:
    pack = modelled_pack(roofline, limits, "llama-2-7b", "2026-11-29")
    oracle = StepOracle(pack, seed=1)
    alone = [BatchShape(0, 1, context, 0, 1) for context in range(1, 4097)]
    full = [BatchShape(512 - n, n, 512 + 90 * n, (512 - n) * 512, n + 1) for n in range(48)]
    for shape in (*alone, *full, *batches(pack.header.limits, 3000, seed=5)):
        answer = oracle.mean(shape)
        assert answer.covered, shape
        assert answer.seconds == pytest.approx(roofline.seconds(shape), rel=0.02), shape


MODELLED = ("a100-80-sxm-llama-2-7b", "a30-llama-2-7b", "h100-sxm-llama-2-7b")


@pytest.mark.parametrize("name", MODELLED)
def test_shipped_packs_are_small_modelled_and_usable(name: str) -> None:
    file = CONFIG / "packs" / f"{name}.npz"
    pack = load_pack(file)
    assert file.stat().st_size < 120_000
    assert pack.header.source == "modelled"
    latency = load_latency(file)
    means = np.array([latency.seconds(shape) for shape in pack.shapes()])
    assert np.median(np.abs(means / pack.duration_s - 1)) < 0.01


def test_what_is_not_recorded_is_modelled() -> None:
    packs = {path.stem: load_pack(path).header.source for path in (CONFIG / "packs").glob("*.npz")}
    assert {name for name, source in packs.items() if source == "modelled"} == set(MODELLED)
    assert all(name.startswith("cpu-") for name, source in packs.items() if source == "measured")


@pytest.mark.parametrize(("model", "blocks"), [("llama-2-7b", 1052), ("qwen2-7b", 7289)])
def test_the_cache_is_as_large_as_the_papers(model: str, blocks: int) -> None:
    dimensions = ModelDimensions.load(CONFIG / "models" / model / "config.json")
    room = kv_cache_bytes(load_config(CONFIG / "gpus" / "a30.yaml", Gpu), MemoryUse(dimensions, 48, 512))
    assert room / (16 * 2 * dimensions.kv_values_per_token) == pytest.approx(blocks, rel=0.1)


def test_a_model_that_does_not_fit_is_refused() -> None:
    dimensions = ModelDimensions(80, 8192, 64, 8, 128, 28672, 128256)
    gpu = load_config(CONFIG / "gpus" / "a30.yaml", Gpu)
    with pytest.raises(ConfigError, match=r"no room.*141\.\d GB"):
        kv_cache_bytes(gpu, MemoryUse(dimensions, 48, 512))
