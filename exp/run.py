"""``block-exp run``: an experiment by its spec."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from exp.cli import main
from exp.experiment.backend import BACKENDS, Surroundings, backend_kind
from exp.experiment.equal_cells import EqualCells
from exp.experiment.report import Report, capacity_table
from exp.experiment.run_folder import RunFolder
from exp.experiment.runner import Runner
from exp.experiment.spec import ExperimentSpec

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: block-exp run config/exp/main.yaml --out run/main --quick")
def run(
    *,
    spec: Annotated[Path, typer.Argument(help="The experiment's file.")],
    out: Annotated[Path, typer.Option(help="Folder for results; a run that was interrupted goes on.")],
    backend: Annotated[str, typer.Option(help=f"{', '.join(BACKENDS)}.")] = "simulated",
    quick: Annotated[bool, typer.Option("--quick", help="Smaller, as the spec says.")] = False,
    requests: Annotated[int | None, typer.Option(min=2, help="Of each cell, in place of the spec's.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many of the spec's; more may be added to a folder later."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Cells beside each other; 0: one per core.")] = 0,
    url: Annotated[str, typer.Option(help="API of the running cluster, for --backend cluster.")] = "",
    data: Annotated[Path, typer.Option(help="The optional data folder.")] = Path("../shared/data"),
    reuse: Annotated[
        list[Path] | None,
        typer.Option(help="Folder whose equal cells are taken over; may be repeated. Simulated only."),
    ] = None,
    plot_only: Annotated[bool, typer.Option("--plot-only", help="Run nothing, draw anew.")] = False,
) -> None:
    """Run every cell of a spec that the folder lacks; then summary, figures, capacities.

    A run that was interrupted, kill -9 included, goes on where it was. The last line is JSON: out, figures
    (how many files) and capacity_qps by policy. Exits with 1 if a request failed.
    """
    kind = backend_kind(backend)
    experiment = ExperimentSpec.load(spec)
    experiment = (experiment.quickened() if quick else experiment).sized(requests, seeds)
    folder, console = RunFolder(out), Console(stderr=True)
    if plot_only:
        folder.require()
    else:
        folder.open(experiment, backend)
        beside = (workers or os.cpu_count() or 1) if kind.parallel else 1
        around = Surroundings(data, url, out / "servers")
        equal = EqualCells.of(reuse or (), folder, kind, data)
        Runner(kind.load(), around, beside, console, equal).run(experiment.cells(), folder)
    report = Report.make(folder, experiment)
    console.print(capacity_table(report))
    console.print(f"results: {out / 'summary.csv'}; figures: {folder.figures}", highlight=False)
    result = report.json(out)
    print(json.dumps(result), flush=True)
    raise typer.Exit(1 if result["failed"] else 0)


if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
