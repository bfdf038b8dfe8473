"""``block-exp bench``: how fast the parts are, each with a table and a last line of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from block.errors import ConfigError
from exp.cli import main

_ROOT = Path(__file__).resolve().parent.parent
_LATENCY = _ROOT / "config" / "latency" / "a30-llama-2-7b.yaml"
TABLE_WIDTH = 132
"""Of the router table: also where the output is no terminal."""

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, epilog="Example: block-exp bench what-if --calls 5000"
)


@app.callback()
def bench() -> None:
    """Measure how fast the parts are."""


@app.command("what-if", epilog="Example: block-exp bench what-if --vidur ../vidur")
def what_if(
    calls: Annotated[int, typer.Option(min=20, help="Timed what-ifs of the main case.")] = 2000,
    vidur: Annotated[Path | None, typer.Option(help="A Vidur checkout to measure beside.")] = None,
) -> None:
    """Time what-ifs, whole decisions, plain simulation and a predictor's start, on one core.

    Times are CPU time of the calling thread; wall-clock percentiles are in the JSON beside them. The
    last line is JSON.
    """
    from exp.bench_what_if import WhatIfBench
    from exp.vidur_what_if import VidurWhatIf

    beside = None if vidur is None else VidurWhatIf(vidur)
    console = Console()
    console.print("warming up (compiles on the first run after an update: 20 s)", highlight=False)
    result = WhatIfBench(calls, beside).run(console)
    console.print(result.table())
    for line in result.notes:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    print(json.dumps(result.summary()), flush=True)


@app.command("router", epilog="Example: block-exp bench router --rounds 5")
def router(
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Command of another router, with {urls} and {port}; may be given several times."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Alternating rounds; medians count.")] = 5,
    requests: Annotated[int, typer.Option(min=100, help="Whole answers per round.")] = 4000,
    streams: Annotated[int, typer.Option(min=10, help="Streams per round.")] = 320,
) -> None:
    """Measure what routers cost before mock instances: this one, and peers that are installed.

    For each peer the output ends with a line of JSON: this router's round robin over the peer.
    """
    from exp.bench_router import RouterBench

    bench = RouterBench(peer or (), rounds, requests, streams)
    bench.run()
    Console(width=TABLE_WIDTH).print(bench.table())
    for summary in bench.summaries():
        print(json.dumps(summary), flush=True)


@app.command("stress", epilog="Example: block-exp bench stress --requests 100000")
def stress(
    streams: Annotated[int, typer.Option(min=1, help="Streams at once.")] = 2000,
    connections: Annotated[int, typer.Option(min=1, help="Connections with long prompts.")] = 150,
    prompt_kb: Annotated[int, typer.Option(min=1, help="Size of a long prompt.")] = 220,
    requests: Annotated[int, typer.Option(min=1000, help="Requests over which memory is watched.")] = 100_000,
    chunks: Annotated[int, typer.Option(min=2, help="Events of a stream, ten a second.")] = 50,
) -> None:
    """Push the router: many streams, long prompts, many requests. The last line is JSON.

    The exit status is 1 if any request failed.
    """
    from exp.bench_stress import StressBench

    result = StressBench(streams, connections, prompt_kb * 1000, requests, chunks).run()
    print(json.dumps(result), flush=True)
    raise typer.Exit(1 if result["errors"] else 0)


@app.command(epilog="Example: block-exp bench instances --rate 4 --counts 1,2,4,8")
def instances(
    rate: Annotated[float, typer.Option(min=0.1, help="Requests per second, on each instance.")] = 4.0,
    counts: Annotated[str, typer.Option(help="Instances at once, rising.")] = "1,2,4,6,8",
    seconds: Annotated[float, typer.Option(min=1.0, help="Of load for each count.")] = 20.0,
    latency: Annotated[Path, typer.Option(help="What each instance emulates.")] = _LATENCY,
    data: Annotated[Path, typer.Option(help="The optional data folder.")] = Path("../shared/data"),
) -> None:
    """Start emulated vLLM servers, more and more, each under the same load, until they slow down.

    Llama-2-7B's dimensions, 2,048 tokens of room, ShareGPT's lengths at half their size, streaming. An
    instance is carried while its TPOT is within 2 % of one alone. The last line is JSON.
    """
    from deploy.launch import run_until_signalled
    from exp.bench_instances import InstanceBench, crowd_summary, crowd_table
    from exp.local_model import make_local_model
    from exp.time_left import TimeLeft
    from exp.trial_engine import TrialEngine

    wanted = _rising(counts)
    model = make_local_model("llama-2-7b", _ROOT / ".cache" / "models" / "llama-2-7b")
    engine = TrialEngine(model, 2048, 48, 512, 16, 1052)
    bench = InstanceBench(
        engine, latency.resolve(), rate, seconds, Path("run/bench-instances").resolve(), data
    )
    with TimeLeft(Console(stderr=True), bench.planned_s(wanted)) as progress:
        crowds = run_until_signalled(bench.run(wanted, progress))
    if crowds is None:
        raise typer.Exit(130)
    Console().print(crowd_table(crowds))
    print(json.dumps(crowd_summary(crowds, rate)), flush=True)


@app.command(
    epilog="Example: block-exp bench serve --url http://127.0.0.1:8000/v1 --rate 6 --out result.json"
)
def serve(
    *,
    url: Annotated[str, typer.Option(help="Base URL of the OpenAI API.")] = "http://127.0.0.1:8000/v1",
    model: Annotated[str, typer.Option(help="As the server calls it; empty: its first one.")] = "",
    endpoint: Annotated[str, typer.Option(help="completions or chat.")] = "completions",
    workload: Annotated[
        str, typer.Option(help="A workload's name, or NAME:PATH for a trace of your own.")
    ] = "auto",
    requests: Annotated[int, typer.Option(min=1, help="How many.")] = 200,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Mean arrivals per second; without it, recorded times.")
    ] = None,
    burstiness: Annotated[float, typer.Option(min=0.001, help="Of gamma arrivals: 1 is Poisson.")] = 1.0,
    drawn_times: Annotated[
        bool, typer.Option("--drawn-times", help="Draw arrivals even where they are recorded.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=2, help="Longer requests are left out.")] = 4000,
    seed: Annotated[int, typer.Option(help="Of lengths, arrivals and prompts.")] = 0,
    data: Annotated[Path, typer.Option(help="The optional data folder.")] = Path("../shared/data"),
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
    from exp.bench_serve import ServeBench, parse_goodput, result_table
    from exp.serve_files import check_form, write_result
    from exp.target import Target
    from exp.workload import WorkloadSpec, load_workload

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


def _rising(counts: str) -> list[int]:
    try:
        numbers = [int(count) for count in counts.split(",")]
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1 or numbers != sorted(set(numbers)):
        raise ConfigError(f"--counts {counts}: must be rising whole numbers, such as 1,2,4")
    return numbers


if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
