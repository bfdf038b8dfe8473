"""An operator model in the form that the compiled simulation evaluates, and what that form costs.

The form (``KernelLatency``) is fitted to what the operators say of batches such as the engine will see:
drawn at random, or those of a simulation of the very arrivals in question. Its misfit on batches that the
fit has not seen is kept beside it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from block.latency.base import KernelLatency
from block.latency.fit import fit_kernel
from block.latency.least_squares import Floats
from block.latency.shapes import kernel_seconds, shape_array
from block.types import BatchShape
from vidur_adapter.batch import StepBatch
from vidur_adapter.model import OperatorModel

_DRAWN = 1500
_ENOUGH = 200
_HELD_OUT_EVERY = 4


@dataclass(frozen=True, slots=True)
class EngineRange:
    """Which batches an engine can come to hold."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    mean_contexts: tuple[int, int] = (64, 2048)
    """Bounds of the mean context of a batch."""
    max_model_len: int = 8192
    """No context is longer."""
    context_spread: float = 0.6
    """Standard deviation of the logarithm of contexts; this is about that of ShareGPT conversations."""


@dataclass(frozen=True)
class OperatorLatency:
    """A ``StepLatencyModel`` made from operators."""

    version: str
    kernel: KernelLatency
    most_tokens: float
    """Beyond this the operators were extrapolated."""
    median_error: float
    """Of the form against the operators, on batches that the fit has not seen."""
    p90_error: float
    covered_share: float
    """Of the batches offered: those that lie within what was measured."""
    assumed_share: float
    """Of their seconds, on average over batches: what datasheets and stand-ins say, not measurements."""

    @classmethod
    def of(cls, model: OperatorModel, batches: Sequence[StepBatch], *, of_a_run: bool = False) -> Self:
        """Fit to these batches, or to those that are covered if they are many; raises PackError if too few.

        ``of_a_run``: they are those of one run, so their total must come out right as well.
        """
        timings = model.time(batches)
        used = timings.covered if timings.covered.sum() >= _ENOUGH else np.ones(len(batches), dtype=bool)
        shapes, seconds = shape_array(batch.shape for batch in batches)[used], timings.seconds[used]
        unseen = np.arange(len(seconds)) % _HELD_OUT_EVERY == 0
        judged = _fitted(shapes[~unseen], seconds[~unseen], of_a_run)
        off = np.abs(kernel_seconds(judged, shapes[unseen]) / seconds[unseen] - 1)
        return cls(
            version=model.name,
            kernel=_fitted(shapes, seconds, of_a_run),
            most_tokens=float(model.most_tokens),
            median_error=float(np.median(off)),
            p90_error=float(np.quantile(off, 0.9)),
            covered_share=float(timings.covered.mean()),
            assumed_share=float(np.mean(timings.assumed_s / timings.seconds)),
        )

    def seconds(self, shape: BatchShape) -> float:
        """Duration of one step of this shape."""
        return self.kernel.seconds(shape)

    def covers(self, shape: BatchShape) -> bool:
        """Whether the token count lies within what was measured."""
        return self.kernel.token_knots[0] <= shape.tokens <= self.most_tokens


def _fitted(shapes: Floats, seconds: Floats, of_a_run: bool) -> KernelLatency:
    """Robustly; the steps of a run are then scaled so that together they take as long as they did."""
    form = fit_kernel(shapes, seconds)
    factor = float(seconds.sum() / kernel_seconds(form, shapes).sum()) if of_a_run else 1.0
    return KernelLatency(
        form.token_knots,
        tuple(height * factor for height in form.token_seconds),
        form.per_context_token_s * factor,
        form.per_prefill_product_s * factor,
        form.per_request_s * factor,
    )


def drawn_batches(engine: EngineRange, seed: int = 0, count: int = _DRAWN) -> list[StepBatch]:
    """Decodes alone, chunks alone and both, of all sizes; the same for the same seed."""
    source = random.Random(seed)
    return [_drawn(engine, source) for _ in range(count)]


def _drawn(engine: EngineRange, source: random.Random) -> StepBatch:
    kind = source.choice(("decodes", "decodes", "both", "both", "chunks"))
    most = min(engine.max_num_seqs, engine.max_num_batched_tokens)
    decodes = 0 if kind == "chunks" else round(_between(1, most, source))
    low, high = engine.mean_contexts
    mean = _between(low, high, source)
    contexts = tuple(_drawn_context(mean, engine, source) for _ in range(decodes))
    budget = engine.max_num_batched_tokens - decodes
    if kind == "decodes" or budget < 2:
        return StepBatch((), contexts or (round(mean),))
    return StepBatch(_drawn_chunks(round(_between(2, budget, source)), high, source), contexts)


def _drawn_context(mean: float, engine: EngineRange, source: random.Random) -> int:
    return min(max(1, round(mean * source.lognormvariate(0, engine.context_spread))), engine.max_model_len)


def _drawn_chunks(tokens: int, longest: int, source: random.Random) -> tuple[tuple[float, float], ...]:
    """One to four chunks; only the last of a step's prompts can have begun before, or none."""
    count = min(source.choice((1, 1, 1, 2, 4)), tokens // 2)
    sizes = [tokens // count] * count
    sizes[0] += tokens - sum(sizes)
    before = source.choice((0, 0, round(_between(16, longest, source))))
    return ((float(sizes[0]), float(before)), *((float(size), 0.0) for size in sizes[1:]))


def _between(low: float, high: float, source: random.Random) -> float:
    """Evenly over the logarithm."""
    return float(low * (high / low) ** source.random()) if high > low else float(low)
