"""One run of one strategy, and what is kept of it."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from block.latency.base import StepLatencyModel
from block.latency.load import load_latency
from block.types import EngineLimits
from exp.cluster.result import ClusterResult, Status
from exp.cluster.simulation import simulate_cluster
from exp.cluster.spec import ClusterSpec, SimulatedInstance
from exp.provisioning.load import make_load
from exp.provisioning.spec import ProvisionSpec
from global_scheduler.provisioning import Decision

_ROOT = Path(__file__).resolve().parents[2]
# An A30 with Llama-2-7B.
_LIMITS = EngineLimits(16, 1052, 48, 512, 4096, async_scheduling=True)
_SAMPLE_S = 5.0


class Run(msgspec.Struct, frozen=True):
    """A line of ``runs.jsonl``."""

    load: str
    strategy: str
    seed: int
    source: str
    requests: int
    failed: int
    gpu_hours: float
    """Of all instances, from the moment each was asked for."""
    misses: float
    """Share of requests whose TTFT was above the SLO."""
    p99_ttft_s: float
    p99_e2e_s: float
    added: int
    drained: int
    sampled_s: tuple[float, ...]
    instances: tuple[int, ...]
    """There at each of those times."""
    miss_s: tuple[float, ...]
    """When the requests that missed had come."""
    decisions: tuple[Decision, ...]
    """Those that changed something."""

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is a run of."""
        return self.load, self.strategy, self.seed


def run_strategy(spec: ProvisionSpec, load: str, strategy: str, seed: int, data: Path) -> Run:
    """Deterministic: the same arguments give the same run."""
    requests, source = make_load(spec.loads[load], data, seed)
    latency, start = _latency(_ROOT / spec.latency), spec.start(load, strategy)
    cluster = ClusterSpec(
        tuple(
            SimulatedInstance(_LIMITS, latency, joins_s=0.0 if index < start else math.inf)
            for index in range(spec.most_instances)
        ),
        policy=spec.policy,
        policy_options=spec.policy_options,
        probes=spec.probes,
        provisioning=spec.settings(load, strategy),
        sample_s=_SAMPLE_S,
        seed=seed,
    )
    result = simulate_cluster(cluster, requests)
    return _kept(result, spec.slo_ttft_s, load, strategy, seed, source)


@lru_cache(maxsize=2)
def _latency(path: Path) -> StepLatencyModel:
    return load_latency(path)


def _kept(result: ClusterResult, slo_ttft_s: float, load: str, strategy: str, seed: int, source: str) -> Run:
    failed = result.requests["status"].to_numpy() != Status.ANSWERED
    missed = ~(result.requests["ttft_s"].to_numpy() <= slo_ttft_s)
    decisions = tuple(decision for decision in result.decisions if decision.changes)
    return Run(
        load=load,
        strategy=strategy,
        seed=seed,
        source=source,
        requests=len(missed),
        failed=int(failed.sum()),
        gpu_hours=float(result.served_s.sum()) / 3600,
        misses=float(missed.mean()),
        p99_ttft_s=float(np.percentile(result.column("ttft_s"), 99)),
        p99_e2e_s=float(np.percentile(result.column("e2e_s"), 99)),
        added=sum(decision.add for decision in decisions),
        drained=sum(len(decision.drain) for decision in decisions),
        sampled_s=tuple(result.sampled_s.tolist()),
        instances=tuple(result.present.sum(axis=1).tolist()),
        miss_s=tuple(result.requests["arrival_s"].to_numpy()[missed].round(2).tolist()),
        decisions=decisions,
    )
