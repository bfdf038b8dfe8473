"""``block-exp vidur``: the same arrivals through Vidur's replica scheduler and through ours."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from exp.cli import main

_ROOT = Path(__file__).resolve().parent.parent
_LATENCY = _ROOT / "config" / "latency" / "a30-llama-2-7b.yaml"
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: block-exp vidur ../vidur --requests 2000 --rate 2.5")
def vidur(
    checkout: Annotated[Path, typer.Argument(help="A Vidur checkout whose dependencies are installed.")],
    requests: Annotated[int, typer.Option(min=2, help="How many.")] = 1000,
    rate: Annotated[float, typer.Option(min=0.01, help="Requests per second.")] = 2.5,
    latency: Annotated[Path, typer.Option(help="Latency file, used by both.")] = _LATENCY,
    asynchronous: Annotated[bool, typer.Option(help="Let ours schedule one step ahead.")] = False,
) -> None:
    """Simulate one engine both ways, with the same step times, and say where they differ and what it costs.

    The last line is JSON: relative differences of Vidur's figures to ours, preemptions, steps, CPU seconds.
    """
    from block.latency.load import load_latency
    from block.simulation.engine import SimulatedRequest
    from exp.bench_what_if import PAPER_ENGINE
    from exp.vidur_comparison import VidurComparison
    from exp.workload import WorkloadSpec, generated
    from vidur_adapter.vidur_checkout import VidurCheckout

    arrivals = [
        SimulatedRequest(f"r{place}", each.arrival_s, each.prompt_tokens, each.output_tokens)
        for place, each in enumerate(generated(WorkloadSpec(requests, rate, _ROOT)).requests)
    ]
    limits = replace(PAPER_ENGINE, async_scheduling=asynchronous)
    theirs = VidurCheckout.load(checkout)
    comparison = VidurComparison.of(theirs, limits, load_latency(latency).kernel, arrivals)
    Console().print(comparison.table())
    print(json.dumps(comparison.summary()), flush=True)


if __name__ == "__main__":
    main(["vidur", *sys.argv[1:]])
