"""The command line of ``block-exp bench serve``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from block.errors import ConfigError
from exp.bench_serve import ServeBench, parse_goodput, result_table
from exp.serve_files import check_form, write_result
from exp.target import Target
from exp.workload import WorkloadSpec, load_workload
from exp.workload_options import ArrivalRate, Burstiness, DataFolder, RequestCount, WorkloadName


def serve(
    *,
    url: Annotated[str, typer.Option(help="Base URL of the OpenAI API.")] = "http://127.0.0.1:8000/v1",
    model: Annotated[str, typer.Option(help="As the server calls it; empty: its first one.")] = "",
    endpoint: Annotated[str, typer.Option(help="completions or chat.")] = "completions",
    workload: WorkloadName = "auto",
    requests: RequestCount = 200,
    rate: ArrivalRate = None,
    burstiness: Burstiness = 1.0,
    drawn_times: Annotated[
        bool, typer.Option("--drawn-times", help="Draw arrivals even where they are recorded.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=2, help="Longer requests are left out.")] = 4000,
    seed: Annotated[int, typer.Option(help="Of lengths, arrivals and prompts.")] = 0,
    data: DataFolder = Path("../shared/data"),
    tokenizer: Annotated[
        Path | None, typer.Option(help="The model's tokenizer.json or its folder, to write prompts with.")
    ] = None,
    policy: Annotated[str, typer.Option(help="Ask the router for this policy.")] = "",
    header: Annotated[list[str] | None, typer.Option(help="Further header, as NAME=VALUE.")] = None,
    warm_up: Annotated[int, typer.Option(min=0, help="Requests sent before, and not counted.")] = 2,
    timeout: Annotated[float, typer.Option(min=0.1, help="Patience with one request, in seconds.")] = 600.0,
    goodput: Annotated[list[str] | None, typer.Option(help="SLO: ttft:MS, tpot:MS or e2el:MS.")] = None,
    percentiles: Annotated[str, typer.Option(help="To report, parted by commas.")] = "50,90,99",
    out: Annotated[list[Path] | None, typer.Option(help="Write here: .json, .csv or .npz.")] = None,
    detailed: Annotated[bool, typer.Option("--detailed", help="Every request in JSON, too.")] = False,
) -> None:
    """Send a workload to an OpenAI server, each request at its time, and report what came of it.

    Responses have the workload's lengths exactly (ignore_eos). Fields are named as in vllm bench serve. The
    last line is JSON. Exits with 1 if a request failed.
    """
    for path in out or ():
        check_form(path)
    shares = _shares(percentiles)
    target = Target.of(url, model, endpoint, _headers(header or ()))
    spec = WorkloadSpec(requests, rate, data, seed, max_tokens, burstiness, not drawn_times, _file(tokenizer))
    bench = ServeBench(
        target,
        load_workload(workload, spec),
        policy,
        warm_up,
        tokenizer,
        timeout,
        parse_goodput(goodput or ()),
        shares,
    )
    console = Console(stderr=True)
    result, lists, run = bench.run(console)
    result |= {"request_rate": rate or bench.workload.rate_per_s, "burstiness": burstiness}
    result["max_concurrency"] = None
    for path in out or ():
        write_result(path, result, lists, detailed=detailed)
    console.print(result_table(result, shares))
    for outcome in [outcome for outcome in run.outcomes if outcome.error][:5]:
        console.print(f"failed: {outcome.error}", markup=False, highlight=False)
    if run.pace.warning:
        console.print(f"warning: {run.pace.warning}", markup=False, highlight=False, soft_wrap=True)
    print(json.dumps(result), flush=True)
    raise typer.Exit(1 if result["failed"] else 0)


def _shares(percentiles: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(share) for share in percentiles.split(","))
    except ValueError:
        shares = ()
    if not shares or not all(0 <= share <= 100 for share in shares):
        raise ConfigError(f"--percentiles {percentiles}: must be numbers from 0 to 100, such as 50,90,99")
    return shares


def _headers(pairs: Iterable[str]) -> dict[str, str]:
    headers = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals or any(ord(letter) < 32 for letter in pair):
            raise ConfigError(f"--header {pair!r}: must be NAME=VALUE")
        headers[name] = value
    return headers


def _file(tokenizer: Path | None) -> Path | None:
    return tokenizer / "tokenizer.json" if tokenizer and tokenizer.is_dir() else tokenizer
