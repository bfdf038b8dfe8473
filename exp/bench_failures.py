"""Failures under load: each fault struck while requests come, and every request accounted for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from block.errors import ConfigError
from exp.failure_faults import FAULTS, VICTIM, Fault
from exp.failure_load import End, FailureLoad, Judge, Outcome, Source
from exp.failure_stage import Stage
from exp.mock_engine import EVENT, LAST_EVENT, WHOLE
from exp.mock_stage import CHUNKS, MockStage

STREAM_SHARE = 0.7
_STREAM = EVENT * CHUNKS + LAST_EVENT


@dataclass(frozen=True, slots=True)
class Phases:
    """How long the load runs, in seconds."""

    calm_s: float
    fault_s: float
    after_s: float


@dataclass(frozen=True, slots=True)
class FaultResult:
    """What one fault did."""

    ends: Mapping[End, int]
    retried: int
    """Answered by a later instance than the first."""
    calm_ttft_s: Sequence[float]
    """Of requests answered before the fault."""
    others_ttft_s: Sequence[float]
    """Of requests sent during the fault that had nothing to do with the instance that failed."""
    all_ttft_s: Sequence[float]
    """Of all sent during the fault."""
    recovered_s: float
    """From the mending until all parts counted as ready again."""
    reasons: Sequence[str] = field(default=())
    """Why requests failed; the most frequent."""

    @property
    def sent(self) -> int:
        """Requests in all."""
        return sum(self.ends.values())

    def summary(self) -> dict[str, Any]:
        """For the line of JSON; times in milliseconds."""
        return {
            "sent": self.sent,
            **{str(end): self.ends.get(end, 0) for end in End},
            "retried": self.retried,
            "calm_ttft_p50_ms": _ms(self.calm_ttft_s, 50),
            "calm_ttft_p99_ms": _ms(self.calm_ttft_s, 99),
            "others_ttft_p50_ms": _ms(self.others_ttft_s, 50),
            "others_ttft_p99_ms": _ms(self.others_ttft_s, 99),
            "all_ttft_p99_ms": _ms(self.all_ttft_s, 99),
            "recovered_s": round(self.recovered_s, 2),
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True, slots=True)
class Setting:
    """Where faults are struck."""

    stage: Stage
    model: str
    judges: Mapping[bool, Judge]
    """What is a right answer, by whether it is a stream."""


def mock_setting(folder: Path, instances: int = 3, workers: int = 2) -> Setting:
    """Mock engines, all else real."""
    judges = {True: _exactly(_STREAM), False: _exactly(WHOLE)}
    return Setting(MockStage(folder, instances, workers), "mock", judges)


def vllm_setting(folder: Path, instances: int = 2) -> Setting:
    """Real vLLM servers with emulated GPUs."""
    from exp.vllm_stage import MODEL, VllmStage

    judges = {stream: _as_vllm_ends(stream) for stream in (True, False)}
    return Setting(VllmStage(folder, instances), MODEL, judges)


class FailureBench:
    """``run`` it once."""

    def __init__(self, faults: Mapping[str, Fault], phases: Phases, rate_per_s: float) -> None:
        self._faults = faults
        self._phases = phases
        self._rate_per_s = rate_per_s
        self.results: dict[str, FaultResult] = {}

    async def run(self, setting: Setting, console: Console) -> None:
        """Strike one fault after the other. Raises DeployError if the parts do not come up, or back."""
        async with setting.stage as stage:
            await self._load(setting, 99).run_for(0.5)  # the first ones are slower
            for seed, (name, fault) in enumerate(self._faults.items()):
                self.results[name] = await self._strike(stage, fault, self._load(setting, seed))
                console.print(_line(name, self.results[name]), highlight=False, markup=False)

    @property
    def lost(self) -> int:
        """Over all faults."""
        return sum(result.ends.get(End.LOST, 0) for result in self.results.values())

    def table(self) -> Table:
        """One row per fault."""
        table = Table("fault", "sent", "answered", "failed before", "failed after", "lost", "retried")
        for title in ("TTFT calm p50/p99 ms", "others p50/p99 ms", "all p99 ms", "back after s"):
            table.add_column(title)
        for name, result in self.results.items():
            row = result.summary()
            table.add_row(
                name,
                *(str(row[key]) for key in ("sent", *End, "retried")),
                f"{row['calm_ttft_p50_ms']}/{row['calm_ttft_p99_ms']}",
                f"{row['others_ttft_p50_ms']}/{row['others_ttft_p99_ms']}",
                str(row["all_ttft_p99_ms"]),
                str(row["recovered_s"]),
            )
        return table

    def summary(self) -> dict[str, Any]:
        """The line of JSON."""
        faults = {name: result.summary() for name, result in self.results.items()}
        return {"rate_per_s": self._rate_per_s, "faults": faults, "lost": self.lost}

    def _load(self, setting: Setting, seed: int) -> FailureLoad:
        source = Source(
            setting.stage.port, self._rate_per_s, STREAM_SHARE, setting.judges, setting.model, CHUNKS
        )
        return FailureLoad(source, seed)

    async def _strike(self, stage: Stage, fault: Fault, load: FailureLoad) -> FaultResult:
        phases, loop = self._phases, asyncio.get_running_loop()
        await load.run_for(phases.calm_s)
        struck_s = loop.time()
        async with fault.strike(stage):
            await load.run_for(phases.fault_s)
        mended_s = loop.time()
        recovery = asyncio.create_task(_timed(stage.until_ready()))
        await load.run_for(phases.after_s)
        await load.settle()
        recovered_s = await recovery
        victim = stage.names[VICTIM] if fault.harms_an_instance else ""
        return _result(load.outcomes, struck_s, mended_s, recovered_s, victim)


def _result(
    outcomes: Sequence[Outcome], struck_s: float, mended_s: float, recovered_s: float, victim: str
) -> FaultResult:
    answered = [one for one in outcomes if one.end is End.ANSWERED]
    during = [one for one in answered if struck_s <= one.sent_s < mended_s]
    reasons = Counter(f"{one.end}: {one.why}" for one in outcomes if one.why)
    return FaultResult(
        ends=Counter(one.end for one in outcomes),
        retried=sum(one.attempts > 1 for one in answered),
        calm_ttft_s=[one.ttft_s for one in answered if one.sent_s < struck_s - 0.5],
        others_ttft_s=[one.ttft_s for one in during if one.instance != victim and one.attempts == 1],
        all_ttft_s=[one.ttft_s for one in during],
        recovered_s=recovered_s,
        reasons=[f"{count} x {reason}" for reason, count in reasons.most_common(3)],
    )


async def _timed(work: Awaitable[None]) -> float:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await work
    return loop.time() - began_s


def chosen(names: Sequence[str]) -> dict[str, Fault]:
    """Faults by name, or by how it begins; none chooses all. Raises ConfigError for an unknown one."""
    for name in names:
        if not any(known.startswith(name) for known in FAULTS):
            raise ConfigError(f"--only {name!r}: unknown; known: {', '.join(FAULTS)}")
    return {known: fault for known, fault in FAULTS.items() if not names or known.startswith(tuple(names))}


def _exactly(right: bytes) -> Judge:
    return lambda body, whole: body == right if whole else right.startswith(body)


def _as_vllm_ends(stream: bool) -> Judge:
    """The text is synthetic: it counts that an end is one, and that nothing else looks like it."""
    mark = LAST_EVENT if stream else b'"finish_reason":"length"'
    return lambda body, whole: whole == (mark in body)


def _ms(times_s: Sequence[float], percentile: float) -> float | None:
    return round(float(np.percentile(times_s, percentile)) * 1000, 1) if times_s else None


def _line(name: str, result: FaultResult) -> str:
    ends = ", ".join(f"{count} {end}" for end, count in sorted(result.ends.items()))
    return f"{name}: {ends}" + "".join(f"\n    {reason}" for reason in result.reasons)
