"""Batch shapes as arrays, and the rows that a least-squares fit sees of them.

The one place that says which terms a ``KernelLatency`` has, in which order.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from block.latency.base import KernelLatency
from block.latency.least_squares import Floats
from block.types import BatchShape

TOKENS, CONTEXT, PRODUCTS, REQUESTS, DECODES = range(5)
COLUMNS = 5


def shape_row(shape: BatchShape) -> tuple[int, int, int, int, int]:
    """One shape in the order of the columns."""
    return (
        shape.tokens,
        shape.context_tokens,
        shape.prefill_context_products,
        shape.requests,
        shape.decode_tokens,
    )


def shape_array(shapes: Iterable[BatchShape]) -> Floats:
    """(steps, columns)."""
    return np.array([shape_row(shape) for shape in shapes], dtype=np.float64).reshape(-1, COLUMNS)


def interpolation(knots: Floats, tokens: Floats) -> Floats:
    """(steps, knots): weights that evaluate a curve given at its knots, straight on beyond its ends."""
    upper = np.clip(np.searchsorted(knots, tokens, side="right"), 1, len(knots) - 1)
    share = (tokens - knots[upper - 1]) / (knots[upper] - knots[upper - 1])
    weights = np.zeros((len(tokens), len(knots)))
    at = np.arange(len(tokens))
    weights[at, upper - 1], weights[at, upper] = 1.0 - share, share
    return weights


def kernel_seconds(kernel: KernelLatency, shapes: Floats) -> Floats:
    """Seconds of many steps at once: what ``KernelLatency.seconds`` says of each."""
    curve = interpolation(np.array(kernel.token_knots), shapes[:, TOKENS]) @ np.array(kernel.token_seconds)
    slopes = np.array([kernel.per_context_token_s, kernel.per_prefill_product_s, kernel.per_request_s])
    return np.asarray(curve + shapes[:, [CONTEXT, PRODUCTS, REQUESTS]] @ slopes)
