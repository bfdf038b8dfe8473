"""The demo: a local cluster, one trace of real traffic under two policies, a report."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.cluster_file import load_plan
from deploy.launch import run_until_signalled
from deploy.local import LocalCluster
from deploy.plan import ClusterPlan
from deploy.show import StartProgress
from exp.cli import main
from exp.client import LoadClient
from exp.outcome import Outcome
from exp.prompt import PromptWriter
from exp.report import PolicyReport, failures, report_json, report_table
from exp.target import Target
from exp.workload import TraceRequest, Workload, WorkloadSpec, load_workload

POLICIES = ("round_robin", "block")

_WARM_UP = TraceRequest(arrival_s=0.0, prompt_tokens=32, output_tokens=4)

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Demo:
    """One demo: its cluster, its traffic and where it is shown."""

    plan: ClusterPlan
    workload: Workload
    writer: PromptWriter
    console: Console

    async def run(self) -> list[Outcome]:
        """Bring the cluster up, send the workload under each policy, take the cluster down."""
        with StartProgress(self.console) as progress:
            cluster = LocalCluster(self.plan, on_change=progress.show)
            await cluster.start()
        try:
            return await self._send_all()
        finally:
            await cluster.stop()

    async def _send_all(self) -> list[Outcome]:
        target = Target.of(self.plan.openai_base_url, self.plan.served_model_name, "chat")
        client = LoadClient(target, self.writer)
        engines = sum(process.role == "engine" for process in self.plan.processes)
        # The first request of a server is slower than all others, under either policy.
        await client.run(Workload("warm-up", (_WARM_UP,) * engines), "round_robin")
        outcomes: list[Outcome] = []
        for policy in POLICIES:
            outcomes += await self._send(client, policy)
        return outcomes

    async def _send(self, client: LoadClient, policy: str) -> tuple[Outcome, ...]:
        with _progress(self.console) as progress:
            task = progress.add_task(policy, total=len(self.workload.requests), failed=0)
            failed = 0

            def count(outcome: Outcome) -> None:
                nonlocal failed
                failed += bool(outcome.error)
                progress.update(task, advance=1, failed=failed)

            return (await client.run(self.workload, policy, count)).outcomes


@app.command(epilog="Example: block-exp demo --instances 4 --requests 100 --rate 5")
def demo(
    *,
    cluster: Annotated[Path, typer.Option(help="Cluster file.")] = Path("config/cluster/local.yaml"),
    instances: Annotated[
        int | None, typer.Option(help="How many vLLM servers; None: as the file says.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests under each policy.")] = 200,
    rate: Annotated[float, typer.Option(min=0.01, help="Mean arrivals per second.")] = 6.0,
    workload: Annotated[str, typer.Option(help="auto, sharegpt, azure or generated.")] = "auto",
    data: Annotated[Path, typer.Option(help="Optional folder with recorded traces.")] = Path(
        "../shared/data"
    ),
    seed: Annotated[int, typer.Option(help="Of lengths, arrivals and prompts.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override, as FIELD=VALUE.")] = None,
) -> None:
    """Start a cluster, send it a trace under round_robin and under block, report, stop everything.

    The last line is JSON. Exits with 1 if a request failed.
    """
    console = Console()
    plan = load_plan(cluster, settings or [], instances)
    spec = WorkloadSpec(count=requests, rate_per_s=rate, data=data, seed=seed)
    traffic = load_workload(workload, spec)
    console.print(f"{requests} requests per policy at {rate:g}/s: {traffic.source}")
    run = Demo(plan, traffic, PromptWriter(plan.model / "tokenizer.json"), console)
    outcomes = run_until_signalled(run.run())
    if outcomes is None:
        raise typer.Exit(130)
    raise typer.Exit(show(outcomes, traffic.source, console))


def show(outcomes: list[Outcome], source: str, console: Console) -> int:
    """Print the table, the first failures and the JSON line; returns the exit status."""
    reports = [PolicyReport.of(policy, [o for o in outcomes if o.policy == policy]) for policy in POLICIES]
    console.print(report_table(reports))
    for line in failures(outcomes):
        console.print(line, markup=False)
    print(json.dumps(report_json(reports, source)), flush=True)
    return 1 if any(report.failed for report in reports) else 0


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:12}"),
        BarColumn(40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[failed]} failed"),
        console=console,
    )


if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
