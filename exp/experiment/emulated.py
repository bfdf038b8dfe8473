"""Real vLLM servers with emulated GPUs behind the real router, on this machine's clock."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow as pa
import uvloop

from block.config import ClusterConfig
from block.errors import ConfigError
from deploy.cluster_file import project_of
from deploy.local import LocalCluster
from deploy.plan import plan_cluster
from exp.experiment.backend import Surroundings
from exp.experiment.cell import Cell
from exp.experiment.given_cluster import client_of, send
from exp.experiment.table import outcome_table
from exp.free_port import free_port_range
from exp.local_model import make_local_model
from exp.workload import TraceRequest, Workload

_HERE = project_of(Path(__file__))
_WARM_UP = TraceRequest(0.0, 32, 4)


class EmulatedBackend:
    """Keeps a cluster up for as long as cells differ in nothing but their load and their policy."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._runner = asyncio.Runner()
        self._cluster: LocalCluster | None = None
        self._config: ClusterConfig | None = None

    def run(self, cell: Cell) -> pa.Table:
        """Start what the cell needs, unless it is up, and send its requests.

        Raises ConfigError for pools: a cluster of this machine has instances of one kind.
        """
        if cell.pools:
            raise ConfigError(
                f"engine {cell.engine}: pools: only --backend simulated has instances of several kinds; "
                "start them yourself and use --backend cluster"
            )
        config = _but_policy(cell.cluster)
        if self._cluster is None or config != self._config:
            self._stop()
            self._cluster = self._start(config)
            self._config = config
        return outcome_table(send(cell, self._cluster.plan.openai_base_url, self._around.data).outcomes)

    @property
    def servers(self) -> frozenset[int]:
        """Process ids of all that run now."""
        processes = self._cluster.state.processes if self._cluster else ()
        return frozenset(process.pid for process in processes if process.pid is not None)

    def close(self) -> None:
        """End the servers."""
        self._stop()
        self._runner.close()

    def _start(self, config: ClusterConfig) -> LocalCluster:
        port = free_port_range(2 * config.instances + 1)
        placed = config.model_copy(
            update={
                "scheduler_port": port,
                "engine_port": port + 1,
                "predictor_port": port + 1 + config.instances,
                "run_dir": self._around.scratch.resolve(),
            }
        )
        make_local_model(config.engine.model.name, _HERE / config.engine.model)
        cluster = LocalCluster(plan_cluster(placed, _HERE))
        self._runner.run(cluster.start())
        # The first requests of a server are slower than all others.
        first = Workload("warm-up", (_WARM_UP,) * (2 * config.instances))
        uvloop.run(client_of(config, cluster.plan.openai_base_url).run(first, "round_robin"))
        return cluster

    def _stop(self) -> None:
        if self._cluster is not None:
            self._runner.run(self._cluster.stop())
            self._cluster = None


def _but_policy(config: ClusterConfig) -> ClusterConfig:
    """A request asks for its policy by header, so the cluster's own default does not matter."""
    scheduler = config.scheduler.model_copy(update={"policy": "block"})
    return config.model_copy(update={"scheduler": scheduler})
