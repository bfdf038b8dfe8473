"""What simulating a cluster costs: twelve instances with all asked, with scenarios, and a thousand."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from block.latency.table import TableLatency
from block.types import EngineLimits
from exp.cluster.estimates import EstimateSpec, estimate_lengths
from exp.cluster.load import ClusterLoad, known_load
from exp.cluster.simulation import simulate_cluster
from exp.cluster.spec import ClusterSpec, SimulatedInstance
from exp.workload import WorkloadSpec, generated

ROOT = Path(__file__).resolve().parent.parent
LATENCY = ROOT / "config" / "latency" / "a30-llama-2-7b.yaml"
LIMITS = EngineLimits(16, 1052, 48, 512, 4096, async_scheduling=True)
REQUESTS = 10_000
RATE_PER_INSTANCE_S = 28.0 / 12


@dataclass(frozen=True, slots=True)
class Case:
    """One simulation to time."""

    title: str
    instances: int
    changes: Mapping[str, Any]
    goal_s: float | None = None
    """CPU seconds for 10,000 requests."""

    def spec(self) -> ClusterSpec:
        """Instances of one kind."""
        instance = SimulatedInstance(LIMITS, TableLatency.load(LATENCY))
        return replace(ClusterSpec((instance,) * self.instances), **self.changes)

    def load(self, requests: int) -> ClusterLoad:
        """At the paper's load on each instance, lengths known with an error."""
        spec = WorkloadSpec(requests, RATE_PER_INSTANCE_S * self.instances, ROOT)
        load = known_load(generated(spec).requests)
        expected = estimate_lengths(EstimateSpec("distribution"), load.prompt_tokens, load.output_tokens)
        return replace(load, expected=expected, max_tokens=None)


CASES: Mapping[str, Case] = {
    "block_12": Case("block, 12 instances, all asked", 12, {}, 10.0),
    "block_12x8": Case("the same with 8 scenarios", 12, {"scenarios": 8}, 60.0),
    "harm_12": Case("block, harm to others", 12, {"policy_options": {"objective": "harm"}}),
    "llumnix_12": Case("llumnix, 12 instances", 12, {"policy": "llumnix"}),
    "block_1000": Case("block, 1,000 instances, 2 asked", 1000, {"policy_options": {"k": 2}}),
}


def time_cases(requests: int = REQUESTS) -> dict[str, dict[str, float]]:
    """CPU and wall seconds by case."""
    found = {}
    for name, case in CASES.items():
        simulate_cluster(case.spec(), case.load(50))  # compiled, or loaded from the cache
        spec, load = case.spec(), case.load(requests)
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        simulate_cluster(spec, load)
        found[name] = {
            "cpu_s": round(time.process_time() - cpu_s, 3),
            "wall_s": round(time.perf_counter() - wall_s, 3),
        }
    return found


def table(found: Mapping[str, Mapping[str, float]], requests: int) -> Table:
    """For people."""
    rows = Table("", "CPU s", "wall s", "goal, s", title=f"Simulating {requests:,} requests, one core")
    for name, seconds in found.items():
        goal_s = CASES[name].goal_s
        goal = "" if goal_s is None else f"{goal_s * requests / REQUESTS:g}"
        rows.add_row(CASES[name].title, f"{seconds['cpu_s']:.2f}", f"{seconds['wall_s']:.2f}", goal)
    return rows
