"""A cluster that somebody else has brought up: cells differ in what they send and the policy they ask for."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import uvloop

from block.config import ClusterConfig
from block.errors import ConfigError, InstanceError
from deploy.cluster_file import project_of
from exp.client import LoadClient, LoadRun
from exp.experiment.backend import Surroundings
from exp.experiment.cell import Cell
from exp.experiment.table import outcome_table
from exp.prompt import PromptWriter
from exp.target import Target

_HERE = project_of(Path(__file__))


class GivenCluster:
    """Engines and settings are as they were started; only ``scheduler.policy`` of a cell counts."""

    def __init__(self, surroundings: Surroundings) -> None:
        if not surroundings.url:
            raise ConfigError("--url: missing; name the running cluster's API, as http://HOST:8000/v1")
        self._around = surroundings

    def run(self, cell: Cell) -> pa.Table:
        """Send the cell's requests; raises InstanceError if not one of them was answered."""
        return outcome_table(send(cell, self._around.url, self._around.data).outcomes)

    def close(self) -> None:
        """Nothing was started."""


def send(cell: Cell, url: str, data: Path) -> LoadRun:
    """A cell's requests to the API at ``url``, under its policy, with lengths as they will be.

    Raises ConfigError for a cell that wants other estimates, InstanceError if nothing was answered.
    """
    if cell.lengths != "oracle":
        raise ConfigError(
            f"policy {cell.policy}: lengths = {cell.lengths}: only --backend simulated makes estimates err; "
            "take the policy out of the spec, or let the cluster's own estimator speak"
        )
    client = client_of(cell.cluster, url)
    run = uvloop.run(client.run(cell.arrivals(data), cell.cluster.scheduler.policy))
    if all(outcome.error for outcome in run.outcomes):
        first = run.outcomes[0].error
        raise InstanceError(f"{url}: not one of {len(run.outcomes)} requests was answered: {first}")
    return run


def client_of(cluster: ClusterConfig, url: str) -> LoadClient:
    """For the cluster's API at ``url``; its model's tokenizer must be at hand."""
    engine = cluster.engine
    writer = PromptWriter(_HERE / engine.model / "tokenizer.json")
    return LoadClient(Target.of(url, engine.served_model_name), writer)
