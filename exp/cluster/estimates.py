"""How wrong routers are about response lengths: not at all, by one number for all, by an error, by history.

Each makes ``ExpectedLengths`` for a load whose true lengths are known. Seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from block.errors import ConfigError
from block.simulation.memory import Floats, Ints
from exp.cluster.load import ExpectedLengths

LEVELS = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
_CLASSES = 12


@dataclass(frozen=True, slots=True)
class EstimateSpec:
    """What the routers go by."""

    kind: str = "oracle"
    """A name of ``ESTIMATES``."""
    sigma: float = 0.5
    """Of the guess: standard deviation of its logarithm around the truth's."""
    constant_tokens: int = 256
    seed: int = 0


def estimate_lengths(spec: EstimateSpec, prompt_tokens: Ints, output_tokens: Ints) -> ExpectedLengths:
    """(requests, levels) of the kind wanted; raises ConfigError for an unknown one."""
    if spec.kind not in ESTIMATES:
        raise ConfigError(f"lengths = {spec.kind!r}: unknown; known here: {', '.join(ESTIMATES)}")
    return ESTIMATES[spec.kind](spec, prompt_tokens, output_tokens)


def _oracle(_: EstimateSpec, __: Ints, output_tokens: Ints) -> ExpectedLengths:
    return ExpectedLengths.points(output_tokens)


def _constant(spec: EstimateSpec, _: Ints, output_tokens: Ints) -> ExpectedLengths:
    return ExpectedLengths.points(np.full(len(output_tokens), spec.constant_tokens))


def _guesses(spec: EstimateSpec, output_tokens: Ints) -> Floats:
    """The truth with a log-normal error."""
    random = np.random.default_rng(spec.seed)
    guesses: Floats = output_tokens * np.exp(spec.sigma * random.standard_normal(len(output_tokens)))
    return guesses


def _guess(spec: EstimateSpec, _: Ints, output_tokens: Ints) -> ExpectedLengths:
    return ExpectedLengths.points(np.maximum(np.rint(_guesses(spec, output_tokens)), 1.0))


def _distribution(spec: EstimateSpec, _: Ints, output_tokens: Ints) -> ExpectedLengths:
    """What the same guess says to one who knows its error and what lengths are usual.

    With log-normal lengths, the posterior of a log-normal guess is log-normal, between guess and usual.
    """
    guesses = np.log(_guesses(spec, output_tokens))
    usual, variance = guesses.mean(), max(guesses.var() - spec.sigma**2, 1e-6)
    weight = variance / (variance + spec.sigma**2)
    middle, spread = weight * guesses + (1 - weight) * usual, np.sqrt(weight) * spec.sigma
    scores = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
    return ExpectedLengths(LEVELS, np.exp(middle[:, None] + spread * scores))


def _history(_: EstimateSpec, prompt_tokens: Ints, output_tokens: Ints) -> ExpectedLengths:
    """Quantiles over the responses to prompts of about the same length: what a history converges to."""
    classes = np.minimum(np.log2(np.maximum(prompt_tokens, 1)).astype(np.int64), _CLASSES - 1)
    tokens = np.empty((len(output_tokens), len(LEVELS)))
    for each in np.unique(classes):
        members = classes == each
        tokens[members] = np.quantile(output_tokens[members], LEVELS)
    return ExpectedLengths(LEVELS, tokens)


_Estimate = Callable[[EstimateSpec, Ints, Ints], ExpectedLengths]

ESTIMATES: Mapping[str, _Estimate] = {
    "oracle": _oracle,
    "constant": _constant,
    "guess": _guess,
    "distribution": _distribution,
    "history": _history,
}
