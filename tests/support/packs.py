"""Packs of imagined engines, whose truth only the test knows."""

from __future__ import annotations

import numpy as np
from step_traffic import Seconds, Traffic

from block.latency.base import KernelLatency
from block.latency.dimensions import ModelDimensions
from block.latency.pack import PackHeader, StepPack
from block.types import EngineLimits

TRUTH = KernelLatency((1.0, 64.0, 256.0, 512.0), (0.020, 0.022, 0.040, 0.054), 7e-7, 7e-9, 2e-5)
TINY = ModelDimensions(4, 256, 8, 4, 32, 768, 4096)
HEADER = PackHeader(
    model=TINY,
    limits=EngineLimits(16, 1051, 48, 512, 4096),
    kv_blocks=1052,
    model_name="tiny",
    dtype="float16",
    cache_dtype="auto",
    flags={"enforce_eager": "True", "quantization": ""},
    vllm_version="0.32.0",
    device="imagined",
    created_at="2026-11-21T00:00:00+00:00",
)


def traffic_pack(
    seconds: Seconds = TRUTH.seconds,
    duration_s: float = 120.0,
    header: PackHeader = HEADER,
    host_s: float = 0.001,
    **traffic: float,
) -> StepPack:
    """Steps under mixed traffic; ``seconds`` may draw its own noise."""
    settings = {"seed": 5, "rate_per_s": 4.0, "noise": 0.02, "gap_s": host_s, **traffic}
    records = list(Traffic(**settings).records(seconds, duration_s))
    submit = np.array([record.submit_s for record in records])
    duration = np.array([record.duration_s for record in records])

    def column(name: str) -> np.ndarray:
        return np.array([getattr(record.shape, name) for record in records], dtype=np.int64)

    decodes = column("decode_tokens")
    return StepPack(
        header=header,
        step=np.array([record.step for record in records], dtype=np.int64),
        submit_s=submit - submit[0],
        ready_s=submit - submit[0] + duration,
        duration_s=duration,
        host_s=np.where(decodes > 0, host_s, np.nan),
        prefill_tokens=column("prefill_tokens"),
        decode_tokens=decodes,
        context_tokens=column("context_tokens"),
        prefill_context_products=column("prefill_context_products"),
        requests=column("requests"),
    )
