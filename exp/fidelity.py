"""``block-exp fidelity``: the simulation against its judge, vLLM's own scheduler, step by step."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from block.latency.base import KernelLatency
from exp.cli import main
from exp.random_engine import JudgedWorkload, random_workload
from exp.trace_slice import TraceSlices

if TYPE_CHECKING:
    from exp.judge import Comparison

_TRACE_EVERY = 10
"""One workload in so many is a slice of a recorded trace, if there are any."""
_SEED_STRIDE = 1_000_000
"""Runs with neighbouring seeds share no workload."""

LATENCY = KernelLatency((0.0, 64.0, 1000.0), (0.02, 0.025, 0.12), 1e-6, 3e-9, 2e-5)
"""Every term is present, so that a wrong batch shape shows in the times."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: block-exp fidelity --workloads 200 --seed 7")
def fidelity(
    workloads: Annotated[int, typer.Option(min=1, help="How many random engines.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the engines and what they meet.")] = 0,
    requests: Annotated[int, typer.Option(min=1, help="About how many requests each meets.")] = 40,
    data: Annotated[Path, typer.Option(help="Optional folder with recorded traces.")] = Path(
        "../shared/data"
    ),
) -> None:
    """Run random engines in the simulation and in vLLM's own scheduler, and compare every step.

    A step is equal if it computes the same tokens of the same requests in the same order, preempts the
    same requests, leaves the same number of free blocks, and starts and ends at the same time. The last
    line is JSON. Exits with 1 if any step differs, after the first difference.
    """
    verdict = Verdict()
    with _quiet_vllm():
        for workload in _with_progress(_workloads(workloads, seed, requests, data), workloads):
            verdict.judge(workload)
    print(json.dumps(verdict.summary()), flush=True)
    raise typer.Exit(1 if verdict.mismatched_steps else 0)


@dataclass
class Verdict:
    """What the comparisons came to."""

    workloads: int = 0
    steps: int = 0
    mismatched_steps: int = 0
    preemptions: int = 0
    hit_tokens: int = 0
    aborts: int = 0
    sources: dict[str, int] = field(default_factory=dict)

    def judge(self, workload: JudgedWorkload) -> None:
        """Compare one workload; its first difference is printed."""
        from exp.judge import compare

        comparison = compare(workload.limits, LATENCY, workload.requests)
        if comparison.first_difference:
            self._show(workload, comparison)
        self.workloads += 1
        self.steps += comparison.steps
        self.mismatched_steps += comparison.mismatched_steps
        self.preemptions += comparison.preemptions
        self.hit_tokens += comparison.hit_tokens
        self.aborts += sum(request.abort_s is not None for request in workload.requests)
        kind = workload.source.partition(",")[0]
        self.sources[kind] = self.sources.get(kind, 0) + 1

    def _show(self, workload: JudgedWorkload, comparison: Comparison) -> None:
        if self.mismatched_steps:
            return
        print(f"{workload.source}: {workload.limits}", file=sys.stderr)
        print(comparison.first_difference, file=sys.stderr)

    def summary(self) -> dict[str, object]:
        """For the last line."""
        return {
            "workloads": self.workloads,
            "steps": self.steps,
            "mismatched_steps": self.mismatched_steps,
            "preemptions": self.preemptions,
            "hit_tokens": self.hit_tokens,
            "aborts": self.aborts,
            "sources": self.sources,
        }


@contextmanager
def _quiet_vllm() -> Iterator[None]:
    """It reports on every one of hundreds of engines otherwise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _workloads(count: int, seed: int, requests: int, data: Path) -> Iterator[JudgedWorkload]:
    slices = TraceSlices(data)
    for index in range(count):
        own_seed = seed * _SEED_STRIDE + index
        if slices.names and index % _TRACE_EVERY == _TRACE_EVERY - 1:
            name = slices.names[index // _TRACE_EVERY % len(slices.names)]
            yield slices.draw(name, own_seed, requests)
        else:
            yield random_workload(own_seed, requests)


def _with_progress(workloads: Iterator[JudgedWorkload], count: int) -> Iterator[JudgedWorkload]:
    columns = (TextColumn("workloads"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield from progress.track(workloads, total=count)


if __name__ == "__main__":
    main(["fidelity", *sys.argv[1:]])
