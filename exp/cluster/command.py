"""``block-exp cluster``: one cluster in virtual time, from flags."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from block.errors import ConfigError
from block.latency.load import load_latency
from block.types import EngineLimits
from exp.cli import main
from exp.cluster.capacity import all_at_once, saturated_per_s
from exp.cluster.estimates import EstimateSpec, estimate_lengths
from exp.cluster.load import ClusterLoad, known_load
from exp.cluster.result import ClusterResult
from exp.cluster.simulation import simulate_cluster
from exp.cluster.spec import ClusterSpec, Delays, Failure, SimulatedInstance
from exp.workload import Workload, WorkloadSpec, load_workload

_SPARE_TOKENS = 96
_FAILURE = re.compile(r"(\d+)@(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(
    epilog="Example: block-exp cluster --policy block --rate 28 --lengths distribution --scenarios 4"
)
def cluster(
    *,
    instances: Annotated[int, typer.Option(min=1, help="How many, all of --latency.")] = 12,
    latency: Annotated[Path, typer.Option(help="Step-latency model file or pack.")] = Path(
        "config/latency/a30-llama-2-7b.yaml"
    ),
    pool: Annotated[
        list[str] | None, typer.Option(help="Instead, COUNTxFILE of each kind, as in 8xa30.yaml; repeat it.")
    ] = None,
    policy: Annotated[str, typer.Option(help="A routing policy.")] = "block",
    option: Annotated[list[str] | None, typer.Option(help="The policy's, as NAME=VALUE.")] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Mean arrivals per second.")] = 28.0,
    requests: Annotated[int, typer.Option(min=1)] = 4000,
    schedulers: Annotated[int, typer.Option(min=1, help="Copies that do not talk to one another.")] = 1,
    scenarios: Annotated[int, typer.Option(min=1, max=64, help="Of response lengths.")] = 1,
    probes: Annotated[int | None, typer.Option(min=1, help="Predictors asked; default: all.")] = None,
    reservations: Annotated[bool, typer.Option(help="Predictors count choices under way.")] = True,
    expect_arrivals: Annotated[bool, typer.Option(help="Predictors count on more arrivals.")] = True,
    lengths: Annotated[
        str, typer.Option(help="What routers go by: oracle, constant, guess, distribution or history.")
    ] = "oracle",
    sigma: Annotated[float, typer.Option(min=0.0, help="Error of guess and distribution, of the log.")] = 0.5,
    fail: Annotated[
        list[str] | None,
        typer.Option(help="An instance that dies, as INDEX@SECONDS or INDEX@SECONDS-BACK; repeat it."),
    ] = None,
    hindsight: Annotated[bool, typer.Option(help="Also rank choices by what-ifs that know all.")] = False,
    blocks: Annotated[int, typer.Option(min=2, help="KV blocks of each engine.")] = 1052,
    batch: Annotated[int, typer.Option(min=1, help="max_num_seqs")] = 48,
    chunk: Annotated[int, typer.Option(min=1, help="max_num_batched_tokens")] = 512,
    model_len: Annotated[
        int, typer.Option(min=128, help="max_model_len; requests with more than 96 tokens less are left out.")
    ] = 4096,
    prefix_caching: Annotated[bool, typer.Option(help="Engines keep a prefix cache.")] = False,
    feed_ms: Annotated[float, typer.Option(min=0.0, help="Age of what is known of engines.")] = 1.0,
    decision_ms: Annotated[float, typer.Option(min=0.0, help="From arrival to choice.")] = 2.0,
    dispatch_ms: Annotated[float, typer.Option(min=0.0, help="From choice to the engine's queue.")] = 3.0,
    workload: Annotated[str, typer.Option(help="auto or a workload's name.")] = "auto",
    data: Annotated[Path, typer.Option(help="Optional folder with recorded traces.")] = Path(
        "../shared/data"
    ),
    saturate: Annotated[
        bool, typer.Option("--saturate", help="All requests wait from the beginning: what is the most?")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write each request's figures there, as parquet.")] = None,
    seed: Annotated[int, typer.Option(help="Of lengths, arrivals, errors and choices.")] = 0,
) -> None:
    """Simulate a cluster of vLLM servers under one policy; no server and no GPU is needed.

    The last line is JSON: mean and P99 of TTFT, E2E and TPOT, preemptions, hit_rate, wall_s.
    """
    limits = EngineLimits(
        16, blocks, batch, chunk, model_len, prefix_caching=prefix_caching, async_scheduling=True
    )
    spec = ClusterSpec(
        instances=_instances(pool or [f"{instances}x{latency}"], limits),
        policy=policy,
        policy_options=_options(option or []),
        schedulers=schedulers,
        probes=probes,
        scenarios=scenarios,
        reservations=reservations,
        expect_arrivals=expect_arrivals,
        delays=Delays(feed_s=feed_ms / 1e3, decision_s=decision_ms / 1e3, dispatch_s=dispatch_ms / 1e3),
        failures=tuple(map(_failure, fail or ())),
        hindsight=hindsight,
        seed=seed,
    )
    traffic = load_workload(
        workload, WorkloadSpec(requests, rate, data, seed, most_tokens=model_len - _SPARE_TOKENS)
    )
    load = load_of(traffic, EstimateSpec(lengths, sigma, seed=seed))
    load = all_at_once(load) if saturate else load
    console = Console(stderr=True)
    started_s = time.perf_counter()
    result = _with_progress(spec, load, console)
    wall_s = time.perf_counter() - started_s
    if out is not None:
        _write(result, out)
    Console().print(table(result, f"{policy}, {len(spec.instances)} instances, {rate:g}/s: {traffic.source}"))
    summary = {"policy": policy, "rate_per_s": rate, **result.summary, "wall_s": round(wall_s, 3)}
    if saturate:
        summary |= {"rate_per_s": None, "saturated_per_s": round(saturated_per_s(result), 3)}
    print(json.dumps(summary), flush=True)


def load_of(traffic: Workload, estimate: EstimateSpec) -> ClusterLoad:
    """A workload as columns, with lengths as routers take them; clients do not tell them."""
    load = known_load(traffic.requests)
    expected = estimate_lengths(estimate, load.prompt_tokens, load.output_tokens)
    return replace(load, expected=expected, max_tokens=None)


def table(result: ClusterResult, title: str) -> Table:
    """Percentiles of the answered requests."""
    found = Table(title=title)
    for name in ("seconds", "mean", "p50", "p90", "p99"):
        found.add_column(name, justify="left" if name == "seconds" else "right")
    for name, label in (("ttft_s", "TTFT"), ("e2e_s", "E2E"), ("tpot_s", "TPOT")):
        values = result.column(name)
        values = values[np.isfinite(values)]
        if len(values):
            figures = [values.mean(), *np.percentile(values, [50, 90, 99])]
            found.add_row(label, *[f"{figure:.4g}" for figure in figures])
    return found


def _instances(pool: list[str], limits: EngineLimits) -> tuple[SimulatedInstance, ...]:
    found: list[SimulatedInstance] = []
    for entry in pool:
        count, _, path = entry.partition("x")
        if not count.isdigit() or not path:
            raise ConfigError(
                f"--pool {entry}: must be COUNTxFILE, as in 8xconfig/latency/a30-llama-2-7b.yaml"
            )
        found += [SimulatedInstance(limits, load_latency(Path(path)))] * int(count)
    return tuple(found)


def _failure(entry: str) -> Failure:
    found = _FAILURE.fullmatch(entry)
    if found is None:
        raise ConfigError(f"--fail {entry}: must be INDEX@SECONDS or INDEX@SECONDS-BACK, as in 3@60-120")
    return Failure(int(found[1]), float(found[2]), back_s=float(found[3] or "inf"))


def _options(given: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for entry in given:
        name, equals, text = entry.partition("=")
        if not equals:
            raise ConfigError(f"--option {entry}: must be NAME=VALUE")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def _write(result: ClusterResult, path: Path) -> None:
    import pyarrow.parquet

    try:
        pyarrow.parquet.write_table(result.requests, path)
    except OSError as error:
        raise ConfigError(f"--out {path}: cannot be written ({error.strerror}); check the path") from error


def _with_progress(spec: ClusterSpec, load: ClusterLoad, console: Console) -> ClusterResult:
    columns = (
        TextColumn("simulating"),
        BarColumn(40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    every = max(1, math.ceil(len(load) / 200))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(load))

        def show(ended: int) -> None:
            if ended % every == 0:
                progress.update(task, completed=ended)

        return simulate_cluster(spec, load, show)


if __name__ == "__main__":
    main(["cluster", *sys.argv[1:]])
