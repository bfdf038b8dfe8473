"""``block-exp provision``: strategies of provisioning by a spec."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import yaml
from rich.console import Console
from rich.table import Table

from block.config import load_config
from block.errors import ConfigError
from exp.cli import main
from exp.experiment.summary import Interval
from exp.figures.provisioning import draw_provisioning
from exp.provisioning.run import Run, run_strategy
from exp.provisioning.spec import ProvisionSpec

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(
    epilog="Example: block-exp provision config/provisioning/auto_provision.yaml --out run/prov --quick"
)
def provision(
    *,
    spec: Annotated[Path, typer.Argument(help="The experiment's file.")],
    out: Annotated[Path, typer.Option(help="Folder for results; a run that was interrupted goes on.")],
    quick: Annotated[bool, typer.Option("--quick", help="Smaller, as the spec says.")] = False,
    data: Annotated[Path, typer.Option(help="The optional data folder.")] = Path("../shared/data"),
) -> None:
    """Simulate every strategy under every load; then a table and figures.

    The last line is JSON: out, figures (how many files), and per load and strategy GPU-hours and misses.
    Exits with 1 if a request failed.
    """
    experiment = load_config(spec, ProvisionSpec)
    experiment.check()
    experiment = experiment.quickened() if quick else experiment
    file = _open(out, experiment)
    runs = _run(experiment, data, file)
    figures = draw_provisioning(runs, experiment.title, experiment.slo_ttft_s, out / "figures")
    console = Console(stderr=True)
    console.print(table(runs, experiment.slo_ttft_s))
    console.print(f"results: {file}; figures: {out / 'figures'}", highlight=False)
    failed = sum(run.failed for run in runs)
    found = {"out": str(out), "figures": len(figures), "failed": failed, "strategies": summary(runs)}
    print(json.dumps(found), flush=True)
    raise typer.Exit(1 if failed else 0)


def summary(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Load -> strategy -> means over the seeds and half widths of their 95 % intervals."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for load, strategy in dict.fromkeys((run.load, run.strategy) for run in runs):
        mine = [run for run in runs if (run.load, run.strategy) == (load, strategy)]
        figures: dict[str, float | None] = {}
        for name in ("gpu_hours", "misses", "p99_ttft_s", "p99_e2e_s"):
            interval = Interval.of([getattr(run, name) for run in mine])
            figures[name] = round(interval.mean, 5)
            figures[f"{name}_half"] = None if interval.half != interval.half else round(interval.half, 5)
        found.setdefault(load, {})[strategy] = figures
    return found


def table(runs: Sequence[Run], slo_ttft_s: float) -> Table:
    """A row per load and strategy."""
    shown = Table(title="means over the seeds, with 95 % intervals")
    for name in ("load", "strategy", "GPU-hours", f"TTFT > {slo_ttft_s:g} s, %", "P99 TTFT, s", "P99 E2E, s"):
        shown.add_column(name)
    for load, strategies in summary(runs).items():
        for strategy, figures in strategies.items():
            cells = [
                _cell(figures, name, scale)
                for name, scale in (("gpu_hours", 1), ("misses", 100), ("p99_ttft_s", 1), ("p99_e2e_s", 1))
            ]
            shown.add_row(load, strategy, *cells)
    return shown


def _cell(figures: dict[str, float | None], name: str, scale: float) -> str:
    mean, half = figures[name], figures[f"{name}_half"]
    assert mean is not None
    return f"{mean * scale:.3g}" + ("" if half is None else f" ± {half * scale:.2g}")


def _open(out: Path, spec: ProvisionSpec) -> Path:
    """The file of runs; raises ConfigError if another experiment lies there."""
    out.mkdir(parents=True, exist_ok=True)
    wanted: dict[str, Any] = spec.model_dump(mode="json")
    known = out / "spec.yaml"
    if known.exists() and yaml.safe_load(known.read_text("utf-8")) != wanted:
        raise ConfigError(f"{out}: holds another experiment; name another folder")
    known.write_text(yaml.safe_dump(wanted, sort_keys=False), "utf-8")
    return out / "runs.jsonl"


def _run(spec: ProvisionSpec, data: Path, file: Path) -> list[Run]:
    done = {run.key: run for run in _kept(file)}
    console = Console(stderr=True)
    wanted = [
        (load, strategy, seed) for seed in spec.seeds for load in spec.loads for strategy in spec.strategies
    ]
    for number, key in enumerate(wanted, 1):
        if key not in done:
            began_s = time.monotonic()
            done[key] = run_strategy(spec, *key, data)
            with file.open("ab") as log:
                log.write(msgspec.json.encode(done[key]) + b"\n")
            passed_s = time.monotonic() - began_s
            console.print(
                f"{number}/{len(wanted)} {' '.join(map(str, key))}: {passed_s:.0f} s", highlight=False
            )
    return [done[key] for key in wanted]


def _kept(file: Path) -> list[Run]:
    """Runs of earlier calls; a line that an interruption has cut off is dropped."""
    content = file.read_bytes() if file.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        file.write_bytes(whole)
    try:
        return [msgspec.json.decode(line, type=Run) for line in whole.splitlines()]
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file}: damaged ({error}); remove it, or name another folder") from error


if __name__ == "__main__":
    main(["provision", *sys.argv[1:]])
