"""What runs a cell: the seam between the runner and a simulated, an emulated or a given cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import pyarrow as pa

from block.errors import ConfigError
from exp.experiment.cell import Cell


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a back end may need beside a cell."""

    data: Path
    """The optional data folder."""
    url: str = ""
    """Base URL of a running cluster's OpenAI API; for ``cluster``."""
    scratch: Path = Path("run/experiment")
    """Where servers may write."""


class Backend(Protocol):
    """Made once per process, given cells one after the other, closed at the end."""

    def run(self, cell: Cell) -> pa.Table:
        """A table of ``table.SCHEMA`` with a row per request; raises BlockError if the cell cannot be run."""
        ...

    def close(self) -> None:
        """End whatever still runs."""
        ...


Factory = Callable[[Surroundings], Backend]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of back end."""

    module: str
    """Where its factory is."""
    factory: str
    parallel: bool
    """Whether cells may run beside each other."""
    deterministic: bool = False
    """Whether equal cells have equal results."""

    def load(self) -> Factory:
        """Imported only when it is asked for."""
        return cast("Factory", getattr(import_module(self.module), self.factory))


BACKENDS: Mapping[str, Kind] = {
    "simulated": Kind("exp.experiment.simulated", "SimulatedBackend", parallel=True, deterministic=True),
    "emulated": Kind("exp.experiment.emulated", "EmulatedBackend", parallel=False),
    "cluster": Kind("exp.experiment.given_cluster", "GivenCluster", parallel=False),
}


def backend_kind(name: str) -> Kind:
    """Raises ConfigError for an unknown name."""
    if name not in BACKENDS:
        raise ConfigError(f"--backend {name}: unknown; known here: {', '.join(BACKENDS)}")
    return BACKENDS[name]
