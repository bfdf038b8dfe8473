"""How a cluster looks on a terminal: progress while it starts, its table, its welcome."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.plan import ClusterPlan
from deploy.state import ClusterState


class StartProgress:
    """A bar of ready processes, with the names of those still starting."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("starting"),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[waiting]}"),
            console=console,
        )
        self._task = self._progress.add_task("starting", total=None, waiting="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, state: ClusterState) -> None:
        """Take over the cluster's newest state."""
        waiting = [process.name for process in state.processes if process.phase == "starting"]
        self._progress.update(
            self._task,
            total=len(state.processes),
            completed=sum(process.phase == "ready" for process in state.processes),
            waiting=_briefly(waiting),
        )


def _briefly(waiting: list[str]) -> str:
    if not waiting:
        return "ready"
    more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    return f"waiting for {waiting[0]}{more}"


def state_table(state: ClusterState) -> Table:
    """One row per process."""
    table = Table(title=f"{state.name}: {state.openai_base_url} (launcher pid {state.launcher_pid})")
    for column in ("process", "state", "pid", "url"):
        table.add_column(column)
    for process in state.processes:
        code = "" if process.exit_code is None else f" (code {process.exit_code})"
        again = f", restarts: {process.restarts}" if process.restarts else ""
        pid = "" if process.pid is None else str(process.pid)
        table.add_row(process.name, process.phase + code + again, pid, process.url)
    return table


def welcome(plan: ClusterPlan) -> str:
    """What to do with a cluster that is up."""
    return f"""\
OPENAI_BASE_URL={plan.openai_base_url}

from openai import OpenAI
client = OpenAI(base_url="{plan.openai_base_url}", api_key="none")
print(client.completions.create(model="{plan.served_model_name}", prompt="Hi", max_tokens=9).choices[0].text)

Logs: {plan.log_folder}. Ctrl-C ends the cluster."""
