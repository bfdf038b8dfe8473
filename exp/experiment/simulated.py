"""A cell in virtual time: the router's own policies over simulated engines and predictors."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from block.config import ClusterConfig
from block.latency.base import StepLatencyModel
from block.latency.load import load_latency
from exp.cluster.estimates import EstimateSpec, estimate_lengths
from exp.cluster.load import ClusterLoad, block_hashes_of
from exp.cluster.result import Status
from exp.cluster.simulation import simulate_cluster
from exp.cluster.spec import ClusterSpec, SimulatedInstance
from exp.experiment.backend import Surroundings
from exp.experiment.cell import Cell
from exp.experiment.table import SCHEMA
from exp.workload import Workload

_HERE = Path(__file__).resolve().parents[2]
_ERRORS = {Status.BROKEN: "broken off", Status.REFUSED: "refused", Status.OPEN: "never ended"}


class SimulatedBackend:
    """Deterministic: the same cell gives the same table."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._data = surroundings.data

    def run(self, cell: Cell) -> pa.Table:
        """Simulate it to its last request."""
        workload = cell.arrivals(self._data)
        result = simulate_cluster(_spec(cell), _load(cell, workload))
        return _table(result.requests)

    def close(self) -> None:
        """Nothing was opened."""


def _spec(cell: Cell) -> ClusterSpec:
    config, scheduler = cell.cluster, cell.cluster.scheduler
    return ClusterSpec(
        instances=tuple(one for kind in cell.kinds for one in (_instance(kind),) * kind.instances),
        policy=scheduler.policy,
        policy_options=scheduler.policy_options.get(scheduler.policy, {}),
        schedulers=scheduler.workers,
        probes=scheduler.probe_count,
        scenarios=scheduler.scenarios,
        expect_arrivals=config.predictor.expect_arrivals,
        slo_ttft_s=scheduler.slo_ttft_s,
        slo_e2e_s=scheduler.slo_e2e_s,
        prefixes=cell.prefixes,
        hindsight=cell.hindsight,
        seed=cell.seed,
    )


def _instance(config: ClusterConfig) -> SimulatedInstance:
    believed = config.predictor.latency
    return SimulatedInstance(
        config.engine.limits(),
        _latency(_HERE / config.engine.latency),
        None if believed is None else _latency(_HERE / believed),
    )


@lru_cache(maxsize=8)
def _latency(path: Path) -> StepLatencyModel:
    return load_latency(path)


def _load(cell: Cell, workload: Workload) -> ClusterLoad:
    requests = workload.requests
    prompt = np.array([request.prompt_tokens for request in requests], np.int64)
    output = np.array([request.output_tokens for request in requests], np.int64)
    estimates = EstimateSpec(cell.lengths, cell.length_error, seed=cell.seed)
    return ClusterLoad(
        arrival_s=np.array([request.arrival_s for request in requests]),
        prompt_tokens=prompt,
        output_tokens=output,
        expected=estimate_lengths(estimates, prompt, output),
        block_hashes=block_hashes_of(requests),
    )


def _table(requests: pa.Table) -> pa.Table:
    """Its columns under the names that all back ends share."""
    status = requests["status"].to_numpy()
    known = {name: requests[name].to_numpy() for name in requests.column_names if name in SCHEMA.names}
    nan_is_null = {name: pa.array(values, from_pandas=True) for name, values in known.items()}
    ranks = requests["true_rank"].to_numpy()
    columns = {
        **nan_is_null,
        "instance": pa.array([f"instance-{index}" for index in known["instance"]]),
        "decision_s": pa.array(requests["decided_s"].to_numpy() - known["arrival_s"], from_pandas=True),
        "rank": pa.array([int(rank) if rank else None for rank in ranks]),
        "error": pa.array([_ERRORS.get(Status(one), "") for one in status]),
    }
    return pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)
