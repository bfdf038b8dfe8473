"""``block-exp capacity``: how many instances a trace needs, or what load a fleet carries, by policy."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable
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
from exp.experiment.summary import MEASURES, Interval

_SCRATCH = Path("run/capacity")

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
        return MEASURES[self.measure](backend.run(cell))


@app.command(
    epilog="Example: block-exp capacity --workload lengths:MY.csv --rate 12 --gpu a100-80-sxm --slo 3"
)
def capacity(
    *,
    workload: Annotated[
        str, typer.Option("--workload", "--trace", help="A workload's name, or NAME:PATH for your own trace.")
    ] = "auto",
    rate: Annotated[float, typer.Option(min=0.001, help="Requests per second to carry.")] = 20.0,
    instances: Annotated[
        int | None, typer.Option(min=1, help="Find the rate that so many carry, instead of their number.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="A file of config/gpus, by name.")] = "a30",
    model: Annotated[str, typer.Option(help="A folder of config/models, by name.")] = "llama-2-7b",
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Most requests in one batch.")] = 48,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="Token budget of one step.")] = 512,
    max_model_len: Annotated[int, typer.Option(min=2, help="Most tokens of one request.")] = 4096,
    slo: Annotated[float, typer.Option(min=0.001, help="Limit of the measure.")] = 3.0,
    measure: Annotated[str, typer.Option(help="What is limited.")] = "ttft_p99_s",
    policy: Annotated[list[str] | None, typer.Option(help="To compare; may be given several times.")] = None,
    scenarios: Annotated[int, typer.Option(min=1, help="Of lengths, for policies that predict.")] = 4,
    length_error: Annotated[float, typer.Option(min=0.01, help="Sigma of estimated lengths' error.")] = 0.5,
    burstiness: Annotated[float, typer.Option(min=0.001, help="Of gamma arrivals: 1 is Poisson.")] = 1.0,
    requests: Annotated[int, typer.Option(min=10, help="Of each simulation.")] = 2000,
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
    if measure not in MEASURES:
        raise ConfigError(f"--measure {measure}: unknown; known here: {', '.join(MEASURES)}")
    fleet = PlannedFleet(gpu, model, max_num_seqs, max_num_batched_tokens, max_model_len)
    traffic = Traffic(name=workload, burstiness=burstiness, most_tokens=max_model_len - 8)
    questions = {}
    for name in policy or ("llumnix", "least_request", "block"):
        cluster = fleet.cluster(name, scenarios, _SCRATCH)
        sized = cluster.model_copy(update={"instances": instances or 1})
        known = "distribution" if scenarios > 1 else "guess"
        cell = Cell(name, gpu, "trace", rate, 0, requests, sized, traffic, known, length_error)
        questions[name] = Question(cell, data, measure, slo, tolerance, most_instances, tuple(range(seeds)))
    beside = workers or os.cpu_count() or 1
    answers = _rates(questions, beside) if instances else _instances(questions, beside)
    Console(stderr=True).print(_table(answers, f"{measure} within {slo:g}"))
    print(json.dumps({"measure": measure, "slo": slo, "gpu": gpu, "model": model, **answers}), flush=True)


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
