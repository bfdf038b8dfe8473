"""Estimators by name: the table that configuration and command lines choose from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from block.errors import ConfigError, PackError
from length_estimation.estimator import ConstantEstimator, Estimator, MaxTokensEstimator, OracleEstimator
from length_estimation.history import HistoryEstimator
from length_estimation.model_folder import peek_card


@dataclass(frozen=True, slots=True)
class EstimatorSettings:
    """What the factories need."""

    constant_output_tokens: int
    model: Path | None = None
    """Folder of a trained model."""
    threads: int = 1
    """Of the CPU, for networks."""


def _features(settings: EstimatorSettings) -> Estimator:
    from length_estimation.features import FeaturesEstimator

    return FeaturesEstimator.load(_folder("features", settings))


def _roberta(settings: EstimatorSettings) -> Estimator:
    from length_estimation.roberta import load_roberta

    return load_roberta(_folder("roberta", settings), settings.threads)


ESTIMATORS: Mapping[str, Callable[[EstimatorSettings], Estimator]] = {
    "constant": lambda settings: ConstantEstimator(settings.constant_output_tokens),
    "max_tokens": lambda _: MaxTokensEstimator(),
    "oracle": lambda _: OracleEstimator(),
    "history": lambda settings: HistoryEstimator(settings.constant_output_tokens),
    "features": _features,
    "roberta": _roberta,
}
TRAINED = ("features", "roberta")
"""Those that are loaded from a folder."""


def make_estimator(name: str, settings: EstimatorSettings) -> Estimator:
    """Build the estimator of that name.

    Raises ConfigError that lists the known ones, or PackError for a damaged model.
    """
    factory = ESTIMATORS.get(name)
    if factory is None:
        raise ConfigError(f"estimator = {name!r}: unknown; known: {', '.join(ESTIMATORS)}")
    return factory(settings)


def load_trained(folder: Path, threads: int = 1) -> Estimator:
    """The estimator in a trained model's folder, whichever its kind. Raises PackError or ConfigError."""
    kind = peek_card(folder).kind
    if kind not in TRAINED:
        raise PackError(f"{folder}: holds a model of kind {kind!r}; known are {', '.join(TRAINED)}")
    return make_estimator(kind, EstimatorSettings(1, folder, threads))


def _folder(name: str, settings: EstimatorSettings) -> Path:
    if settings.model is None:
        raise ConfigError(f"estimator = {name!r}: needs a trained model; name its folder (lengths.model)")
    return settings.model
