"""The gradient-boosted alternative: trees over batch shapes, never faster for more work.

Needs scikit-learn, loaded when used. Trees cannot be evaluated by the simulation, so they serve as a
teacher and as a yardstick; see ``fitted``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from block.latency.least_squares import Floats
from block.latency.shapes import COLUMNS, DECODES


class BoostedSteps:
    """``HistGradientBoostingRegressor`` on the logarithm of seconds, which makes its errors relative."""

    def __init__(self, shapes: Floats, seconds: Floats, seed: int = 0) -> None:
        """Fit; absolute loss, so that pauses do not pull. ``shapes`` as ``shape_array`` makes them."""
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        rising = np.ones(COLUMNS, dtype=int)
        # At equal tokens, more decodes mean smaller chunks: neither dearer nor cheaper by rule.
        rising[DECODES] = 0
        self._trees: Any = HistGradientBoostingRegressor(
            loss="absolute_error",
            monotonic_cst=rising,
            max_iter=200,
            learning_rate=0.1,
            max_leaf_nodes=31,
            min_samples_leaf=10,
            random_state=seed,
        )
        # Small data: one thread is faster than several that wait for one another on a busy machine.
        with threadpool_limits(1):
            self._trees.fit(shapes, np.log(seconds))

    def seconds(self, shapes: Floats) -> Floats:
        """Predicted seconds, one per row."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            return np.asarray(np.exp(self._trees.predict(shapes)))
