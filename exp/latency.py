"""``block-exp latency``: step times from operator profiles: what they are made of, and how right they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from block.errors import ConfigError
from exp.cli import main

_ROOT = Path(__file__).resolve().parent.parent
DATA = _ROOT.parent / "shared" / "data"
_WIDTH = 150
"""Of tables, which name files and models; a terminal wraps them, a file keeps them whole."""

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    epilog="Example: block-exp latency show rtx-pro-6000 llama-3.1-8b",
)

Data = Annotated[Path, typer.Option(help="The folder that holds profiles/.")]
Gpu = Annotated[str, typer.Argument(help="A file of config/gpus, by name.")]
Model = Annotated[str, typer.Argument(help="A folder of config/models, by name.")]
Source = Annotated[str, typer.Option(help="llmservingsim, vidur or aiconfigurator; the first that has it.")]
Devices = Annotated[int, typer.Option("--tp", min=1, help="Devices over which tensors are spread.")]
Stages = Annotated[int, typer.Option("--pp", min=1, help="Stages of a pipeline.")]
Estimator = Annotated[str, typer.Option(help="grid, rising or forest.")]
Pack = Annotated[Path | None, typer.Option(help="Recorded steps of such an engine, to fit the constants to.")]
Seats = Annotated[int, typer.Option("--max-num-seqs", min=1, help="Most requests in one batch.")]
Budget = Annotated[int, typer.Option("--max-num-batched-tokens", min=2, help="Token budget of one step.")]
Out = Annotated[Path | None, typer.Option(help="Write it as a latency file for predictors.")]
Plot = Annotated[Path | None, typer.Option(help="Draw it into this PNG or SVG file.")]


@app.callback()
def latency() -> None:
    """Step times from operator profiles."""


@app.command(epilog="Example: block-exp latency show a100-80-sxm llama-3-8b --source vidur --plot a100.png")
def show(
    gpu: Gpu,
    model: Model,
    source: Source = "",
    data: Data = DATA,
    devices: Devices = 1,
    stages: Stages = 1,
    estimator: Estimator = "grid",
    pack: Pack = None,
    max_num_seqs: Seats = 256,
    max_num_batched_tokens: Budget = 2048,
    out: Out = None,
    plot: Plot = None,
) -> None:
    """Print a GPU's step times for a model, and which parts of them are measured, fitted or assumed.

    The last line is JSON.
    """
    from block.latency.pack import load_pack
    from exp.latency_report import LatencyReport
    from vidur_adapter.sources import Choice
    from vidur_adapter.tabulated import EngineRange

    choice = Choice(gpu, model, data / "profiles", _ROOT / "config", devices, stages, estimator)
    engine = EngineRange(max_num_seqs, max_num_batched_tokens)
    report = LatencyReport.build(choice, source, engine, None if pack is None else load_pack(pack))
    console = Console(width=_WIDTH)
    for table in report.tables():
        console.print(table)
    if plot is not None:
        report.plot(plot)
    if out is not None:
        _write(out, report.file())
    print(json.dumps(report.summary()), flush=True)


@app.command(epilog="Example: block-exp latency compare a30 qwen2-7b")
def compare(gpu: Gpu, model: Model, source: Source = "", data: Data = DATA, devices: Devices = 1) -> None:
    """Hold every fifth measured shape of each operator out, and say how well each estimator knows it."""
    from exp.latency_report import estimator_errors, estimator_table
    from vidur_adapter.sources import Choice, operator_model

    model_of = operator_model(
        Choice(gpu, model, data / "profiles", _ROOT / "config", devices=devices), source
    )
    errors = estimator_errors(model_of)
    Console(width=_WIDTH).print(estimator_table(errors))
    print(json.dumps(errors), flush=True)


@app.command(epilog="Example: block-exp latency silicon --plot silicon.png")
def silicon(
    data: Data = DATA,
    limit: Annotated[int | None, typer.Option(min=1, help="Judge only the first so many points.")] = None,
    plot: Plot = None,
) -> None:
    """Predict the TTFT and TPOT of measured servers from kernel tables; the last line is JSON."""
    from itertools import islice

    from exp.figure_file import check_figure
    from exp.silicon import Silicon
    from exp.silicon_report import SiliconReport

    if plot is not None:
        check_figure(plot)
    collection = Silicon(data / "profiles" / "aiconfigurator")
    console = Console(width=_WIDTH)
    with console.status(f"{len(collection.points)} points"):
        judged = tuple(islice(collection.judged(), limit))
    report = SiliconReport(judged, collection.left_out)
    for table in report.tables():
        console.print(table)
    if plot is not None:
        report.plot(plot)
    print(json.dumps(report.summary()), flush=True)


@app.command(
    epilog="Example: block-exp latency replay engine-0.npz --base config/latency/a30-llama-2-7b.yaml"
)
def replay(
    pack: Annotated[Path, typer.Argument(help="Recorded steps, in the order in which they ran.")],
    base: Annotated[Path, typer.Option(help="The step times that a predictor would start with.")],
    warm_up: Annotated[int, typer.Option(min=0, help="Steps that are not judged yet.")] = 1500,
) -> None:
    """Replay recorded steps through the online calibration, and say how well it foresaw the next ones.

    The last line is JSON.
    """
    from block.latency.load import load_latency
    from block.latency.pack import load_pack
    from exp.latency_replay import LatencyReplay

    console = Console(width=_WIDTH)
    with console.status("replaying"):
        judged = LatencyReplay(load_pack(pack), load_latency(base), warm_up).run()
    console.print(judged.table())
    print(json.dumps(judged.summary()), flush=True)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {path}: cannot be written ({error.strerror}); check the path") from error


if __name__ == "__main__":
    main(["latency", *sys.argv[1:]])
