"""What a simulated cluster did: a row per request, series per instance, and their summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa

from block.simulation import layout
from block.simulation.fleet import EngineFleet
from block.simulation.memory import Floats, Ints
from exp.cluster.load import ClusterLoad
from exp.cluster.router import Told
from global_scheduler.policies import Choice
from global_scheduler.provisioning import Decision

_SAMPLED = (layout.RUNNING_COUNT, layout.FREE_BLOCKS, layout.PREEMPTIONS_DONE)
SERIES = ("running", "waiting", "free_blocks", "preemptions")


class Status(IntEnum):
    """How a request ended."""

    ANSWERED = 0
    BROKEN = 1
    """Its instance failed after the first token."""
    REFUSED = 2
    """There was no instance for it."""
    OPEN = 3


@dataclass(frozen=True, slots=True, eq=False)
class ClusterResult:
    """Times in seconds from a request's arrival at its scheduler; nan for what did not happen."""

    requests: pa.Table
    """One row per request, in order of arrival: see ``Journal.result`` for the columns."""
    sampled_s: Floats
    """(samples,)"""
    series: Mapping[str, Ints]
    """Name, of ``SERIES`` -> (samples, instances)."""
    present: Ints
    """(samples, instances) whether the instance was there."""
    served_s: Floats
    """(instances,) how long each was there or being started."""
    decisions: tuple[Decision, ...] = ()
    """Of provisioning, one per look."""

    def column(self, name: str) -> Floats:
        """One column of the answered requests."""
        answered = self.requests["status"].to_numpy() == Status.ANSWERED
        values: Floats = self.requests[name].to_numpy()[answered]
        return values

    @property
    def hit_rate(self) -> float | None:
        """Share of the prompts' tokens that was found in prefix caches.

        A request that was preempted finds its own tokens again, so those are left out.
        """
        once = self.column("preemptions") == 0
        tokens = float(self.column("prompt_tokens")[once].sum())
        return float(self.column("hit_tokens")[once].sum()) / tokens if tokens else None

    @property
    def summary(self) -> dict[str, Any]:
        """The figures that runs are compared by, JSON-ready."""
        status = self.requests["status"].to_numpy()
        found: dict[str, Any] = {
            "requests": len(status),
            "answered": int((status == Status.ANSWERED).sum()),
            "broken": int((status == Status.BROKEN).sum()),
            "refused": int((status == Status.REFUSED).sum()),
        }
        for name in ("ttft_s", "e2e_s", "tpot_s"):
            values = self.column(name)
            values = values[np.isfinite(values)]
            found[f"mean_{name}"] = float(values.mean()) if len(values) else None
            found[f"p99_{name}"] = float(np.percentile(values, 99)) if len(values) else None
        found["preemptions"] = int(self.requests["preemptions"].to_numpy().sum())
        found["hit_rate"] = self.hit_rate
        predicted, real = self.column("predicted_e2e_s"), self.column("e2e_s")
        errors = np.abs(predicted / real - 1)[np.isfinite(predicted)]
        found["e2e_error_p50"] = float(np.median(errors)) if len(errors) else None
        return found


