"""Cells on real vLLM servers with emulated GPUs, behind the real router."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from block.errors import ConfigError
from exp.experiment.backend import Surroundings
from exp.experiment.cell import Traffic
from exp.experiment.emulated import EmulatedBackend
from exp.experiment.spec import EngineVariant, ExperimentSpec, PolicyVariant, Pool
from exp.experiment.table import SCHEMA


def test_pools_of_unlike_instances_are_refused_with_a_way_out(tmp_path: Path) -> None:
    spec = ExperimentSpec(
        title="test",
        requests=2,
        policies={"round_robin": PolicyVariant()},
        engines={"mixed": EngineVariant(pools={"one": Pool(instances=1), "two": Pool(instances=1)})},
        rates_per_s=(3.0,),
    )
    backend = EmulatedBackend(Surroundings(Path("nowhere"), scratch=tmp_path))
    try:
        with pytest.raises(ConfigError, match=r"engine mixed: pools: .*use --backend cluster"):
            backend.run(next(iter(spec.cells())))
    finally:
        backend.close()


@pytest.mark.engine
@pytest.mark.slow
def test_cells_that_differ_in_policy_and_load_share_their_servers(llama_model: Path, tmp_path: Path) -> None:
    spec = ExperimentSpec(
        title="test",
        # What is tested is not how busy this machine is.
        set={"instances": 2, "scheduler.probe_deadline_s": 0.5},
        requests=30,
        policies={"round_robin": PolicyVariant(), "block": PolicyVariant()},
        workloads={"generated": Traffic(name="generated", most_tokens=600)},
        rates_per_s=(3.0,),
    )
    backend = EmulatedBackend(Surroundings(Path("nowhere"), scratch=tmp_path))
    try:
        tables, servers = {}, set()
        for cell in spec.cells():
            tables[cell.policy] = backend.run(cell)
            servers.add(backend.servers)
        [processes] = servers
        assert len(processes) == 4  # two engines, their predictors, the router
    finally:
        backend.close()
    for table in tables.values():
        assert table.schema == SCHEMA
        assert set(table["error"].to_pylist()) == {""}
        assert set(table["instance"].to_pylist()) == {"instance-0", "instance-1"}
        assert table["arrival_s"].to_pylist() == tables["block"]["arrival_s"].to_pylist()
        assert np.nanmax(table["decision_s"].to_numpy()) < 0.6
    assert tables["block"]["predicted_e2e_s"].null_count < 5
    real, predicted = (tables["block"][name].to_numpy() for name in ("e2e_s", "predicted_e2e_s"))
    assert np.nanmedian(np.abs(predicted - real) / real) < 0.2
