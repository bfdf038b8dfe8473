"""The packs in ``config/packs`` that were recorded here; modelled ones are tested beside the roofline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from block.latency.dimensions import ModelDimensions
from block.latency.oracle import StepOracle
from block.latency.pack import load_pack
from exp.host_overheads import HostOverheads
from exp.load import Load
from exp.pack_report import PackReport
from exp.serving_metrics import ServingMetrics
from exp.virtual_clock import VirtualClock

CONFIG = Path(__file__).resolve().parents[2] / "config"
RECORDED = sorted((CONFIG / "packs").glob("cpu-*.npz"))


def test_there_is_one() -> None:
    assert "cpu-deep-llama" in [file.stem for file in RECORDED]


@pytest.mark.parametrize("file", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_pack_says_so_and_covers_all_kinds_of_batches(file: Path) -> None:
    pack = load_pack(file)
    header = pack.header
    assert file.stat().st_size < 200_000
    assert (header.source, header.vllm_version, header.executor) == ("measured", "0.32.0", "UniProcExecutor")
    assert header.device.startswith("cpu (")
    model = file.stem.removeprefix("cpu-")
    assert header.model == ModelDimensions.load(CONFIG / "models" / model / "config.json")
    assert pack.requests.max() == header.limits.max_num_seqs
    assert (pack.prefill_tokens + pack.decode_tokens).max() == header.limits.max_num_batched_tokens
    assert pack.context_tokens.max() > 0.5 * header.limits.total_blocks * header.limits.block_size
    summary = PackReport.of(pack).summary()
    assert summary["mean_ratio"] == pytest.approx(1.0, abs=0.01)
    assert summary["median_error"] < 0.25


@pytest.mark.parametrize("file", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_pack_runs_in_virtual_time_with_the_hosts_share_beside_it(file: Path) -> None:
    pack, host = load_pack(file), HostOverheads.load(HostOverheads.beside(file))
    clock, oracle = VirtualClock(pack.header.limits, host), StepOracle(pack, seed=1)
    load = Load("sharegpt", 2.0, 10.0, seed=7).workload(1024, Path("nowhere"))
    metrics = ServingMetrics.of(clock.run(load, lambda shape: oracle.sample(shape).seconds))
    assert metrics.failed == 0
    decodes = np.median(pack.duration_s[(pack.prefill_tokens == 0) & (pack.requests < 4)])
    assert 0.5 * decodes < metrics.itl_s.p50 < 3.0 * (decodes + host.engine(4))
