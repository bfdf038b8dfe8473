"""A pack as a ``StepLatencyModel``: what its steps come to on average, for simulation and prediction.

Without overlap the engine's own time between two steps is part of what a step costs its requests, so it is
added; with asynchronous scheduling it hides behind the step before. A file names the pack, or is one:

    kind: pack
    pack: ../packs/a30-llama-2-7b.npz         # relative to this file
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field

from block.config import load_config
from block.errors import PackError
from block.latency.base import KernelLatency
from block.latency.fit import fit_kernel
from block.latency.oracle import FEWEST_STEPS
from block.latency.pack import StepPack, load_pack
from block.latency.pack_container import is_container
from block.latency.shapes import kernel_seconds
from block.settings import Settings
from block.types import BatchShape


class PackFile(Settings):
    """The YAML file's fields."""

    kind: Literal["pack"]
    pack: Path = Field(description="The pack, relative to this file.")


@dataclass(frozen=True)
class PackLatency:
    """A ``StepLatencyModel`` fitted to a pack's steps."""

    name: str
    pack: StepPack

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a pack, or a file that names one; raises ConfigError or PackError."""
        if not is_container(path):
            path = path.parent / load_config(path, PackFile).pack
        return cls(path.stem, load_pack(path))

    @property
    def version(self) -> str:
        """The pack's name."""
        return self.name

    @cached_property
    def kernel(self) -> KernelLatency:
        """Robust form, scaled so that all steps together take as long as they did; raises PackError."""
        shapes, seconds = self.pack.shape_array, self.pack.duration_s
        if not self.pack.header.async_scheduling:
            seconds = seconds + np.nan_to_num(self.pack.host_s, nan=_usual(self.pack.host_s))
        timed = (seconds > 0) & (shapes[:, 0] > 0)
        if np.count_nonzero(timed) < FEWEST_STEPS:
            raise PackError(f"{self.name}: too few steps to fit; needs at least {FEWEST_STEPS}")
        shapes, seconds = shapes[timed], seconds[timed]
        form = fit_kernel(shapes, seconds)
        factor = float(seconds.sum() / kernel_seconds(form, shapes).sum())
        return KernelLatency(
            form.token_knots,
            tuple(value * factor for value in form.token_seconds),
            form.per_context_token_s * factor,
            form.per_prefill_product_s * factor,
            form.per_request_s * factor,
        )

    def seconds(self, shape: BatchShape) -> float:
        """Duration of one step of this shape, the engine's own work included where it does not overlap."""
        return self.kernel.seconds(shape)

    def covers(self, shape: BatchShape) -> bool:
        """Whether the token count lies within what was recorded."""
        return self.kernel.token_knots[0] <= shape.tokens <= self.kernel.token_knots[-1]


def _usual(host_s: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    told = host_s[np.isfinite(host_s)]
    return float(np.median(told)) if len(told) else 0.0
