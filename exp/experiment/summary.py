"""From tables of requests to figures per cell, and from cells to means with intervals over seeds."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from block.errors import ConfigError
from exp.experiment.cell import Cell

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and the half width of its 95 % interval; NaN where one seed tells no width."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """By Student's t; NaN values are left out."""
        known = np.array([value for value in values if not np.isnan(value)])
        if not len(known):
            return cls(float("nan"), float("nan"))
        if len(known) == 1:
            return cls(float(known[0]), float("nan"))
        from scipy.stats import t

        half = float(t.ppf(0.975, len(known) - 1)) * float(known.std(ddof=1)) / len(known) ** 0.5
        return cls(float(known.mean()), half)


@dataclass(frozen=True, slots=True)
class Row:
    """One cell in figures; NaN where nothing was measured."""

    policy: str
    engine: str
    workload: str
    rate_per_s: float
    seed: int
    figures: Mapping[str, float]

    @classmethod
    def of(cls, cell: Cell, table: pa.Table) -> Row:
        """Requests that failed count in ``failed`` and nowhere else."""
        figures = {name: measure(table) for name, measure in MEASURES.items()}
        return cls(cell.policy, cell.engine, cell.workload, cell.rate_per_s, cell.seed, figures)


def summary_csv(rows: Iterable[Row]) -> str:
    """One line per cell."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["policy", "engine", "workload", "rate_per_s", "seed", *MEASURES])
    for row in rows:
        values = [f"{row.figures[name]:.6g}" for name in MEASURES]
        writer.writerow([row.policy, row.engine, row.workload, f"{row.rate_per_s:g}", row.seed, *values])
    return text.getvalue()


def curves(rows: Iterable[Row], figure: str) -> dict[str, list[tuple[float, Interval]]]:
    """Policy -> rising rates, each with the figure over the seeds."""
    values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        values[row.policy][row.rate_per_s].append(row.figures[figure])
    return {
        policy: [(rate, Interval.of(by_rate[rate])) for rate in sorted(by_rate)]
        for policy, by_rate in values.items()
    }


def ratios(rows: Sequence[Row], figure: str, baseline: str) -> dict[str, dict[float, Interval]]:
    """Policy -> rate -> logarithm of the figure over the baseline's on the same requests."""
    theirs = {(row.rate_per_s, row.seed): row.figures[figure] for row in rows if row.policy == baseline}
    logs: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        other = theirs.get((row.rate_per_s, row.seed), 0.0)
        if row.policy != baseline and other > 0 and row.figures[figure] > 0:
            logs[row.policy][row.rate_per_s].append(math.log(row.figures[figure] / other))
    return {policy: {rate: Interval.of(one) for rate, one in by.items()} for policy, by in logs.items()}


def groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """By engine and workload, in the order of the rows."""
    grouped: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.engine, row.workload].append(row)
    return dict(grouped)


def _column(table: pa.Table, name: str) -> Floats:
    values: Floats = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def _known(table: pa.Table, name: str) -> Floats:
    good = table.filter(pc.equal(table["error"], ""))
    values = _column(good, name)
    known: Floats = values[~np.isnan(values)]
    return known


def _over(name: str, statistic: Callable[[Floats], float]) -> Callable[[pa.Table], float]:
    def measure(table: pa.Table) -> float:
        values = _known(table, name)
        return float(statistic(values)) if len(values) else float("nan")

    return measure


def _share(percentile: float) -> Callable[[Floats], float]:
    return lambda values: float(np.percentile(values, percentile))


def _tpot(table: pa.Table) -> Floats:
    tokens = _column(table, "output_tokens")
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = (_column(table, "e2e_s") - _column(table, "ttft_s")) / (tokens - 1)
    known: Floats = tpot[np.isfinite(tpot) & (tokens > 1)]
    return known


def _tpot_mean(table: pa.Table) -> float:
    known = _tpot(table)
    return float(known.mean()) if len(known) else float("nan")


def _span_s(table: pa.Table) -> float:
    """From the first arrival to the last answer's end."""
    ends = _column(table, "arrival_s") + _column(table, "e2e_s")
    return float(np.nanmax(ends) - np.min(_column(table, "arrival_s"))) if np.isfinite(ends).any() else 0.0


