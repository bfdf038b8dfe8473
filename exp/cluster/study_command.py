"""``block-exp study``: variants of one simulated cluster, compared over several seeds."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from block.errors import ConfigError
from exp.cli import main
from exp.cluster.studies import STUDIES, Finding, StudyScale, run_study
from exp.cluster.study_log import StudyLog

_WIDTH = 400
"""A row of Markdown must not be folded."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: block-exp study copies --seeds 5")
def study(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STUDIES)}.")],
    *,
    requests: Annotated[int, typer.Option(min=100, help="Per run.")] = 4000,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 5,
    capacity: Annotated[bool, typer.Option(help="Also search the rate at which P99 TTFT passes 3 s.")] = True,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    log: Annotated[
        Path | None, typer.Option(help="Write each run there as it ends; those it has are not run again.")
    ] = None,
    said: Annotated[
        Path | None, typer.Option(help="texts: keep there, as .npz, what trained estimators say.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Optional folder with recorded traces.")] = Path(
        "../shared/data"
    ),
) -> None:
    """Compare the study's variants: means over the seeds with 95 % intervals, as a Markdown table.

    The last line is JSON.
    """
    if name not in STUDIES:
        raise ConfigError(f"study {name!r}: unknown; known here: {', '.join(STUDIES)}")
    scale = StudyScale(requests, seeds, data, workers, capacity, said)
    findings = _with_progress(name, scale, log)
    Console(width=_WIDTH).print(table(STUDIES[name].title, findings))
    figures = [{"variant": found.name, "what_ifs": found.what_ifs, **found.figures} for found in findings]
    print(json.dumps({"study": name, "requests": requests, "seeds": seeds, "findings": figures}), flush=True)


def table(title: str, findings: list[Finding]) -> Table:
    """One row per variant; differences are against the first, seed by seed."""
    names = list(findings[0].figures)
    found = Table(title=title, box=box.MARKDOWN)
    found.add_column("variant")
    found.add_column("what-ifs", justify="right")
    for name in names:
        found.add_column(name, justify="right")
    if "capacity" in names:
        found.add_column(f"against {findings[0].name}", justify="right")
    for finding in findings:
        cells = [_cell(*finding.interval(name)) for name in names]
        if "capacity" in names:
            cells.append("" if finding is findings[0] else _share(*finding.against(findings[0], "capacity")))
        found.add_row(finding.name, str(finding.what_ifs), *cells)
    return found


def _share(mean: float, half_width: float) -> str:
    return (
        f"{100 * mean:+.1f} %" if math.isnan(half_width) else f"{100 * mean:+.1f} ± {100 * half_width:.1f} %"
    )


def _cell(mean: float, half_width: float) -> str:
    return f"{mean:.3g}" if math.isnan(half_width) else f"{mean:.3g} ± {half_width:.2g}"


def _with_progress(name: str, scale: StudyScale, log: Path | None) -> list[Finding]:
    columns = (
        TextColumn(name),
        BarColumn(40),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    runs = scale.seeds * len(STUDIES[name].variants())
    kept = None if log is None else StudyLog(log, name, scale.requests)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=runs)

        def note(variant: str, seed: int, figures: Mapping[str, float]) -> None:
            progress.advance(task)
            if kept is not None:
                kept.add(variant, seed, figures)

        return run_study(STUDIES[name], scale, note, None if kept is None else kept.read())


if __name__ == "__main__":
    main(["study", *sys.argv[1:]])
