"""``block-exp bench``: how fast the parts are, each with a table and a last line of JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from block.errors import ConfigError
from exp.cli import main
from exp.serve_command import serve

_ROOT = Path(__file__).resolve().parent.parent
_LATENCY = _ROOT / "config" / "latency" / "a30-llama-2-7b.yaml"
TABLE_WIDTH = 132
"""Of the router table: also where the output is no terminal."""
FAILURES_WIDTH = 150
"""Of the failure table, likewise."""

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
    from vidur_adapter.vidur_checkout import VidurCheckout

    beside = None if vidur is None else VidurCheckout.load(vidur)
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
        typer.Option(
            help="Command of another router, with {urls} and {port}; may be given several times. "
            "{config:FILE} is a file with them in it, whose lines with {url} are repeated for each."
        ),
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


@app.command("decision", epilog="Example: block-exp bench decision --predictors 12 --qps 100")
def decision(
    predictors: Annotated[int, typer.Option(min=1, max=64, help="Instances, each with its predictor.")] = 12,
    qps: Annotated[float, typer.Option(min=0.1, help="Requests per second.")] = 100.0,
    seconds: Annotated[float, typer.Option(min=1.0, help="Of load, after up to six to warm up.")] = 20.0,
    tokens: Annotated[int, typer.Option(min=4, help="Mean tokens of a response, each an event.")] = 64,
    step_ms: Annotated[float, typer.Option(min=1.0, help="Of the mock engines.")] = 33.0,
    others: Annotated[int, typer.Option(min=0, help="Requests of others that each engine holds.")] = 32,
    policy: Annotated[str, typer.Option(help="What decides.")] = "block",
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Of the predictors, dealt out evenly; by default as block-deploy has them."),
    ] = None,
    quorum: Annotated[
        int | None, typer.Option(min=1, help="Answers after which little more is waited; by default all.")
    ] = None,
) -> None:
    """Time decisions with all predictors, engines that stream and the load on this machine.

    The last line is JSON; the exit status is 1 if any request failed.
    """
    from exp.bench_decision import DecisionBench, usual_processes
    from exp.decision_load import DecisionLoad
    from exp.paced_engine import Pace

    load, pace = DecisionLoad(qps, tokens), Pace(step_ms / 1000, others)
    dealt = min(processes or usual_processes(predictors), predictors)
    result = DecisionBench(predictors, dealt, load, seconds, pace, policy, quorum).run()
    Console(width=TABLE_WIDTH).print(result.table())
    for problem in result.decisions.errors[:3]:
        print(problem, file=sys.stderr)
    print(json.dumps(result.summary()), flush=True)
    raise typer.Exit(1 if result.decisions.errors else 0)


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


@app.command("failures", epilog="Example: block-exp bench failures --only 'engine kill' --seconds 5")
def failures(
    *,
    only: Annotated[
        list[str] | None, typer.Option(help="How the fault's name begins; may be given several times.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.2, help="How long each fault lasts.")] = 3.0,
    rate: Annotated[float, typer.Option(min=1.0, help="Requests per second.")] = 40.0,
    vllm: Annotated[bool, typer.Option(help="Kill and stop real vLLM servers with emulated GPUs.")] = False,
) -> None:
    """Kill, stop, delay, reset and corrupt each part under load, and account for every request.

    A scheduler of two workers, three predictors, three mock engines with a state feed. The last line is
    JSON. The exit status is 1 if a request was lost.
    """
    from deploy.launch import run_until_signalled
    from exp.bench_failures import FailureBench, Phases, chosen, mock_setting, vllm_setting
    from exp.failure_faults import ON_VLLM

    bench = FailureBench(chosen(only or (ON_VLLM if vllm else ())), Phases(1.5, seconds, 1.5), rate)
    console = Console(width=FAILURES_WIDTH)
    with tempfile.TemporaryDirectory() as folder:
        setting = (vllm_setting if vllm else mock_setting)(Path(folder))
        done = run_until_signalled(bench.run(setting, console))  # else it would leave its parts behind
    if done is None:
        raise typer.Exit(130)
    console.print(bench.table())
    print(json.dumps(bench.summary()), flush=True)
    raise typer.Exit(1 if bench.lost else 0)


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


@app.command(epilog="Example: block-exp bench cluster --requests 10000")
def cluster(
    requests: Annotated[int, typer.Option(min=100, help="In each simulation.")] = 10_000,
) -> None:
    """Time the cluster simulation: 12 instances with all asked, with scenarios, and 1,000 instances.

    The last line is JSON: CPU and wall seconds by case.
    """
    from exp.bench_cluster import table, time_cases

    found = time_cases(requests)
    Console().print(table(found, requests))
    print(json.dumps({"requests": requests, **found}), flush=True)


@app.command(epilog="Example: block-exp bench copies --counts 1,4,16 --slower 2 --rate 4")
def copies(
    *,
    counts: Annotated[str, typer.Option(help="Scheduler processes, one count after the other.")] = "1,4,16",
    instances: Annotated[int, typer.Option(min=1, help="vLLM servers.")] = 3,
    requests: Annotated[int, typer.Option(min=20, help="For each count, the same ones.")] = 240,
    rate: Annotated[float, typer.Option(min=0.01, help="Mean arrivals per second.")] = 8.0,
    slower: Annotated[float, typer.Option(min=1.0, help="A GPU so many times slower.")] = 1.0,
    data: Annotated[Path, typer.Option(help="The optional data folder.")] = Path("../shared/data"),
) -> None:
    """Send one load under block through 1, 4 and 16 schedulers that share a port and nothing else.

    vLLM servers with emulated GPUs, and their predictors, stay up meanwhile. A request goes to whichever
    scheduler the kernel chooses. The last line is JSON; the exit status is 1 if a request failed.
    """
    from deploy.launch import run_until_signalled
    from exp.bench_copies import CopiesBench, copies_summary, copies_table
    from exp.workload import WorkloadSpec, load_workload

    bench = CopiesBench.prepare(instances, slower, load_workload("auto", WorkloadSpec(requests, rate, data)))
    console = Console(width=TABLE_WIDTH)
    found = run_until_signalled(bench.run(_whole_numbers(counts), console.print))
    if found is None:
        raise typer.Exit(130)
    console.print(copies_table(found))
    print(json.dumps(copies_summary(found, rate)), flush=True)
    raise typer.Exit(1 if any(one.failed for one in found) else 0)


@app.command(epilog="Example: block-exp bench client --counts 500,1000,2000")
def client(
    counts: Annotated[str, typer.Option(help="Streams at once, rising.")] = "250,500,1000,2000,4000",
) -> None:
    """Find how many streams one load client carries before it is the bottleneck. The last line is JSON."""
    from exp.bench_client import carried, carried_summary, carried_table

    found = list(carried(_rising(counts)))
    Console().print(carried_table(found))
    print(json.dumps(carried_summary(found)), flush=True)


app.command(epilog="Example: block-exp bench serve --url http://127.0.0.1:8000/v1 --rate 6 --out r.json")(
    serve
)


def _rising(counts: str) -> list[int]:
    numbers = _whole_numbers(counts)
    if numbers != sorted(set(numbers)):
        raise ConfigError(f"--counts {counts}: must be rising whole numbers, such as 1,2,4")
    return numbers


def _whole_numbers(counts: str) -> list[int]:
    try:
        numbers = [int(count) for count in counts.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"--counts {counts}: must be whole numbers, such as 1,2,4")
    return numbers


if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