def _per_s(counted: Callable[[pa.Table], float]) -> Callable[[pa.Table], float]:
    def measure(table: pa.Table) -> float:
        span_s = _span_s(table)
        return counted(table) / span_s if span_s > 0 else float("nan")

    return measure


def _prediction_error(table: pa.Table) -> float:
    real, predicted = _column(table, "e2e_s"), _column(table, "predicted_e2e_s")
    errors = np.abs(predicted - real) / real
    known = errors[np.isfinite(errors)]
    return float(np.median(known)) if len(known) else float("nan")


def _best_share(table: pa.Table) -> float:
    ranks = _known(table, "rank")
    return float(np.mean(ranks == 1)) if len(ranks) else float("nan")


def _hit_rate(table: pa.Table) -> float:
    """As ``ClusterResult.hit_rate``."""
    known = table.filter(pc.and_(pc.equal(table["error"], ""), pc.equal(table["preemptions"], 0)))
    tokens = float(np.nansum(_column(known, "prompt_tokens")))
    return float(np.sum(_column(known, "hit_tokens"))) / tokens if tokens else float("nan")


MEASURES: Mapping[str, Callable[[pa.Table], float]] = {
    "requests": lambda table: float(table.num_rows),
    **{
        f"{name}_{statistic}": _over(f"{name}_tokens", of)
        for name in ("prompt", "output")
        for statistic, of in (
            ("mean", np.mean),
            ("p50", _share(50)),
            ("p90", _share(90)),
            ("p99", _share(99)),
        )
    },
    "failed": lambda table: float(pc.sum(pc.not_equal(table["error"], "")).as_py() or 0),
    "ttft_mean_s": _over("ttft_s", np.mean),
    "ttft_p50_s": _over("ttft_s", _share(50)),
    "ttft_p99_s": _over("ttft_s", _share(99)),
    "e2e_mean_s": _over("e2e_s", np.mean),
    "e2e_p50_s": _over("e2e_s", _share(50)),
    "e2e_p99_s": _over("e2e_s", _share(99)),
    "tpot_mean_s": _tpot_mean,
    "decision_mean_s": _over("decision_s", np.mean),
    "decision_p99_s": _over("decision_s", _share(99)),
    "requests_per_s": _per_s(lambda table: float(len(_known(table, "e2e_s")))),
    "tokens_per_s": _per_s(
        lambda table: float(np.sum(_column(table, "output_tokens")[np.isfinite(_column(table, "e2e_s"))]))
    ),
    "preemptions": _over("preemptions", np.sum),
    "prediction_error": _prediction_error,
    "best_share": _best_share,
    "hit_rate": _hit_rate,
}
"""Name -> figure of one cell. ``prediction_error``: median of |predicted - real| / real E2E; ``best_share``:
how often truly the best instance was chosen; ``hit_rate``: share of prompt tokens found in prefix caches."""

_LIMITS = ("ttft_mean_s", "e2e_mean_s", "tpot_mean_s", "preemptions")
_PERCENTILE = re.compile(r"(ttft|e2e|tpot)_p(\d{1,2}(?:\.\d+)?)_s")


def limited_measure(name: str) -> Callable[[pa.Table], float]:
    """A figure that an objective limits: a mean, or any percentile, such as ``ttft_p95_s``.

    Of a cell with requests that failed it is infinite. Raises ConfigError for another name.
    """
    percentile = _PERCENTILE.fullmatch(name)
    if percentile is None and name not in _LIMITS:
        raise ConfigError(
            f"--measure {name}: cannot be limited; known here: {', '.join(_LIMITS)}, and any percentile of "
            "ttft, e2e and tpot, such as ttft_p99_s"
        )
    read = MEASURES[name] if percentile is None else _percentile_of(percentile[1], float(percentile[2]))

    def measure(table: pa.Table) -> float:
        return math.inf if MEASURES["failed"](table) else read(table)

    return measure


def _percentile_of(what: str, percentile: float) -> Callable[[pa.Table], float]:
    def measure(table: pa.Table) -> float:
        values = _tpot(table) if what == "tpot" else _known(table, f"{what}_s")
        return float(np.percentile(values, percentile)) if len(values) else math.inf

    return measure
