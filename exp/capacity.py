"""``block-exp capacity``: how many instances a trace needs, or what load a fleet carries, by policy."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from block.errors import ConfigError
from exp.cli import main
from exp.experiment.backend import Surroundings, backend_kind
from exp.experiment.capacity_search import fewest, highest_rate
from exp.experiment.cell import Cell, Traffic
from exp.experiment.planned_fleet import PlannedFleet
from exp.experiment.planned_load import PlannedLoad
from exp.experiment.summary import Interval, limited_measure

_SCRATCH = Path("run/capacity")
_SHORT_S = 60.0
"""A load that is over sooner says little of one that goes on."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Question:
    """For one policy: a cell of which the rate or the number of instances is looked for."""

    cell: Cell
    data: Path
    measure: str
    slo: float
    tolerance: float
    most_instances: int
    seeds: tuple[int, ...]

    def rate(self, seed: int) -> float:
        """Requests per second that the cell's fleet carries."""
        cell = replace(self.cell, seed=seed)
        guess = cell.rate_per_s
        return highest_rate(
            lambda rate: self._measured(replace(cell, rate_per_s=rate)), self.slo, guess, self.tolerance
        )

    def instances(self) -> int | None:
        """Instances with which the median over the seeds keeps the SLO."""
        return fewest(self._enough, self.most_instances)

    def _enough(self, count: int) -> bool:
        cluster = self.cell.cluster.model_copy(update={"instances": count})
        cells = (replace(self.cell, cluster=cluster, seed=seed) for seed in self.seeds)
        return median(map(self._measured, cells)) <= self.slo

    def _measured(self, cell: Cell) -> float:
        backend = backend_kind("simulated").load()(Surroundings(self.data))
        return limited_measure(self.measure)(backend.run(cell))


