"""Options by which commands are told a workload."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WorkloadName = Annotated[str, typer.Option(help="A workload's name, or NAME:PATH for a trace of your own.")]
RequestCount = Annotated[int, typer.Option(min=1, help="How many.")]
ArrivalRate = Annotated[
    float | None, typer.Option(min=0.001, help="Mean arrivals per second; without it, recorded times.")
]
Burstiness = Annotated[float, typer.Option(min=0.001, help="Of gamma arrivals: 1 is Poisson.")]
DataFolder = Annotated[Path, typer.Option(help="The optional data folder.")]
