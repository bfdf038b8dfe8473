"""Arrivals whose rate goes along a curve, with the lengths of a workload. Seeded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from block.simulation.memory import Floats
from exp.cluster.load import ClusterLoad
from exp.provisioning.spec import LoadVariant
from exp.workload import WorkloadSpec, load_workload

_DAY_FILE = Path("servegen/m-small_day9.jsonl")
_WAVE_STEPS = 144
_DEPTH = 0.7
"""How far a generated day's rate goes above and below its mean."""
_SIZES = 4000
"""Requests of the workload whose lengths are drawn from."""


def make_load(variant: LoadVariant, data: Path, seed: int) -> tuple[ClusterLoad, str]:
    """The requests of one run, and where rates and lengths come from. Routers know the true lengths."""
    curve, source = _curve(variant, data)
    arrival_s = arrivals(curve * variant.rate_per_s, variant.duration_s, seed)
    workload = load_workload("auto", WorkloadSpec(_SIZES, 1.0, data, seed))
    chosen = np.random.default_rng(seed).integers(_SIZES, size=len(arrival_s))
    prompt = np.array([request.prompt_tokens for request in workload.requests], np.int64)[chosen]
    output = np.array([request.output_tokens for request in workload.requests], np.int64)[chosen]
    return ClusterLoad(arrival_s, prompt, output), f"{source}; {workload.source}"


def arrivals(rates_per_s: Floats, duration_s: float, seed: int) -> Floats:
    """Poisson arrivals; the rates hold for equal parts of the duration, one after the other."""
    edges_s = np.linspace(0.0, duration_s, len(rates_per_s) + 1)
    expected = np.concatenate(([0.0], np.cumsum(rates_per_s * np.diff(edges_s))))
    random = np.random.default_rng(seed)
    count = int(expected[-1] + 6 * np.sqrt(expected[-1])) + 10
    unit = np.cumsum(random.exponential(size=count))
    times_s: Floats = np.interp(unit[unit < expected[-1]], expected, edges_s)
    return times_s


def _curve(variant: LoadVariant, data: Path) -> tuple[Floats, str]:
    """Rates relative to their mean."""
    if variant.curve == "constant":
        return np.ones(1), "constant rate"
    if (data / _DAY_FILE).is_file():
        return servegen_day(data / _DAY_FILE), "rates of a ServeGen day (m-small, day 9)"
    phase = 2 * np.pi * (np.arange(_WAVE_STEPS) + 0.5) / _WAVE_STEPS
    return 1.0 - _DEPTH * np.cos(phase), "generated day: one wave"


def servegen_day(file: Path) -> Floats:
    """(windows,) rates of all clients together, relative to their mean."""
    totals: dict[float, float] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        for at_s, rate_per_s, *_ in json.loads(line)["trace"]:
            totals[at_s] = totals.get(at_s, 0.0) + rate_per_s
    rates = np.array([totals[at_s] for at_s in sorted(totals)])
    relative: Floats = rates / rates.mean()
    return relative
