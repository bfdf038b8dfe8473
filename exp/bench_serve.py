"""``block-exp bench serve``: a load on an OpenAI server, and what it measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from block.errors import ConfigError, InstanceError
from exp.client import LoadClient, LoadRun
from exp.outcome import Outcome
from exp.prompt import PromptWriter
from exp.serve_result import MEASURES, Goodput, details, summary
from exp.target import Target
from exp.workload import Workload

_ANSWER_S = 10.0
_MODELS = Path(".cache/models")


@dataclass(frozen=True, slots=True)
class ServeBench:
    """A load and where it goes."""

    target: Target
    """An empty model is asked of the server."""
    workload: Workload
    policy: str
    warm_up: int
    """Requests sent before, and not counted."""
    tokenizer: Path | None
    timeout_s: float
    goodput: Goodput
    percentiles: Sequence[float]

    def run(self, console: Console) -> tuple[dict[str, Any], dict[str, list[Any]], LoadRun]:
        """The summary, the lists per request and the run itself; raises InstanceError without a server."""
        model = self.target.model or uvloop.run(first_model(self.target))
        writer = self._writer(model)
        client = LoadClient(replace(self.target, model=model), writer, self.timeout_s)
        with _progress(console, len(self.workload.requests)) as progress:
            run = uvloop.run(self._send(client, progress))
        backend = {"chat": "openai-chat", "completions": "openai"}[self.target.endpoint]
        head = {
            "date": time.strftime("%Y%m%d-%H%M%S"),
            "endpoint_type": backend,
            "backend": backend,
            "label": None,
            "model_id": model,
            "tokenizer_id": str(self.tokenizer or ""),
            "num_prompts": len(self.workload.requests),
            "workload": self.workload.source,
            "policy": self.policy,
        }
        return {**head, **summary(run, self.goodput, self.percentiles)}, details(run), run

    async def _send(self, client: LoadClient, progress: Progress) -> LoadRun:
        if self.warm_up:
            await self._warm(client)
        task = progress.task_ids[0]
        failed = 0

        def count(outcome: Outcome) -> None:
            nonlocal failed
            failed += bool(outcome.error)
            progress.update(task, advance=1, failed=failed)

        return await client.run(self.workload, self.policy, count)

    async def _warm(self, client: LoadClient) -> None:
        first = self.workload.requests[0]
        requests = tuple(replace(first, arrival_s=0.0, output_tokens=8) for _ in range(self.warm_up))
        run = await client.run(Workload("warm-up", requests), self.policy)
        if not any(outcome.token_s for outcome in run.outcomes):
            raise InstanceError(f"{self.target.host}:{self.target.port}: {run.outcomes[0].error}")

    def _writer(self, model: str) -> PromptWriter | None:
        if all(request.prompt for request in self.workload.requests):
            return None
        path = self.tokenizer or _MODELS / Path(model).name
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(
                f"--tokenizer {path}: not there; name the model's tokenizer.json, prompts are written with it"
            )
        return PromptWriter(path)


async def first_model(target: Target) -> str:
    """The name of the first model that a server has; raises InstanceError if it does not tell."""
    scheme = "https" if target.tls else "http"
    url = f"{scheme}://{target.host}:{target.port}{target.path}/models"
    try:
        timeout = aiohttp.ClientTimeout(_ANSWER_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            return str((await answer.json())["data"][0]["id"])
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
        raise InstanceError(f"{url}: no list of models ({error}); check --url, or give --model") from error


def result_table(result: Mapping[str, Any], percentiles: Sequence[float]) -> Table:
    """One row per measure."""
    table = Table(
        title=f"{result['completed']} completed, {result['failed']} failed, {result['duration']:.1f} s"
    )
    statistics = ("mean", "median", *(f"p{share:g}" for share in percentiles))
    table.add_column("measure, ms")
    for name in statistics:
        table.add_column(name, justify="right")
    for measure in MEASURES:
        cells = [result.get(f"{statistic}_{measure}_ms") for statistic in statistics]
        table.add_row(measure, *("-" if value is None else f"{value:.2f}" for value in cells))
    table.add_section()
    for name in ("request_throughput", "request_goodput", "output_throughput"):
        if result[name] is not None:
            table.add_row(f"{name}, 1/s", f"{result[name]:.2f}")
    table.add_row("client late at p99", f"{result['client_lateness_p99_ms']:.2f}")
    return table


def parse_goodput(pairs: Sequence[str]) -> Goodput:
    """From ``ttft:3000`` and the like, in milliseconds; raises ConfigError for anything else."""
    limits: dict[str, float] = {}
    for pair in pairs:
        name, _, value = pair.partition(":")
        try:
            limits[f"{name}_ms"] = float(value)
        except ValueError:
            raise _bad_goodput(pair) from None
    try:
        return Goodput(**limits)
    except TypeError:
        raise _bad_goodput(" ".join(pairs)) from None


def _bad_goodput(text: str) -> ConfigError:
    return ConfigError(f"--goodput {text!r}: must be ttft:MS, tpot:MS or e2el:MS")


def _progress(console: Console, total: int) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(40),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]} failed"),
    )
    # Drawn rarely: drawing takes time from what is measured.
    progress = Progress(*columns, console=console, refresh_per_second=2)
    progress.add_task("requests", total=total, failed=0)
    return progress
