"""``block-exp cluster-check``: the simulated cluster beside real vLLM servers with emulated GPUs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.cluster_file import load_cluster, load_plan, project_of
from deploy.launch import run_until_signalled
from exp.cli import main
from exp.cluster.agreement import Agreement, AgreementRun
from exp.free_port import free_port_range
from exp.slowed_latency import slowed_latency
from exp.workload import WorkloadSpec, load_workload

GOAL = 0.05

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: block-exp cluster-check --instances 2 --requests 120 --rate 3")
def cluster_check(
    *,
    cluster: Annotated[Path, typer.Option(help="Cluster file.")] = Path("config/cluster/local.yaml"),
    instances: Annotated[int, typer.Option(min=1, help="vLLM servers.")] = 2,
    requests: Annotated[int, typer.Option(min=20, help="Under each policy.")] = 300,
    rate: Annotated[float, typer.Option(min=0.01, help="Mean arrivals per second.")] = 4.0,
    slower: Annotated[
        float,
        typer.Option(min=1.0, help="A GPU so many times slower, and so many times less load."),
    ] = 1.0,
    policy: Annotated[list[str] | None, typer.Option(help="Default: round_robin and block.")] = None,
    workload: Annotated[str, typer.Option(help="auto or a workload's name.")] = "auto",
    data: Annotated[Path, typer.Option(help="Optional folder with recorded traces.")] = Path(
        "../shared/data"
    ),
    seed: Annotated[int, typer.Option(help="Of lengths, arrivals and prompts.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override, as FIELD=VALUE.")] = None,
) -> None:
    """Send one trace through a cluster of emulated vLLM servers and through its simulation.

    The last line is JSON, with the errors of mean and P99 of TTFT and E2E per policy. Exits with 1 if a
    request failed.
    """
    first = free_port_range(1 + 2 * instances)
    own = [
        f"scheduler_port={first}",
        f"engine_port={first + 1}",
        f"predictor_port={first + 1 + instances}",
    ]
    given = [*own, "name=cluster-check", f"instances={instances}", *(settings or [])]
    if slower > 1:
        given.append(f"engine.latency={_slowed(cluster, given, slower)}")
    run = AgreementRun(
        plan=load_plan(cluster, given),
        config=load_cluster(cluster, given),
        root=project_of(cluster),
        workload=load_workload(workload, WorkloadSpec(requests, rate / slower, data, seed)),
        policies=policy or ("round_robin", "block"),
    )
    console = Console()
    found = run_until_signalled(run.run(console.print))
    if found is None:
        raise typer.Exit(130)
    console.print(table(found))
    worst = max(one.worst for one in found)
    summary = {"goal": GOAL, "worst": round(worst, 5), "policies": [one.as_json() for one in found]}
    print(json.dumps(summary), flush=True)
    raise typer.Exit(1 if any(one.failed for one in found) else 0)


def _slowed(cluster: Path, given: list[str], factor: float) -> Path:
    """The cluster's latency table with every figure times ``factor``, written down."""
    root = project_of(cluster)
    return slowed_latency(root / load_cluster(cluster, given).engine.latency, factor, root / "run")


def table(found: list[Agreement]) -> Table:
    """Emulated and simulated seconds, and how far they lie apart."""
    rows = Table(title="simulated against emulated vLLM servers")
    for name in ("policy", "measure", "emulated, s", "simulated, s", "error"):
        rows.add_column(name, justify="left" if name in ("policy", "measure") else "right")
    for one in found:
        for name, emulated_s in one.emulated.items():
            cells = (f"{emulated_s:.4g}", f"{one.simulated[name]:.4g}", f"{100 * one.errors[name]:+.1f} %")
            rows.add_row(one.policy, name.removesuffix("_s"), *cells)
    return rows


if __name__ == "__main__":
    main(["cluster-check", *sys.argv[1:]])
