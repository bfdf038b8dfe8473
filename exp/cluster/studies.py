"""The variants that are compared on one cluster, and how: equal requests, several seeds, intervals.

A study is a table entry; ``block-exp study`` runs it and prints what came of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from block.latency.load import load_latency
from block.types import EngineLimits
from exp.cluster.capacity import Objective, at_rate, capacity_per_s
from exp.cluster.estimates import EstimateSpec, estimate_lengths
from exp.cluster.levels import LEVELLINGS
from exp.cluster.load import ClusterLoad, known_load
from exp.cluster.result import ClusterResult
from exp.cluster.simulation import simulate_cluster
from exp.cluster.spec import ClusterSpec, SimulatedInstance
from exp.cluster.text_lengths import text_lengths
from exp.workload import WorkloadSpec, load_workload

ROOT = Path(__file__).resolve().parents[2]
A30 = ROOT / "config/latency/a30-llama-2-7b.yaml"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the cluster."""

    name: str
    spec: ClusterSpec
    estimate: EstimateSpec = field(default_factory=EstimateSpec)
    levels: str = "predictor"
    """A name of ``LEVELLINGS``: at which levels what-ifs take lengths."""


Loads = Callable[[Variant, "StudyScale", int], ClusterLoad]
"""The requests of one run with a seed, the same for all variants but for what is expected of them."""


def load_of(variant: Variant, scale: StudyScale, seed: int) -> ClusterLoad:
    """ShareGPT's lengths, with an error."""
    workload = load_workload("auto", WorkloadSpec(scale.requests, 1.0, scale.data, seed))
    load = known_load(workload.requests)
    estimate = replace(variant.estimate, seed=seed)
    return replace(
        load,
        expected=estimate_lengths(estimate, load.prompt_tokens, load.output_tokens),
        max_tokens=None,
        levels=LEVELLINGS[variant.levels](len(load), variant.spec.scenarios, seed),
    )


def text_load_of(variant: Variant, scale: StudyScale, seed: int) -> ClusterLoad:
    """Held-out prompts of the text sets; ``estimate.kind`` names an estimator, or the oracle."""
    kind = variant.estimate.kind
    lengths = text_lengths(scale.data, LEARNED, scale.said)
    return lengths.load(None if kind == "oracle" else kind, scale.requests, seed)


@dataclass(frozen=True, slots=True)
class Study:
    """Variants, and the load under which they are compared."""

    title: str
    variants: Callable[[], Sequence[Variant]]
    rates_per_s: tuple[float, ...]
    """At which P99 and means are reported; capacity is searched from the first."""
    objective: Objective = field(default_factory=Objective)
    load_of: Loads = load_of


@dataclass(frozen=True, slots=True)
class StudyScale:
    """How much is run."""

    requests: int = 4000
    seeds: int = 5
    data: Path = ROOT.parent / "shared/data"
    workers: int = 1
    capacity: bool = True
    said: Path | None = None
    """Where what trained estimators say is kept; None trains them anew."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One variant: a figure per seed each, by name."""

    name: str
    what_ifs: int
    """Runs of the simulation per decision: what a choice costs."""
    figures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def interval(self, name: str) -> tuple[float, float]:
        """Mean over the seeds, and half the width of its 95 % interval."""
        return mean_and_half_width(self.figures[name])

    def against(self, other: Finding, name: str) -> tuple[float, float]:
        """Relative difference of the means of equal seeds, and half its 95 % interval."""
        pairs = zip(self.figures[name], other.figures[name], strict=True)
        return mean_and_half_width([mine / theirs - 1 for mine, theirs in pairs])


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Of Student's 95 % interval; not a number for a single value."""
    if len(values) < 2:
        return float(np.mean(values)), math.nan
    spread = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return float(np.mean(values)), spread


OnResult = Callable[[str, int, Mapping[str, float]], None]
"""Hears of each run as it ends: variant, seed, figures."""
Done = Mapping[tuple[str, int], dict[str, float]]
"""Figures of runs that were done before, by variant and seed."""


def run_study(
    study: Study,
    scale: StudyScale,
    on_result: OnResult = lambda _variant, _seed, _figures: None,
    done: Done | None = None,
) -> list[Finding]:
    """Every variant with every seed; those in ``done`` that have all figures are not run again."""
    variants = study.variants()
    wanted = set(_names(study, scale))
    known = {run: figures for run, figures in (done or {}).items() if wanted <= set(figures)}
    order = [(variant, seed) for seed in range(scale.seeds) for variant in variants]
    tasks = [(variant, seed) for variant, seed in order if (variant.name, seed) not in known]
    results = _results(tasks, partial(_run, study, scale), scale.workers)
    for (variant, seed), figures in zip(tasks, results, strict=True):
        known[variant.name, seed] = figures
        on_result(variant.name, seed, figures)
    found = {variant.name: [known[variant.name, seed] for seed in range(scale.seeds)] for variant in variants}
    return [
        Finding(
            variant.name,
            variant.spec.scenarios * (variant.spec.probes or len(variant.spec.instances)),
            {key: tuple(row[key] for row in found[variant.name]) for key in _names(study, scale)},
        )
        for variant in variants
    ]


def _names(study: Study, scale: StudyScale) -> list[str]:
    """Of a run's figures."""
    by_rate = [f"{name} at {rate_per_s:g}/s" for rate_per_s in study.rates_per_s for name in FIGURES]
    return [*by_rate, *(["capacity"] if scale.capacity else [])]


