"""``block-exp prediction``: how right the predictions are on real vLLM servers, from idle to saturated."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from block.errors import ConfigError
from block.latency.load import load_latency
from deploy.cluster_file import load_cluster, load_plan, project_of
from deploy.launch import run_until_signalled
from deploy.plan import ClusterPlan
from exp.cli import main
from exp.free_port import free_port
from exp.local_model import make_local_model
from exp.prediction_report import (
    LevelReport,
    PredictionReport,
    append_outcomes,
    report_json,
    report_table,
)
from exp.prediction_run import LevelRuns, PredictionRun, SimulatedRun, Traffic

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Backend:
    """What is predicted: a cluster file, the models it serves in turn, and how long their requests may be.

    ``simulated`` takes only the engine's limits and step times from the file.
    """

    cluster: Path
    models: tuple[str, ...]
    prompt_scale: float
    output_scale: float
    most_tokens: int


BACKENDS = {
    # A CPU computes prompts some hundred times slower than a GPU: lengths shrink with it.
    "real-cpu": Backend(Path("config/cluster/cpu.yaml"), ("small-llama", "deep-llama"), 0.25, 0.5, 900),
    "emulated": Backend(Path("config/cluster/local.yaml"), ("llama-2-7b",), 1.0, 1.0, 4000),
    "simulated": Backend(Path("config/cluster/local.yaml"), ("llama-2-7b",), 1.0, 1.0, 4000),
}


@app.command(epilog="Example: block-exp prediction --backend real-cpu --seconds 20")
def prediction(
    *,
    backend: Annotated[str, typer.Option(help=f"{' or '.join(BACKENDS)}.")] = "real-cpu",
    seconds: Annotated[
        float, typer.Option(min=1.0, help="How long requests that are judged keep coming, per load and run.")
    ] = 20.0,
    seed: Annotated[int, typer.Option(help="Of lengths, arrivals and prompts.")] = 0,
    data: Annotated[Path, typer.Option(help="Optional folder with recorded traces.")] = Path(
        "../shared/data"
    ),
    model: Annotated[
        list[str] | None, typer.Option(help="Only this model of the backend; may be given several times.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override, as FIELD=VALUE.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write every judged request here, a JSON line each.")
    ] = None,
) -> None:
    """Serve one engine behind the router at five loads, each twice, with known response lengths.

    real-cpu computes the forward pass of two tiny models and emulated waits as a GPU's would; simulated
    needs no server and knows the step times: what it errs by is what requests still to come do. Prints the
    errors of predicted TTFT and E2E by load beside the noise floor: how far the two runs of the same
    requests lie apart. The last line is JSON. Exits with 1 if a request failed.
    """
    models = _chosen_models(backend, model)
    if out is not None:
        _empty(out)
    chosen, console, reports = BACKENDS[backend], Console(), []
    traffic = Traffic(data, seed, chosen.prompt_scale, chosen.output_scale, chosen.most_tokens)
    for name in models:
        with _Progress(name, console) as progress:
            if backend == "simulated":
                levels = _simulated(chosen, traffic, settings or []).run(progress.show)
            else:
                levels = _served(_plan(chosen, name, settings or []), traffic, seconds, progress)
        if out is not None:
            append_outcomes(out, name, levels)
        reports.append(PredictionReport(name, tuple(LevelReport.of(level) for level in levels)))
    console.print(report_table(reports))
    result = report_json(backend, reports)
    print(json.dumps(result), flush=True)
    raise typer.Exit(1 if result["failed"] else 0)


def _chosen_models(backend: str, model: list[str] | None) -> list[str]:
    if backend not in BACKENDS:
        raise ConfigError(f"--backend {backend}: unknown; known here: {', '.join(BACKENDS)}")
    known = BACKENDS[backend].models
    if strangers := [name for name in model or () if name not in known]:
        raise ConfigError(f"--model {strangers[0]}: {backend} has {', '.join(known)}")
    return model or list(known)


def _empty(out: Path) -> None:
    try:
        out.write_text("")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); name another file") from error


def _served(plan: ClusterPlan, traffic: Traffic, seconds: float, progress: _Progress) -> list[LevelRuns]:
    levels = run_until_signalled(PredictionRun(plan, traffic, seconds).run(progress.show))
    if levels is None:
        raise typer.Exit(130)
    return levels


def _plan(backend: Backend, model: str, settings: list[str]) -> ClusterPlan:
    folder = Path(".cache/models") / model
    make_local_model(model, folder)
    scheduler, engine, predictor = (free_port() for _ in range(3))
    own = [
        f"name=prediction-{model}",
        f"scheduler_port={scheduler}",
        f"engine_port={engine}",
        f"predictor_port={predictor}",
        f"engine.model={folder.resolve()}",
        f"engine.served_model_name={model}",
        f"scheduler.tokenizer={folder.resolve() / 'tokenizer.json'}",
        # What is judged is the prediction; on two cores at full load it may be late.
        "scheduler.probe_deadline_s=0.5",
    ]
    return load_plan(backend.cluster, [*own, *settings], instances=1)


def _simulated(backend: Backend, traffic: Traffic, settings: list[str]) -> SimulatedRun:
    config = load_cluster(backend.cluster, settings)
    latency = config.predictor.latency or config.engine.latency
    model = load_latency(project_of(backend.cluster) / latency)
    expect = config.predictor.expect_arrivals
    return SimulatedRun(config.engine.limits(), model, traffic, expect_arrivals=expect)


class _Progress:
    """A bar for one model."""

    def __init__(self, model: str, console: Console) -> None:
        columns = (
            TextColumn("{task.description:30}"),
            BarColumn(40),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console)
        self._model = model
        self._task = self._bar.add_task(f"{model}: start", total=1.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, what: str, done: float) -> None:
        """What runs now, and the share that is done."""
        self._bar.update(self._task, description=f"{self._model}: {what}", completed=done)


if __name__ == "__main__":
    main(["prediction", *sys.argv[1:]])
