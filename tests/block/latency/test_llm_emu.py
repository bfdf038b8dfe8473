"""LLM-Emu's packs become ours, without pretending to know what they do not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from block.errors import PackError
from block.latency.dimensions import ModelDimensions
from block.latency.llm_emu import import_llm_emu
from block.latency.oracle import StepOracle
from block.types import BatchShape


def profile() -> dict[str, Any]:
    """As its files are laid out: microseconds by total tokens and the middle of a bucket of requests."""
    decodes = [
        {"tt": n, "conc": n // 5 * 5 + 2, "num_samples": 8, "samples": [30_000.0 + 100 * n] * 8}
        for n in range(1, 60)
    ]
    prompts = [
        {"tt": n, "conc": 7, "num_samples": 4, "samples": [30_000.0 + 150 * n] * 4}
        for n in range(20, 2049, 7)
    ]
    return {
        "version": "2.0",
        "gpu_model": "A40",
        "model_name": "some/model-8B",
        "profile_type": "serving_step_cycle_2d",
        "bucketing": {"tt_bucket_width": 1, "conc_bucket_width": 5},
        "decode_2d_distribution": decodes,
        "prefill_2d_distribution": prompts,
        "model_config": {
            "num_hidden_layers": 36,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 151936,
            "intermediate_size": 12288,
            "head_dim": 128,
            "max_model_len": 4096,
            "block_size": 16,
            "gpu": {"gpu_name": "NVIDIA A40", "gpu_count": 1},
        },
    }


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "profile.json"
    path.write_text(json.dumps({**profile(), **changes}))
    return path


def test_every_sample_is_a_step(tmp_path: Path) -> None:
    pack = import_llm_emu(write(tmp_path))
    header = pack.header
    assert len(pack) == 59 * 8 + 290 * 4
    assert header.model == ModelDimensions(36, 4096, 32, 8, 128, 12288, 151936)
    assert (header.device, header.model_name, header.kv_blocks) == ("NVIDIA A40", "some/model-8B", 0)
    assert (header.limits.max_num_batched_tokens, header.limits.block_size) == (2043, 16)
    assert header.source == "measured"
    first, *_, last = pack.shapes()
    assert (first, last) == (BatchShape(0, 1, 0, 0, 1), BatchShape(2037, 6, 0, 0, 7))


def test_the_oracle_gives_the_times_back_and_knows_no_context(tmp_path: Path) -> None:
    oracle = StepOracle(import_llm_emu(write(tmp_path)), seed=1)
    assert oracle.kernel.per_context_token_s == 0
    known, deep = oracle.mean(BatchShape(0, 30, 0, 0, 30)), oracle.mean(BatchShape(0, 30, 20_000, 0, 30))
    assert known.seconds == pytest.approx(0.033, rel=0.02)
    assert deep.seconds == pytest.approx(0.033, rel=0.02)
    assert (known.covered, deep.covered) == (True, False)
    assert oracle.memory.share == 0, "samples have no order"


def test_an_older_pack_that_mixes_both_kinds_is_told_apart_by_size(tmp_path: Path) -> None:
    mixed = profile()["decode_2d_distribution"] + profile()["prefill_2d_distribution"][40:]
    path = write(
        tmp_path, decode_2d_distribution=[], prefill_2d_distribution=[], step_cycle_2d_distribution=mixed
    )
    pack = import_llm_emu(path)
    assert (pack.prefill_tokens > 0).sum() == 250 * 4


def test_later_chunks_of_a_prompt_are_told_from_decodes(tmp_path: Path) -> None:
    cells = [
        {"tt": 512, "conc": 7, "num_samples": 1, "samples": [60_000.0]},
        {"tt": 9, "conc": 7, "num_samples": 1, "samples": [30_000.0]},
        {"tt": 10, "conc": 7, "num_samples": 1, "samples": [31_000.0]},
    ]
    shapes = list(import_llm_emu(write(tmp_path, decode_2d_distribution=cells)).shapes())[:3]
    # Buckets of five: up to nine requests lie in the one of seven.
    assert shapes == [BatchShape(506, 6, 0, 0, 7), BatchShape(0, 9, 0, 0, 9), BatchShape(4, 6, 0, 0, 7)]


def test_the_files_own_bucket_widths_count(tmp_path: Path) -> None:
    cells = [{"tt": 25, "conc": 10, "num_samples": 1, "samples": [30_000.0]}]
    for width, tokens_width, decodes in ((5, 1, 9), (20, 1, 9), (32, 1, 25), (20, 21, 25)):
        buckets = {"tt_bucket_width": tokens_width, "conc_bucket_width": width}
        path = write(tmp_path, decode_2d_distribution=cells, bucketing=buckets)
        assert next(import_llm_emu(path).shapes()).decode_tokens == decodes


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": "1.0"}, "version = '1.0': only '2.0'"),
        ({"decode_2d_distribution": 3}, "decode_2d_distribution"),
        ({"decode_2d_distribution": [{"tt": 1}]}, r"decode_2d_distribution\[0\]|conc"),
        ({"decode_2d_distribution": [], "prefill_2d_distribution": []}, "no samples"),
        ({"decode_2d_distribution": [{"tt": 10**30, "conc": 2, "samples": [1.0]}]}, "more than any step"),
        ({"decode_2d_distribution": [{"tt": 1, "conc": 2, "samples": [1e300]}]}, "more than any step"),
        ({"bucketing": {"conc_bucket_width": 0}}, "conc_bucket_width"),
        ({"model_config": {"block_size": -16}}, "block_size"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(PackError, match=named):
        import_llm_emu(write(tmp_path, **changes))


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("kind: table")
    with pytest.raises(PackError, match="no LLM-Emu pack"):
        import_llm_emu(tmp_path / "x.json")
    for text in (b'{"version": "2.0", "gpu_model": "\xff"}', b'{"version": "2.0", "x": ' + b"[" * 100_000):
        (tmp_path / "x.json").write_bytes(text)
        with pytest.raises(PackError, match="no LLM-Emu pack"):
            import_llm_emu(tmp_path / "x.json")
    with pytest.raises(PackError, match="cannot be read"):
        import_llm_emu(tmp_path / "y.json")


def test_what_is_not_told_is_not_made_up(tmp_path: Path) -> None:
    header = import_llm_emu(write(tmp_path, model_config={})).header
    assert (header.model, header.block_size, header.limits.max_model_len) == (None, 0, 0)