@dataclass
class Journal:
    """Filled in as the simulation goes."""

    load: ClusterLoad
    instances: int
    router: Ints = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.load)
        self.router = np.full(count, -1)
        self._instance, self._attempts = np.full(count, -1), np.zeros(count, np.int64)
        self._status, self._preemptions = np.full(count, int(Status.OPEN)), np.zeros(count, np.int64)
        self._hits = np.zeros(count, np.int64)
        self._rank, self._true_rank = np.zeros(count, np.int64), np.zeros(count, np.int64)
        names = ("decided_s", "first_s", "finish_s", "predicted_ttft_s", "predicted_e2e_s")
        self._times = {name: np.full(count, np.nan) for name in names}
        self._reasons = [""] * count
        self._hindsight: dict[int, dict[int, float]] = {}
        self._samples: list[tuple[float, Ints, Ints, list[bool]]] = []

    def note_choice(self, number: int, now_s: float, choice: Choice, told: Mapping[int, Told]) -> None:
        """Where a request was sent first, what was predicted, and how the choice ranks by that."""
        instance = int(choice.instance)
        self._times["decided_s"][number] = now_s
        self._reasons[number] = choice.reason
        if number in self._hindsight:
            self._true_rank[number] = _rank(instance, self._hindsight.pop(number))
        predicted = {index: one.prediction.e2e_s for index, one in told.items() if one.prediction}
        if instance in predicted:
            prediction = told[instance].prediction
            assert prediction is not None
            self._rank[number] = _rank(instance, predicted)
            self._times["predicted_ttft_s"][number] = prediction.ttft_s
            self._times["predicted_e2e_s"][number] = prediction.e2e_s

    def note_hindsight(self, number: int, instances: Sequence[int], e2e_s: Sequence[float]) -> None:
        """How long the request would take at each, with all lengths known."""
        self._hindsight[number] = dict(zip(instances, e2e_s, strict=True))

    def note_attempt(self, number: int, instance: int) -> None:
        """It is sent there."""
        self._instance[number] = instance
        self._attempts[number] += 1

    def finish(self, number: int, first_s: float, finish_s: float, preemptions: int, hits: int) -> None:
        """Its answer is whole; ``hits``: prompt tokens that were cached."""
        self._hits[number] = hits
        self._status[number] = Status.ANSWERED
        self._times["first_s"][number], self._times["finish_s"][number] = first_s, finish_s
        self._preemptions[number] = preemptions

    def break_off(self, number: int, status: Status, now_s: float) -> None:
        """It ends without a whole answer."""
        assert self._status[number] == Status.OPEN
        self._status[number] = status
        self._times["finish_s"][number] = now_s

    def sample(self, now_s: float, fleet: EngineFleet, present: list[bool]) -> None:
        """One more entry of every instance's series."""
        self._samples.append((now_s, fleet.figures(_SAMPLED), fleet.waiting(), present))

    def result(self, served_s: Sequence[float], decisions: Sequence[Decision] = ()) -> ClusterResult:
        """Everything as arrays."""
        load, times = self.load, self._times
        arrival_s = load.arrival_s
        answered = self._status == Status.ANSWERED
        ttft_s = np.where(answered, times["first_s"] - arrival_s, np.nan)
        e2e_s = np.where(answered, times["finish_s"] - arrival_s, np.nan)
        several = load.output_tokens > 1
        tpot_s = np.where(several, (e2e_s - ttft_s) / np.maximum(load.output_tokens - 1, 1), np.nan)
        table = pa.table(
            {
                "arrival_s": arrival_s,
                "prompt_tokens": load.prompt_tokens,
                "output_tokens": load.output_tokens,
                "scheduler": self.router,
                "decided_s": times["decided_s"],
                "instance": self._instance,
                "reason": self._reasons,
                "attempts": self._attempts,
                "status": self._status,
                "predicted_ttft_s": times["predicted_ttft_s"],
                "ttft_s": ttft_s,
                "predicted_e2e_s": times["predicted_e2e_s"],
                "e2e_s": e2e_s,
                "tpot_s": tpot_s,
                "preemptions": self._preemptions,
                "hit_tokens": self._hits,
                "rank": self._rank,
                "true_rank": self._true_rank,
            }
        )
        sampled = [figures for _, figures, _, _ in self._samples]
        running, free_blocks, preemptions = np.stack(sampled).transpose(2, 0, 1)
        series = (
            running,
            np.stack([waiting for _, _, waiting, _ in self._samples]),
            free_blocks,
            preemptions,
        )
        return ClusterResult(
            requests=table,
            sampled_s=np.array([time_s for time_s, _, _, _ in self._samples]),
            series=dict(zip(SERIES, series, strict=True)),
            present=np.array([present for _, _, _, present in self._samples], np.int64),
            served_s=np.array(served_s),
            decisions=tuple(decisions),
        )


def _rank(instance: int, e2e_s: Mapping[int, float]) -> int:
    """1 for the quickest, to the microsecond; 0 if nothing is known of it."""
    own_s = e2e_s.get(instance)
    return 0 if own_s is None else 1 + sum(other_s < own_s - 1e-6 for other_s in e2e_s.values())