def _results(
    tasks: Sequence[tuple[Variant, int]], run: Callable[[tuple[Variant, int]], dict[str, float]], workers: int
) -> Iterator[dict[str, float]]:
    """In the order of the tasks."""
    if workers == 1:
        yield from map(run, tasks)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(run, tasks)


def _run(study: Study, scale: StudyScale, task: tuple[Variant, int]) -> dict[str, float]:
    variant, seed = task
    spec = replace(variant.spec, seed=seed)
    load = study.load_of(variant, scale, seed)
    found: dict[str, float] = {}
    for rate_per_s in study.rates_per_s:
        result = simulate_cluster(spec, at_rate(load, rate_per_s))
        for name, value in _figures(result).items():
            found[f"{name} at {rate_per_s:g}/s"] = value
    if scale.capacity:
        found["capacity"] = capacity_per_s(spec, load, study.objective, study.rates_per_s[0])
    return found


FIGURES = ("P99 TTFT", "mean E2E", "P99 E2E", "preemptions", "imbalance")
"""At each rate."""


def _figures(result: ClusterResult) -> dict[str, float]:
    summary: dict[str, Any] = result.summary
    return {
        "P99 TTFT": summary["p99_ttft_s"],
        "mean E2E": summary["mean_e2e_s"],
        "P99 E2E": summary["p99_e2e_s"],
        "preemptions": float(summary["preemptions"]),
        "imbalance": _imbalance(result),
    }


def _imbalance(result: ClusterResult) -> float:
    """How unequal the instances' requests are: standard deviation over mean, averaged over time."""
    held = result.series["running"] + result.series["waiting"]
    busy = held[held.mean(axis=1) >= 1.0]
    return float((busy.std(axis=1) / busy.mean(axis=1)).mean()) if len(busy) else 0.0


def _paper_cluster(batch: int = 48) -> ClusterSpec:
    """Twelve A30s with Llama-2-7B, and the paper's objective."""
    limits = EngineLimits(16, 1052, batch, 512, 4096, async_scheduling=True)
    instances = (SimulatedInstance(limits, load_latency(A30)),) * 12
    return ClusterSpec(instances, policy_options={"ttft_weight": 0.0})


def _heuristic(base: ClusterSpec, policy: str) -> ClusterSpec:
    return replace(base, policy=policy, policy_options={})


def _copies() -> list[Variant]:
    """1, 4 and 16 schedulers, with reservations at the predictors and without."""
    base = _paper_cluster()
    return [
        Variant(
            f"{copies} scheduler{'s' * (copies > 1)}{'' if reservations else ', no reservations'}",
            replace(base, schedulers=copies, reservations=reservations),
        )
        for reservations in (True, False)
        for copies in (1, 4, 16)
    ]


def _scenarios() -> list[Variant]:
    """The same wrong lengths, used as points, means and scenarios, at full cost and at that of 12 runs."""
    base, guess = _paper_cluster(24), EstimateSpec("distribution", 0.5)
    four = replace(base, scenarios=4)
    return [
        Variant("point", base, EstimateSpec("guess", 0.5)),
        Variant("conditional mean", base, guess),
        *(Variant(f"{count} scenarios", replace(base, scenarios=count), guess) for count in (2, 4, 8)),
        *(
            Variant(
                f"{count} scenarios, {probes} asked", replace(base, scenarios=count, probes=probes), guess
            )
            for count, probes in ((2, 6), (3, 4), (4, 3))
        ),
        Variant("4 scenarios, all long or all short", four, guess, "comonotone"),
        Variant("4 scenarios, drawn at random", four, guess, "independent"),
        Variant("oracle", base),
    ]


def _lengths() -> list[Variant]:
    """What better lengths are worth in routing."""
    base = _paper_cluster(24)
    four = replace(base, scenarios=4)
    return [
        Variant("oracle", base),
        Variant("guess, sigma 0.5, 4 scenarios", four, EstimateSpec("distribution", 0.5)),
        Variant("history, 4 scenarios", four, EstimateSpec("history")),
        Variant("constant", base, EstimateSpec("constant")),
        Variant("llumnix-", _heuristic(base, "llumnix"), EstimateSpec("constant")),
        Variant("least_request", _heuristic(base, "least_request"), EstimateSpec("constant")),
    ]


LEARNED = ("features", "roberta", "history", "constant")
"""Estimators that learn from other prompts of the same sets."""


def _texts() -> list[Variant]:
    """What estimators that read real prompts are worth."""
    base = _paper_cluster(24)
    prompt = replace(base, policy_options={"ttft_weight": 20.0})
    return [
        Variant("oracle", base),
        *(Variant(name, base, EstimateSpec(name)) for name in LEARNED),
        Variant("features, ttft_weight 20", prompt, EstimateSpec("features")),
        Variant("llumnix-", _heuristic(base, "llumnix"), EstimateSpec("constant")),
        Variant("least_request", _heuristic(base, "least_request"), EstimateSpec("constant")),
        Variant("lmetric", _heuristic(base, "lmetric"), EstimateSpec("constant")),
    ]


STUDIES: Mapping[str, Study] = {
    "copies": Study("Schedulers that do not talk to one another", _copies, (29.0,)),
    "scenarios": Study("Wrong lengths, batch cap 24", _scenarios, (26.0, 27.0)),
    "texts": Study(
        "Lengths learned from real prompts, batch cap 24", _texts, (52.0, 56.0), load_of=text_load_of
    ),
    "lengths": Study("Lengths known well and badly, batch cap 24", _lengths, (26.0, 27.0)),
}
