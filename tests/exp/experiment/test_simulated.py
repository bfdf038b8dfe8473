"""Cells in virtual time: deterministic, whole, and worth what the specs say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exp.experiment.backend import Surroundings
from exp.experiment.cell import Traffic
from exp.experiment.simulated import SimulatedBackend
from exp.experiment.spec import EngineVariant, ExperimentSpec, PolicyVariant, Pool
from exp.experiment.table import SCHEMA

SPEC = ExperimentSpec(
    title="test",
    set={"instances": 3},
    requests=150,
    policies={
        "random": PolicyVariant(),
        "block": PolicyVariant(),
        "guessing": PolicyVariant(set={"scheduler.policy": "block"}, lengths="guess", length_error=1.0),
    },
    workloads={"generated": Traffic(name="generated")},
    rates_per_s=(8.0,),
    hindsight=True,
)
CELLS = {cell.policy: cell for cell in SPEC.cells()}


@pytest.fixture(scope="module")
def backend() -> SimulatedBackend:
    return SimulatedBackend(Surroundings(Path("nowhere")))


def test_the_same_cell_gives_the_same_table_of_every_request(backend: SimulatedBackend) -> None:
    table = backend.run(CELLS["block"])
    assert table.schema == SCHEMA
    assert table.equals(backend.run(CELLS["block"]))
    assert table.num_rows == 150
    assert set(table["error"].to_pylist()) == {""}
    assert set(table["instance"].to_pylist()) == {"instance-0", "instance-1", "instance-2"}
    ttft_s, e2e_s = table["ttft_s"].to_numpy(), table["e2e_s"].to_numpy()
    assert (ttft_s > 0).all()
    assert (ttft_s <= e2e_s).all()
    assert set(table["rank"].to_pylist()) <= {1, 2, 3}
    workload = CELLS["block"].arrivals(Path("nowhere"))
    assert table["output_tokens"].to_pylist() == [r.output_tokens for r in workload.requests]


def test_policies_and_what_they_know_make_the_difference(backend: SimulatedBackend) -> None:
    tables = {name: backend.run(cell) for name, cell in CELLS.items()}
    ttft_s = {name: float(np.mean(table["ttft_s"].to_numpy())) for name, table in tables.items()}
    assert ttft_s["block"] < ttft_s["random"]
    errors = {
        name: np.abs(t["predicted_e2e_s"].to_numpy() / t["e2e_s"].to_numpy() - 1)
        for name, t in tables.items()
    }
    assert np.median(errors["block"]) < np.median(errors["guessing"]) / 2
    assert tables["random"]["predicted_e2e_s"].null_count == 150


def test_pools_of_unlike_instances_each_run_as_their_kind(backend: SimulatedBackend) -> None:
    small, large = {"engine.max_num_seqs": 2}, {"engine.max_num_seqs": 48}
    mixed = {"small": Pool(instances=1, set=small), "large": Pool(instances=2, set=large)}
    variants = {"mixed": EngineVariant(pools=mixed), "alike": EngineVariant(set=large)}
    spec = SPEC.model_copy(update={"engines": variants, "policies": {"round_robin": PolicyVariant()}})
    tables = {cell.engine: backend.run(cell) for cell in spec.cells()}
    waits = {
        engine: [
            float(np.mean(table["ttft_s"].to_numpy()[table["instance"].to_numpy() == f"instance-{index}"]))
            for index in range(3)
        ]
        for engine, table in tables.items()
    }
    assert waits["mixed"][0] > 10 * waits["alike"][0]
    assert waits["mixed"][1:] == waits["alike"][1:]
