"""At which levels what-ifs take response lengths in their scenarios: the predictor's way, and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from block.simulation.memory import Floats

_Levelling = Callable[[int, int, int], Floats | None]


def _predictor(_requests: int, _scenarios: int, _seed: int) -> None:
    """Every request takes each stratum once, in an order of its own."""


def _comonotone(requests: int, scenarios: int, _seed: int) -> Floats:
    """In each scenario all requests are equally long for what they are: the same stratum."""
    return np.tile((np.arange(scenarios) + 0.5) / scenarios, (requests, 1))


def _independent(requests: int, scenarios: int, seed: int) -> Floats:
    """Drawn at random, strata or not."""
    levels: Floats = np.random.default_rng(seed).uniform(0.001, 0.999, (requests, scenarios))
    return levels


LEVELLINGS: Mapping[str, _Levelling] = {
    "predictor": _predictor,
    "comonotone": _comonotone,
    "independent": _independent,
}
