"""Kernel tables of any model, on tiny ones made here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from operator_profiles import kernel_tables, product_ms

from block.errors import PackError
from block.latency.dimensions import ModelDimensions
from vidur_adapter.aiconfigurator import ContinuedPrompt, KernelTables, Product
from vidur_adapter.batch import StepBatch
from vidur_adapter.estimators import ESTIMATORS, estimator
from vidur_adapter.grid import Grid
from vidur_adapter.operator import Samples
from vidur_adapter.parquet_file import ParquetFile

MODEL = ModelDimensions.load(Path(__file__).parents[2] / "config/models/llama-3.1-8b/config.json")


@pytest.mark.parametrize("devices", [1, 2])
def test_products_are_those_of_the_model_spread_over_devices(tmp_path: Path, devices: int) -> None:
    model = KernelTables(kernel_tables(tmp_path), MODEL, devices).build("h100")
    parts = {name: seconds for name, seconds, _, _ in model.shares(StepBatch((), (1024.0,) * 64))}
    expected = 32e-3 * product_ms(64, 28672 / devices, 4096)
    assert parts["gate_up_proj"] == pytest.approx(expected, rel=1e-6)
    assert parts["attention"] == pytest.approx(32e-3 * (0.005 + 1e-6 * 64 * 1024))
    assert ("all_reduce" in parts) == (devices > 1)
    if devices > 1:
        assert parts["all_reduce"] == pytest.approx(64e-3 * (0.005 + 64 * 4096 * 1e-8))


def test_a_cache_of_half_the_bytes_is_read_from_its_own_rows(tmp_path: Path) -> None:
    system, batch = kernel_tables(tmp_path), StepBatch((), (1024.0,) * 64)
    whole, half = (
        KernelTables(system, MODEL, cache_precision=cache).attention().time([batch]).seconds[0]
        for cache in ("bfloat16", "fp8")
    )
    assert whole - half == pytest.approx(5e-10 * 64 * 1024)


def test_products_beyond_the_table_are_extrapolated_with_a_flag(tmp_path: Path) -> None:
    wide = replace(MODEL, intermediate=200_000)
    model = KernelTables(kernel_tables(tmp_path), wide).build("h100")
    timing = model.time([StepBatch((), (1024.0,) * 64)])
    assert np.isfinite(timing.seconds).all()
    assert not timing.covered.any()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_can_be_chosen_for_kernel_tables(tmp_path: Path, name: str) -> None:
    model = KernelTables(kernel_tables(tmp_path), MODEL, make=estimator(name)).build("h100")
    kinds = {type(part.operator.by_tokens) for part in model.parts if isinstance(part.operator, Product)}
    assert {kind.__name__.lower() for kind in kinds} == {name}
    assert model.time([StepBatch(((64.0, 0.0),), (1024.0,) * 8)]).seconds[0] > 0


def test_what_the_tables_lack_is_marked_as_assumed(tmp_path: Path) -> None:
    model = KernelTables(kernel_tables(tmp_path), MODEL).build("h100")
    origins = {name: origin for name, _, origin, _ in model.shares(StepBatch((), (1024.0,)))}
    assert {name for name, origin in origins.items() if origin == "assumed"} == {
        *("norms", "rotary", "activation", "lm_head", "engine"),
    }


def test_what_datasheets_say_of_a_step_is_told_batch_by_batch(tmp_path: Path) -> None:
    model = KernelTables(kernel_tables(tmp_path), MODEL).build("h100")
    batch = StepBatch((), (1024.0,) * 64)
    assumed = sum(seconds for _, seconds, origin, _ in model.shares(batch) if origin == "assumed")
    timing = model.time([batch])
    assert timing.covered[0]  # no measurement was left behind
    assert timing.assumed_s[0] == pytest.approx(assumed)
    assert 0 < timing.assumed_s[0] < timing.seconds[0] / 2


def test_devices_and_precisions_without_tables_are_refused_by_name(tmp_path: Path) -> None:
    system = kernel_tables(tmp_path)
    with pytest.raises(PackError, match="num_gpus = 4: not measured; has 2"):
        KernelTables(system, MODEL, 4).build("h100")
    with pytest.raises(PackError, match="gemm_dtype = int4: not measured; has bfloat16, fp8"):
        KernelTables(system, MODEL, precision="int4").build("h100")
    with pytest.raises(PackError, match=r"no tables of vLLM 9.9; has vllm-0.14.0"):
        KernelTables(system, MODEL, version="9.9").build("h100")


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    system = kernel_tables(tmp_path)
    (system / "vllm-0.14.0" / "gemm_perf.parquet").write_text("hello")
    with pytest.raises(PackError, match=r"gemm_perf\.parquet: not a Parquet file"):
        KernelTables(system, MODEL).build("h100")


def test_a_parquet_file_that_was_cut_short_is_named(tmp_path: Path) -> None:
    system = kernel_tables(tmp_path)
    path = system / "vllm-0.14.0" / "gemm_perf.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PackError, match=r"gemm_perf\.parquet: "):
        KernelTables(system, MODEL).build("h100")


def test_a_column_that_a_parquet_file_lacks_or_that_holds_words_is_named(tmp_path: Path) -> None:
    path = kernel_tables(tmp_path) / "vllm-0.14.0" / "gemm_perf.parquet"
    with pytest.raises(PackError, match="no column speed; has m"):
        ParquetFile.load(path, {}, ("m", "speed")).numbers("speed")
    with pytest.raises(PackError, match=r"column gemm_dtype: .* must be numbers"):
        ParquetFile.load(path, {}, ("gemm_dtype",)).numbers("gemm_dtype")


def test_a_continued_prompt_costs_what_the_whole_costs_beyond_its_beginning() -> None:
    lengths = np.arange(0, 4097, 64.0)[1:]
    whole = Grid(Samples("prefill", ("prompt",), lengths[:, None], 1e-3 + 1e-9 * lengths**2))
    timing = ContinuedPrompt(whole).time(np.array([[512.0, 0.0], [512.0, 1024.0], [64.0, 4096.0]]))
    assert timing.seconds[0] == pytest.approx(1e-3 + 1e-9 * 512**2)
    assert timing.seconds[1] == pytest.approx(max(1e-9 * (1536**2 - 1024**2), timing.seconds[0]))
    assert timing.covered.tolist() == [True, True, False]