@app.command(epilog="Example: block-exp capacity --trace MY.csv --gpu a100 --model llama-2-7b --slo 3")
def capacity(
    *,
    workload: Annotated[
        str, typer.Option("--workload", "--trace", help="A workload, MY.csv with lengths, or NAME:PATH.")
    ] = "auto",
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Requests per second to carry; default: the trace's own, else 20."),
    ] = None,
    instances: Annotated[
        int | None, typer.Option(min=1, help="Find the rate that so many carry, instead of their number.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="A file of config/gpus, by name.")] = "a30",
    model: Annotated[str, typer.Option(help="A folder of config/models, by name.")] = "llama-2-7b",
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Most requests in one batch.")] = 48,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="Token budget of one step.")] = 512,
    max_model_len: Annotated[int, typer.Option(min=2, help="Most tokens of one request.")] = 4096,
    slo: Annotated[float, typer.Option(min=0.001, help="Limit of the measure.")] = 3.0,
    measure: Annotated[
        str, typer.Option(help="What is limited: any percentile of ttft, e2e or tpot, or a mean.")
    ] = "ttft_p99_s",
    policy: Annotated[list[str] | None, typer.Option(help="To compare; may be given several times.")] = None,
    scenarios: Annotated[int, typer.Option(min=1, help="Of lengths, for policies that predict.")] = 4,
    length_error: Annotated[float, typer.Option(min=0.01, help="Sigma of estimated lengths' error.")] = 0.5,
    burstiness: Annotated[float, typer.Option(min=0.001, help="Of gamma arrivals: 1 is Poisson.")] = 1.0,
    requests: Annotated[
        int | None, typer.Option(min=10, help="Of each simulation; default: 2,000, or what a trace has.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many; intervals need two.")] = 3,
    tolerance: Annotated[float, typer.Option(min=0.001, help="Of a rate, relative.")] = 0.02,
    most_instances: Annotated[int, typer.Option(min=1, max=64, help="More are not tried.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
    data: Annotated[Path, typer.Option(help="The optional data folder.")] = Path("../shared/data"),
) -> None:
    """Answer from a trace, a GPU and an SLO: how many instances are needed, and under which policy.

    Simulated, with step times from datasheets. The last line is JSON: by policy, the number of instances, or
    with --instances the rate and its 95 % interval over seeds.
    """
    if not math.isfinite(slo):
        raise ConfigError(
            f"--slo {slo}: must be a number; the measure's limit, in seconds where it is a time"
        )
    limited_measure(measure)
    console = Console(stderr=True)
    fleet = PlannedFleet(gpu, model, max_num_seqs, max_num_batched_tokens, max_model_len)
    traffic = Traffic(name=workload, burstiness=burstiness, most_tokens=max_model_len - 8)
    load = PlannedLoad.of(traffic, requests, rate, data)
    for doubt in _doubts(load, seeds, rate_sought=instances is not None):
        console.print(doubt, soft_wrap=True, highlight=False)
    questions = {}
    for name in policy or ("llumnix", "least_request", "block"):
        cluster = fleet.cluster(name, scenarios, _SCRATCH)
        sized = cluster.model_copy(update={"instances": instances or 1})
        known = "distribution" if scenarios > 1 else "guess"
        cell = Cell(
            name, gpu, "trace", load.rate_per_s, 0, load.requests, sized, load.traffic, known, length_error
        )
        questions[name] = Question(cell, data, measure, slo, tolerance, most_instances, tuple(range(seeds)))
    beside = workers or os.cpu_count() or 1
    answers = _rates(questions, beside) if instances else _instances(questions, beside)
    console.print(_table(answers, f"{measure} within {slo:g}"))
    asked = {"measure": measure, "slo": slo, "gpu": fleet.gpu_name, "model": model}
    shape = {"requests": load.requests, "rate_per_s": None if instances else round(load.rate_per_s, 4)}
    print(json.dumps({**asked, **shape, **answers, "best": _best(answers["policies"])}), flush=True)


def _doubts(load: PlannedLoad, seeds: int, *, rate_sought: bool) -> Iterator[str]:
    """What a reader of the answers must know of the load."""
    if load.repeated and seeds > 1:
        yield (
            f"the trace has {load.requests:,} requests: all seeds have the same ones at the same times, so "
            "that intervals tell of estimates and draws only"
        )
    lasts_s = load.requests / load.rate_per_s
    if not rate_sought and lasts_s < _SHORT_S:
        yield (
            f"{load.requests:,} requests at {load.rate_per_s:g}/s are a load of {lasts_s:.2g} s: queues have "
            "little time to grow, and answers are too good; raise --requests"
        )


def _best(answers: dict[str, Any]) -> list[str]:
    """The policies that need the fewest instances, or the one that carries most; none if none does."""
    costs = {
        name: answer["instances"] if "instances" in answer else -answer["capacity_qps"]
        for name, answer in answers.items()
        if answer.get("instances", 0) is not None
    }
    return [name for name, cost in costs.items() if cost == min(costs.values())]


def _rates(questions: dict[str, Question], beside: int) -> dict[str, Any]:
    tasks = [(question, seed) for question in questions.values() for seed in question.seeds]
    found = list(_mapped(_rate_of, tasks, beside))
    answers = {}
    for place, (name, question) in enumerate(questions.items()):
        count = len(question.seeds)
        interval = Interval.of(found[place * count : (place + 1) * count])
        half = None if math.isnan(interval.half) else round(interval.half, 3)
        answers[name] = {"capacity_qps": round(interval.mean, 3), "interval_qps": half}
    return {"policies": answers}


def _instances(questions: dict[str, Question], beside: int) -> dict[str, Any]:
    found = list(_mapped(Question.instances, list(questions.values()), beside))
    return {"policies": {name: {"instances": count} for name, count in zip(questions, found, strict=True)}}


def _mapped(function: Any, tasks: list[Any], beside: int) -> Iterable[Any]:
    if beside == 1 or len(tasks) == 1:
        yield from (function(task) for task in tasks)
        return
    with ProcessPoolExecutor(min(beside, len(tasks)), get_context("spawn")) as pool:
        yield from track(
            pool.map(function, tasks), "searching", total=len(tasks), console=Console(stderr=True)
        )


def _rate_of(task: tuple[Question, int]) -> float:
    question, seed = task
    return question.rate(seed)


def _table(answers: dict[str, Any], title: str) -> Table:
    table = Table("policy", "answer", title=title)
    for name, answer in answers["policies"].items():
        if "instances" in answer:
            count = answer["instances"]
            table.add_row(name, "more than were tried" if count is None else f"instances: {count}")
        else:
            half = "" if answer["interval_qps"] is None else f" ± {answer['interval_qps']}"
            table.add_row(name, f"{answer['capacity_qps']}{half} requests/s")
    return table


if __name__ == "__main__":
    main(["capacity", *sys.argv[1:]])
