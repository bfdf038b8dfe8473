"""``block-exp virtual``: a pack and a workload through vLLM's own scheduler in virtual time."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

from block.errors import ConfigError
from block.latency.oracle import StepOracle
from block.latency.pack import PackHeader, load_pack
from block.types import BatchShape, EngineLimits
from exp.cli import main
from exp.host_overheads import HostOverheads
from exp.run_log import RunLog
from exp.serving_metrics import ServingMetrics
from exp.virtual_clock import VirtualClock
from exp.workload import WorkloadSpec, load_workload
from exp.workload_options import ArrivalRate, Burstiness, DataFolder, RequestCount, WorkloadName

MEASURES: Mapping[str, str] = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "e2e"}
"""Names in results, as ``vllm bench serve`` has them, and ours."""
STATISTICS: Mapping[str, str] = {"mean": "mean", "median": "p50", "p90": "p90", "p99": "p99"}
_STEPS_PER_SIGN = 500
_BLOCK_SIZE = 16
"""vLLM's own, for packs that do not tell theirs."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: block-exp virtual config/packs/a30-llama-2-7b.npz --rate 2 --requests 500")
def virtual(
    pack: Annotated[Path, typer.Argument(help="A pack; its host.json beside it counts as well.")],
    workload: WorkloadName = "auto",
    requests: RequestCount = 200,
    rate: ArrivalRate = None,
    burstiness: Burstiness = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of lengths, arrivals and step times.")] = 0,
    steady: Annotated[
        bool, typer.Option("--steady", help="Every step takes its shape's mean, without ups and downs.")
    ] = False,
    num_gpu_blocks: Annotated[
        int | None, typer.Option(min=2, help="Of the KV cache, null block included; the pack's by default.")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(min=2, help="Longer requests are left out; the pack's by default.")
    ] = None,
    data: DataFolder = Path("../shared/data"),
    out: Annotated[Path | None, typer.Option(help="Every request's tokens, as JSON lines.")] = None,
) -> None:
    """Serve a workload by a pack's step times without waiting: vLLM's own scheduler in virtual time.

    The engine is the one that was recorded. The last line is JSON, its fields named as in vllm bench serve.
    """
    steps = load_pack(pack)
    limits = _limits(pack, steps.header, num_gpu_blocks, max_model_len)
    most = min(limits.max_model_len, limits.total_blocks * limits.block_size)
    host = HostOverheads.beside(pack)
    clock = VirtualClock(limits, HostOverheads.load(host) if host.is_file() else HostOverheads())
    load = load_workload(workload, WorkloadSpec(requests, rate, data, seed, most, burstiness))
    console = Console(stderr=True)
    with console.status("reading vLLM's scheduler") as status:
        times = VirtualTimes(StepOracle(steps, seed), steady, status)
        log = clock.run(load, times.seconds)
    if out is not None:
        _save(log, out)
    result = _result(log, times) | {"host": host.name if host.is_file() else None}
    console.print(_table(result))
    print(json.dumps(result), flush=True)


@dataclass
class VirtualTimes:
    """A pack's step times, counted."""

    oracle: StepOracle
    steady: bool
    status: Status
    """Where it shows that it goes on."""
    steps: int = 0
    uncovered: int = 0
    """Steps unlike any recorded."""

    def seconds(self, shape: BatchShape) -> float:
        """Of the next step."""
        answer = self.oracle.mean(shape) if self.steady else self.oracle.sample(shape)
        self.steps += 1
        self.uncovered += not answer.covered
        if self.steps % _STEPS_PER_SIGN == 0:
            self.status.update(f"{self.steps:,} steps")
        return answer.seconds


def _limits(
    pack: Path, header: PackHeader, num_gpu_blocks: int | None, max_model_len: int | None
) -> EngineLimits:
    """Of the engine that was recorded. Raises ConfigError for what it was and nobody tells."""
    limits = header.limits
    blocks = limits.total_blocks if num_gpu_blocks is None else num_gpu_blocks - 1
    limits = replace(
        limits,
        total_blocks=blocks,
        max_model_len=max_model_len or limits.max_model_len,
        block_size=limits.block_size or _BLOCK_SIZE,
    )
    for name in ("total_blocks", "max_model_len"):
        if not getattr(limits, name):
            option = {"total_blocks": "--num-gpu-blocks"}.get(name, "--max-model-len")
            raise ConfigError(f"{pack}: does not tell {name}; give {option}")
    return limits


def _save(log: RunLog, out: Path) -> None:
    try:
        log.save(out)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); check the path") from error


def _result(log: RunLog, times: VirtualTimes) -> dict[str, Any]:
    metrics = ServingMetrics.of(log)
    last_s = max(request.token_s[-1] for request in log.good)
    spreads = {
        f"{statistic}_{measure}_ms": 1e3 * getattr(metrics.spread(ours), name)
        for measure, ours in MEASURES.items()
        for statistic, name in STATISTICS.items()
    }
    return {
        "workload": log.header.name,
        "duration": last_s,
        "completed": metrics.requests - metrics.failed,
        "failed": metrics.failed,
        **spreads,
        "output_throughput": metrics.throughput_per_s,
        "preemptions": metrics.preemptions,
        "kv_use_mean": metrics.kv_use_mean,
        "kv_use_max": metrics.kv_use_max,
        "steps": times.steps,
        "uncovered_steps": times.uncovered,
        "wall_s": log.header.wall_s,
        "speedup": last_s / log.header.wall_s,
    }


def _table(result: Mapping[str, Any]) -> Table:
    """One row per measure."""
    seconds, factor = result["duration"], result["speedup"]
    table = Table(title=f"{result['completed']} requests, {seconds:.1f} s, {factor:.0f} times faster")
    table.add_column("measure, ms")
    for statistic in STATISTICS:
        table.add_column(statistic, justify="right")
    for measure in MEASURES:
        table.add_row(measure, *(f"{result[f'{statistic}_{measure}_ms']:.2f}" for statistic in STATISTICS))
    return table


if __name__ == "__main__":
    main(["virtual", *sys.argv[1:]])
