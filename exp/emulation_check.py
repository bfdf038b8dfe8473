"""``block-exp emulation-check``: how true emulation is to a real engine, on loads that were not recorded."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from block.latency.load import load_latency
from deploy.launch import run_until_signalled
from exp.check_plan import CheckPlan, full, quick
from exp.check_report import result_table, write_report
from exp.check_result import CellResult, summary
from exp.check_run import ModelCheck
from exp.cli import main
from exp.local_model import make_local_model
from exp.time_left import TimeLeft
from exp.trial_engine import TrialEngine

MODELS = ("deep-llama", "small-llama")
TABLE_WIDTH = 150
"""Also where the output is no terminal."""
_ROOT = Path(__file__).resolve().parent.parent

app = typer.Typer(add_completion=False, rich_markup_mode=None)


Models = Annotated[
    list[str] | None, typer.Option("--model", help="A folder of config/models with weights; may be repeated.")
]
Whole = Annotated[
    bool, typer.Option("--full", help="Two models, five rates, Poisson and bursty: about an hour.")
]
Report = Annotated[Path | None, typer.Option(help="Folder for emulation-validation.md and its figures.")]
Device = Annotated[
    Path | None,
    typer.Option(
        help="A step-latency file: the truth is an emulated device that takes its times steadily, so that"
        " recording and emulating are judged without this machine's ups and downs."
    ),
]
Folder = Annotated[Path, typer.Option(help="Where packs and logs go.")]
Again = Annotated[bool, typer.Option(help="Begin anew; --no-again reads finished models' logs.")]
CellSeconds = Annotated[float | None, typer.Option(min=2.0, help="Length of each load.")]
RecordSeconds = Annotated[float | None, typer.Option(min=5.0, help="Of loads to record.")]
Seed = Annotated[int, typer.Option(min=0, help="Of all lengths and arrivals.")]
Data = Annotated[Path, typer.Option(help="The optional data folder.")]


@app.command(epilog="Example: block-exp emulation-check; or block-exp emulation-check --full --report docs")
def emulation_check(
    models: Models = None,
    whole: Whole = False,
    report: Report = None,
    folder: Folder = Path("run/emulation-check"),
    device: Device = None,
    again: Again = True,
    cell_seconds: CellSeconds = None,
    record_seconds: RecordSeconds = None,
    seed: Seed = 0,
    data: Data = Path("../shared/data"),
) -> None:
    """Record a tiny model's real forward passes, emulate it, and compare both on held-out loads.

    The truth is vLLM's CPU backend, run several times for the noise floor; emulated runs get the same
    requests at the same times. Ten minutes; the last line is JSON: signed relative errors of the worst
    held-out cell as fractions, what exceeds the floor at most, and how much faster virtual time is.
    """
    if device is not None:
        load_latency(device)
    names = tuple(models or MODELS[: None if whole else 1])
    plan = full(names, seed) if whole else quick(names, seed)
    plan = replace(plan, cell_s=cell_seconds or plan.cell_s, record_s=record_seconds or plan.record_s)
    place = folder.resolve() / ("full" if whole else "quick") / (device.stem if device else ".")
    results = _results(plan, place, data, device, again=again)
    Console(width=TABLE_WIDTH).print(result_table(results))
    if report is not None:
        made = shlex.join(["block-exp", *sys.argv[1:]])
        write_report(results, report, summary(results), made, str(device or ""))
    print(json.dumps(summary(results)), flush=True)


def _results(
    plan: CheckPlan, place: Path, data: Path, device: Path | None, *, again: bool
) -> list[CellResult]:
    """Of a check that runs until it ends or a signal comes."""
    for name in plan.models if again else ():
        shutil.rmtree(place / name, ignore_errors=True)
    results = run_until_signalled(checked(plan, place, data, Console(stderr=True), device))
    if results is None:
        print(f"interrupted; --no-again keeps the models that are finished in {place}", file=sys.stderr)
        raise typer.Exit(130)
    return results


async def checked(
    plan: CheckPlan, place: Path, data: Path, console: Console, device: Path | None = None
) -> list[CellResult]:
    """Run what ``place`` lacks of the plan; ``data`` is the optional data folder."""
    results: list[CellResult] = []
    with TimeLeft(console, 0.0) as progress:
        progress.note("making models")
        checks = [
            ModelCheck(plan, TrialEngine(_model(name)), place / name, data, progress, device)
            for name in plan.models
        ]
        for index, check in enumerate(checks):
            progress.plan(sum(each.planned_s for each in checks[index:]))
            check.folder.mkdir(parents=True, exist_ok=True)
            results += await check.run()
    return results


def _model(name: str) -> Path:
    return make_local_model(name, _ROOT / ".cache" / "models" / name)


if __name__ == "__main__":
    main(["emulation-check", *sys.argv[1:]])
