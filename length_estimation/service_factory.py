"""Builds the length service that the scheduler's settings ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from block.config import SchedulerSettings
from block.errors import ConfigError
from block.http.client import Client
from length_estimation.batcher import Batcher, BatchEstimator, OneByOne
from length_estimation.estimator import Estimator
from length_estimation.factory import ESTIMATORS, EstimatorSettings, make_estimator
from length_estimation.history import HistoryEstimator
from length_estimation.length_service import LengthService, SlowEstimate
from length_estimation.recalibration import Recalibration
from length_estimation.remote import RemoteEstimator

REMOTE: Final = "remote"
SERVED: Final = (*ESTIMATORS, REMOTE)
"""Names that the scheduler's setting may have."""
_PREDICTED: Final = frozenset({"features", "roberta", REMOTE})
"""Cached and recalibrated; the others say what they were told, or learn by themselves."""
_SLOW: Final = frozenset({"roberta"})


@dataclass(frozen=True, slots=True)
class LengthSource:
    """What estimates, loaded before anything is opened; None for a service elsewhere."""

    name: str
    estimator: Estimator | None


def make_source(settings: SchedulerSettings) -> LengthSource:
    """Load the estimator. Raises ConfigError, or PackError for a damaged model."""
    if settings.estimator == REMOTE:
        if settings.lengths.url is None:
            raise ConfigError("estimator = 'remote': needs the service's address; set lengths.url")
        return LengthSource(REMOTE, None)
    estimator = make_estimator(
        settings.estimator, EstimatorSettings(settings.constant_output_tokens, settings.lengths.model)
    )
    return LengthSource(settings.estimator, estimator)


def make_length_service(source: LengthSource, settings: SchedulerSettings, http: Client) -> LengthService:
    """The service; ``http``, which outlives it, is used by ``remote`` only."""
    lengths = settings.lengths
    predicted = source.name in _PREDICTED
    slow, closing = _slow(source, settings, http)
    quick = source.estimator if slow is None else None
    return LengthService(
        quick=quick or HistoryEstimator(settings.constant_output_tokens),
        slow=slow,
        on_close=closing,
        recalibration=Recalibration() if predicted and lengths.recalibrate else None,
        deadline_s=lengths.deadline_s,
        cache_entries=lengths.cache_entries if predicted else 0,
    )


def batcher_of(estimator: Estimator, most: int = 32) -> Batcher:
    """Batches of at most so many for what knows batches, else one by one."""
    return Batcher(estimator if isinstance(estimator, BatchEstimator) else OneByOne(estimator), most)


def _slow(
    source: LengthSource, settings: SchedulerSettings, http: Client
) -> tuple[SlowEstimate | None, Callable[[], Awaitable[None]] | None]:
    """How to ask, and how to stop asking."""
    if source.estimator is None:
        return RemoteEstimator(http, settings.lengths.url or "").estimate, None
    if source.name not in _SLOW:
        return None, None
    batcher = batcher_of(source.estimator)
    return batcher.estimate, batcher.close
