"""Packs out of steps that no engine was watched at: imported ones, and ones worked out from a model.

Such steps have no order and no engine's own time; their numbers leave holes, so that nobody takes one for
the successor of another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from block.latency.pack import PackHeader, StepPack
from block.types import BatchShape


def pack_of_steps(header: PackHeader, steps: Sequence[tuple[BatchShape, float]]) -> StepPack:
    """One row per ``(shape, seconds)``; raises PackError for impossible ones."""
    seconds = np.array([duration for _, duration in steps], dtype=np.float64)
    ends = np.cumsum(seconds)

    def column(name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([getattr(shape, name) for shape, _ in steps], dtype=np.int64)

    return StepPack(
        header=header,
        step=2 * np.arange(len(steps), dtype=np.int64) + 1,
        submit_s=ends - seconds,
        ready_s=ends,
        duration_s=seconds,
        host_s=np.full(len(steps), np.nan),
        prefill_tokens=column("prefill_tokens"),
        decode_tokens=column("decode_tokens"),
        context_tokens=column("context_tokens"),
        prefill_context_products=column("prefill_context_products"),
        requests=column("requests"),
    )
