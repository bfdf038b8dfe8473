"""``block-exp results``: the page of results from the folders of runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

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

    Runs nothing: cells that a folder lacks are counted. The last line is JSON: page, runs, missing.
    """
    runs = [_run(path) for path in folders]
    page.parent.mkdir(parents=True, exist_ok=True)
    command = "block-exp results" + (" --keep FOLDER..." if keep else f" {' '.join(map(str, folders))}")
    write_page(runs, page, command, keep=keep)
    missing = sum(run.report.missing for run in runs)
    print(json.dumps({"page": str(page), "runs": len(runs), "missing": missing}), flush=True)


def _run(path: Path) -> Run:
    folder = RunFolder(path)
    return Run(path.name, folder, Report.make(folder, folder.spec))


if __name__ == "__main__":
    main(["results", *sys.argv[1:]])
