"""How far predictions lay from what came, by load level, beside what no prediction could know."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from exp.outcome import Outcome
from exp.prediction_run import LevelRuns

Floats = npt.NDArray[np.float64]

GOALS = {"e2e": 0.03, "ttft": 0.08}
"""Median absolute relative errors to reach, above the noise floor."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One predicted quantity of a request."""

    name: str
    real: Callable[[Outcome], float | None]
    predicted: Callable[[Outcome], float | None]


MEASURES = (
    Measure("ttft", lambda outcome: outcome.ttft_s, lambda outcome: outcome.predicted_ttft_s),
    Measure("e2e", lambda outcome: outcome.e2e_s, lambda outcome: outcome.predicted_e2e_s),
)


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of one measure; shares of the real value, not percent."""

    p50: float
    p90: float
    bias: float
    """Median of (predicted - real) / real: below zero when predictions are too short."""
    floor: float
    """Median of |run 1 - run 2| / run 2, the same requests at the same times; 0 where one run says all."""
    real_p50_s: float

    @property
    def above_floor(self) -> float:
        """The median error less what repetition alone explains; never below zero."""
        return max(self.p50 - self.floor, 0.0)


@dataclass(frozen=True, slots=True)
class LevelReport:
    """One level's errors by measure."""

    level: str
    rate_per_s: float
    requests: int
    """Predictions judged, all runs together."""
    failed: int
    unpredicted: int
    """Answered, but placed without a prediction: none came in time."""
    errors: dict[str, Errors]

    @classmethod
    def of(cls, runs: LevelRuns) -> LevelReport:
        """Judge one level; a measure without a single prediction is left out."""
        outcomes = [outcome for run in runs.judged for outcome in run]
        good = [outcome for outcome in outcomes if not outcome.error]
        judged = [o for o in good if None not in (o.predicted_e2e_s, o.predicted_ttft_s, o.ttft_s, o.e2e_s)]
        errors = {measure.name: _errors(measure, judged, runs) for measure in MEASURES} if judged else {}
        return cls(
            level=runs.level.name,
            rate_per_s=runs.rate_per_s,
            requests=len(judged),
            failed=len(outcomes) - len(good),
            unpredicted=len(good) - len(judged),
            errors=errors,
        )


@dataclass(frozen=True, slots=True)
class PredictionReport:
    """All levels of one model."""

    model: str
    levels: tuple[LevelReport, ...]

    def worst(self, measure: str) -> Errors | None:
        """The level whose median error lies highest above its floor; None if nothing was predicted."""
        errors = [level.errors[measure] for level in self.levels if measure in level.errors]
        return max(errors, key=lambda error: error.above_floor, default=None)


def report_json(backend: str, reports: Sequence[PredictionReport]) -> dict[str, Any]:
    """Everything, and per measure the worst level of all models with whether it meets the goal.

    ``goals_met`` is None where these runs cannot tell: requests went unjudged, or repetition alone errs by
    more than a goal allows.
    """
    worst = {name: _worst(name, reports) for name in GOALS}
    met, reason = _verdict(worst, reports)
    return {
        "backend": backend,
        "requests": sum(level.requests for report in reports for level in report.levels),
        "failed": sum(level.failed for report in reports for level in report.levels),
        **{f"{name}_median_err": errors and errors.p50 for name, errors in worst.items()},
        **{f"{name}_floor": errors and errors.floor for name, errors in worst.items()},
        "goals_met": met,
        "goals_reason": reason,
        "models": {report.model: [asdict(level) for level in report.levels] for report in reports},
    }


def _verdict(
    worst: Mapping[str, Errors | None], reports: Sequence[PredictionReport]
) -> tuple[bool | None, str]:
    """Whether the goals are met, and why not; None if these runs cannot tell."""
    missed = [
        f"{name}: {errors.above_floor:.1%} above the floor, goal {GOALS[name]:.0%}"
        for name, errors in worst.items()
        if errors is not None and errors.above_floor > GOALS[name]
    ]
    if missed:
        return False, "; ".join(missed)
    doubts = [f"{name}: nothing was judged" for name, errors in worst.items() if errors is None]
    for report in reports:
        for level in report.levels:
            where = f"{report.model}, {level.level}"
            if level.failed or level.unpredicted:
                doubts.append(f"{where}: {level.failed} failed, {level.unpredicted} without a prediction")
            doubts += [
                f"{where}: the floor of {name}, {errors.floor:.1%}, is above the goal of {GOALS[name]:.0%}"
                for name, errors in level.errors.items()
                if errors.floor > GOALS[name]
            ]
    return (None, "; ".join(doubts)) if doubts else (True, "")


def report_table(reports: Iterable[PredictionReport]) -> Table:
    """One row per model and level."""
    table = Table(title="predicted against real: median / p90 error, bias, noise floor")
    for name in ("model", "load", "rate, 1/s", "judged", "TTFT", "E2E"):
        table.add_column(name, justify="left" if name in ("model", "load") else "right")
    for report in reports:
        for level in report.levels:
            cells = [_cell(level.errors.get(name)) for name in ("ttft", "e2e")]
            table.add_row(report.model, level.level, f"{level.rate_per_s:.2f}", str(level.requests), *cells)
    return table


def append_outcomes(path: Path, model: str, levels: Iterable[LevelRuns]) -> None:
    """One JSON line per judged request: model, level, run, and an ``Outcome``'s fields but single tokens."""
    with path.open("a") as file:
        for level in levels:
            for run, outcomes in enumerate(level.judged):
                for outcome in outcomes:
                    row = {"model": model, "level": level.level.name, "run": run, **asdict(outcome)}
                    del row["token_s"], row["itl_s"]
                    file.write(json.dumps(row) + "\n")


def _worst(measure: str, reports: Sequence[PredictionReport]) -> Errors | None:
    errors = [worst for report in reports if (worst := report.worst(measure)) is not None]
    return max(errors, key=lambda error: error.above_floor, default=None)


def _errors(measure: Measure, judged: Sequence[Outcome], runs: LevelRuns) -> Errors:
    real = _values(measure.real, judged)
    relative = (_values(measure.predicted, judged) - real) / real
    return Errors(
        p50=float(np.median(np.abs(relative))),
        p90=float(np.quantile(np.abs(relative), 0.9)),
        bias=float(np.median(relative)),
        floor=_floor(measure, runs),
        real_p50_s=float(np.median(real)),
    )


def _floor(measure: Measure, runs: LevelRuns) -> float:
    if len(runs.judged) == 1:
        return 0.0
    pairs = [pair for pair in zip(*runs.judged, strict=True) if not any(outcome.error for outcome in pair)]
    if not pairs:
        return 0.0
    first, second = (_values(measure.real, side) for side in zip(*pairs, strict=True))
    return float(np.median(np.abs(first - second) / second))


def _values(read: Callable[[Outcome], float | None], outcomes: Iterable[Outcome]) -> Floats:
    return np.array([read(outcome) for outcome in outcomes], np.float64)


def _cell(errors: Errors | None) -> str:
    if errors is None:
        return "-"
    return (
        f"{errors.p50:.1%} / {errors.p90:.1%}, {errors.bias:+.1%}, floor {errors.floor:.1%} "
        f"[{errors.real_p50_s:.3g} s]"
    )
