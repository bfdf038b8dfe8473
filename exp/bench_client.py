"""How many streams one load client carries before it shapes what it measures, against a mock engine.

The mock runs beside it on this machine and costs about as much; with two free cores each has its own.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import uvloop
from rich.table import Table

from exp import mock_engine
from exp.client import LoadClient, LoadRun
from exp.target import Target
from exp.workload import TraceRequest, Workload

CHUNKS, TICK_S = 64, 0.05
RAMP_S = 2.0
"""Streams begin evenly spread over so long."""


@dataclass(frozen=True, slots=True)
class Carried:
    """One count of streams."""

    streams: int
    events_per_s: float
    """At the height: all streams at once."""
    failed: int
    cpu_share: float
    cpu_us_per_event: float
    lateness_p99_ms: float
    loop_lag_p99_ms: float
    kept_up: bool

    @classmethod
    def of(cls, streams: int, run: LoadRun) -> Carried:
        """From a run of that many."""
        failed = sum(bool(outcome.error) for outcome in run.outcomes)
        return cls(
            streams=streams,
            events_per_s=streams / TICK_S,
            failed=failed,
            cpu_share=run.pace.cpu_share,
            cpu_us_per_event=run.pace.cpu_share * run.wall_s / (streams * CHUNKS) * 1e6,
            lateness_p99_ms=run.pace.lateness_p99_s * 1e3,
            loop_lag_p99_ms=run.pace.lag_p99_s * 1e3,
            kept_up=not run.pace.warning and not failed,
        )


def carried(counts: Sequence[int]) -> Iterator[Carried]:
    """Measure each count in turn."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        for count in counts:
            process, url = mock_engine.start("mock", CHUNKS, TICK_S)
            try:
                yield Carried.of(count, uvloop.run(_run(url, count)))
            finally:
                process.terminate()
                process.join()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def carried_table(found: Sequence[Carried]) -> Table:
    """One row per count."""
    columns = (
        "streams",
        "events/s",
        "failed",
        "core busy",
        "CPU us/event",
        "late p99, ms",
        "loop lag p99, ms",
    )
    table = Table(*columns, "kept up", title="one load client")
    for one in found:
        table.add_row(
            str(one.streams),
            f"{one.events_per_s:,.0f}",
            str(one.failed),
            f"{one.cpu_share:.0%}",
            f"{one.cpu_us_per_event:.1f}",
            f"{one.lateness_p99_ms:.1f}",
            f"{one.loop_lag_p99_ms:.1f}",
            "yes" if one.kept_up else "no",
        )
    return table


def carried_summary(found: Sequence[Carried]) -> dict[str, object]:
    """The last line."""
    return {
        "kept_up_streams": max((one.streams for one in found if one.kept_up), default=0),
        "counts": [asdict(one) for one in found],
    }


async def _run(url: str, count: int) -> LoadRun:
    requests = tuple(
        TraceRequest(RAMP_S * index / count, 8, CHUNKS, prompt="eight words that nobody is going to read")
        for index in range(count)
    )
    client = LoadClient(Target.of(f"{url}/v1", mock_engine.MODEL), None)
    await client.run(Workload("first", requests[:2]))
    return await client.run(Workload("streams", requests))
