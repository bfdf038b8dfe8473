"""Fleets on a terminal: what is planned, and what there is."""

from __future__ import annotations

from rich.table import Table

from deploy.fleet.doctor import Finding
from deploy.fleet.group import Group, InstancePart, PredictorsPart
from deploy.fleet.report import FleetReport, GroupReport


def plan_table(name: str, groups: tuple[Group, ...]) -> Table:
    """What will run where."""
    table = Table(title=f"{name}: what will run where")
    for column in ("group", "host", "listens on", "ports", "GPUs", "runs"):
        table.add_column(column, no_wrap=column in {"group", "host"})
    for group in groups:
        gpus = ",".join(map(str, group.gpus)) or "-"
        table.add_row(
            group.name, group.host, group.listen, ", ".join(map(str, group.ports)), gpus, _runs(group)
        )
    return table


def _runs(group: Group) -> str:
    part = group.part
    if isinstance(part, InstancePart):
        own = "" if part.predictor is None else ", predictor"
        return f"vLLM ({part.engine.executor}) with {part.engine.model}{own}"
    if isinstance(part, PredictorsPart):
        return f"predictors of {', '.join(part.instances[:3])}{_more(len(part.instances) - 3)}"
    return f"scheduler, policy {part.scheduler.policy}"


def _more(count: int) -> str:
    return f" and room for {count} more" if count > 0 else ""


def report_table(report: FleetReport) -> Table:
    """One row per group."""
    urls = " ".join(report.openai_base_urls) or "no scheduler is ready"
    table = Table(title=f"{report.name}: {urls}")
    for column in ("group", "host", "state", "load", "served", "predicted", "real", "remarks"):
        table.add_column(column, no_wrap=column in {"group", "host", "state"})
    for row in report.groups:
        state = "drained" if row.drained and row.phase == "ready" else row.phase
        served = "" if row.requests is None else str(row.requests)
        table.add_row(
            row.name,
            row.host,
            state,
            _load(row),
            served,
            _latency(row.predicted_ttft_s, row.predicted_e2e_s),
            _latency(row.ttft_s, row.e2e_s),
            _remarks(row),
        )
    table.caption = "load: running + waiting; predicted and real: TTFT / E2E of a request of mean size"
    return table


def findings_table(findings: list[Finding]) -> Table:
    """One row per check and host."""
    table = Table(title="doctor")
    for column in ("host", "check", "", "found", "to do"):
        table.add_column(column)
    for each in findings:
        table.add_row(each.host, each.check, each.verdict, each.found, each.remedy)
    return table


def _load(row: GroupReport) -> str:
    if row.healthy is not None:
        return f"{row.healthy} healthy"
    return "" if row.running is None else f"{row.running} + {row.waiting}"


def _latency(ttft_s: float | None, e2e_s: float | None) -> str:
    return "" if ttft_s is None or e2e_s is None else f"{ttft_s:.2f} / {e2e_s:.2f} s"


def _remarks(row: GroupReport) -> str:
    parts = (
        row.reason,
        "" if row.current else "older settings: run up again",
        f"vLLM {row.vllm}" if row.vllm else "",
        f"job {row.job}" if row.job else "",
    )
    return "; ".join(part for part in parts if part)
