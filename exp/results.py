"""``block-exp results``: the page of results from the folders of runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from exp.cli import main
from exp.experiment.report import Report
from exp.experiment.results_page import Run, write_page
from exp.experiment.run_folder import RunFolder

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: block-exp results run/exp/main run/exp/prediction --page docs/results.md")
def results(
    *,
    folders: Annotated[list[Path], typer.Argument(help="Of block-exp run, in the page's order.")],
    page: Annotated[Path, typer.Option(help="Markdown to write; figures go to a folder beside it.")] = Path(
        "docs/results.md"
    ),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave what the page says of other runs as it is.")
    ] = False,
) -> None:
    """Write a page with the tables and figures of runs, their dates, machines and versions.

    Runs nothing: cells that a folder lacks are counted. The last line is JSON: page, runs, missing; out,
    figures (how many files) and capacity_qps by policy of the first run, and capacity_qps_by_run.
    """
    runs = [_run(path) for path in folders]
    page.parent.mkdir(parents=True, exist_ok=True)
    command = "block-exp results" + (" --keep FOLDER..." if keep else f" {' '.join(map(str, folders))}")
    write_page(runs, page, command, keep=keep)
    print(f"results: {page}; figures: {page.parent / page.stem}")
    print(json.dumps(_told(runs, page)), flush=True)


def _told(runs: Sequence[Run], page: Path) -> dict[str, Any]:
    each = {run.name: run.report.json(run.folder.path) for run in runs}
    return {
        "page": str(page),
        "runs": len(runs),
        "missing": sum(one["missing"] for one in each.values()),
        "out": str(page.parent),
        "figures": sum(one["figures"] for one in each.values()),
        "capacity_qps": next(iter(each.values()))["capacity_qps"],
        "capacity_qps_by_run": {name: one["capacity_qps_by_setting"] for name, one in each.items()},
    }


def _run(path: Path) -> Run:
    folder = RunFolder(path)
    return Run(path.name, folder, Report.make(folder, folder.spec))


if __name__ == "__main__":
    main(["results", *sys.argv[1:]])
