"""``block-exp simulate``: a list of arrivals on one engine, every step written down.

The file formats and every rule of the clock are in docs/simulation.md. Knows nothing of vLLM.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from block.errors import ConfigError
from block.simulation.engine import EngineSimulation, SimulatedStep
from exp.arrivals_file import ArrivalsFile
from exp.cli import main
from exp.engine_file import EngineFile

_STEPS_PER_UPDATE = 1000

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(
    epilog="Example: block-exp simulate --arrivals arrivals.jsonl --engine engine.yaml --steps steps.jsonl"
)
def simulate(
    arrivals: Annotated[Path, typer.Option(help="One request per line, as JSON.")],
    engine: Annotated[Path, typer.Option(help="The engine, as YAML or JSON.")],
    steps: Annotated[Path, typer.Option(help="Where to write one step per line, as JSON.")],
) -> None:
    """Simulate vLLM's scheduler on a list of arrivals and write down every step.

    The last line is JSON: requests, steps, preemptions, makespan_s.
    """
    settings = EngineFile.load(engine)
    asked = ArrivalsFile.load(arrivals, settings.limits)
    if steps.resolve() in (arrivals.resolve(), engine.resolve()):
        raise ConfigError(f"--steps {steps}: is an input file; name another file")
    simulation = EngineSimulation(
        settings.limits, settings.latency, asked.requests, empty_step_s=settings.base_s
    )
    try:
        with steps.open("wb") as file:
            totals = _write(simulation, asked, file)
    except OSError as error:
        raise ConfigError(f"--steps {steps}: cannot be written ({error.strerror}); check the path") from error
    print(json.dumps(totals.summary(asked)), flush=True)


@dataclass
class _Totals:
    """What the last line reports."""

    steps: int = 0
    preemptions: int = 0
    end_s: float = 0.0

    def count(self, step: SimulatedStep) -> None:
        self.steps += 1
        self.preemptions += len(step.preempted)
        self.end_s = step.end_s

    def summary(self, asked: ArrivalsFile) -> dict[str, float]:
        first_s = min((request.arrival_s for request in asked.requests), default=0.0)
        return {
            "requests": len(asked.requests),
            "steps": self.steps,
            "preemptions": self.preemptions,
            "makespan_s": self.end_s - first_s if self.steps else 0.0,
        }


def _write(simulation: EngineSimulation, asked: ArrivalsFile, file: BinaryIO) -> _Totals:
    encoder, totals = msgspec.json.Encoder(), _Totals()
    for step in _with_progress(simulation):
        totals.count(step)
        line = {
            "step": step.step,
            "start_s": step.start_s,
            "end_s": step.end_s,
            "scheduled": step.scheduled,
            "preempted": [asked.written(name) for name in step.preempted],
            "free_blocks": step.free_blocks,
        }
        file.write(encoder.encode(line) + b"\n")
    return totals


def _with_progress(simulation: EngineSimulation) -> Iterable[SimulatedStep]:
    """The steps; finished requests are shown on stderr while they come."""
    columns = (TextColumn("simulate"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("requests", total=len(simulation.requests))
        for step in simulation.steps():
            if step.step % _STEPS_PER_UPDATE == 0:
                progress.update(task, completed=simulation.finished_count)
            yield step


if __name__ == "__main__":
    main(["simulate", *sys.argv[1:]])
