"""A back end for tests of the runner: instant or slow, and writes down that it was asked."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa

from exp.experiment.backend import Surroundings
from exp.experiment.cell import Cell
from exp.experiment.table import SCHEMA


class ToyBackend:
    """TTFT doubles with every two requests per second more, and is a tenth longer per seed."""

    pause_s = 0.0

    def __init__(self, surroundings: Surroundings) -> None:
        self.folder = surroundings.scratch

    def run(self, cell: Cell) -> pa.Table:
        (self.folder / f"{cell.id}.{os.getpid()}.{time.monotonic_ns()}").touch()
        time.sleep(self.pause_s)
        ttft_s = 0.1 * 2 ** (cell.rate_per_s / 2) * (1 + 0.1 * cell.seed)
        arrivals = [i / cell.rate_per_s for i in range(cell.requests)]
        return pa.Table.from_pylist(
            [
                {
                    "arrival_s": at_s,
                    "prompt_tokens": 10,
                    "output_tokens": 11,
                    "instance": "instance-0",
                    "ttft_s": ttft_s,
                    "e2e_s": ttft_s + 1.0,
                    "predicted_e2e_s": (ttft_s + 1.0) * 1.2,
                    "error": "",
                }
                for at_s in arrivals
            ],
            schema=SCHEMA,
        )

    def close(self) -> None:
        (self.folder / f"closed.{os.getpid()}").touch()


class SlowBackend(ToyBackend):
    pause_s = 0.3


def asked(folder: Path) -> list[str]:
    """Ids of the cells that were run, with repetitions."""
    return sorted(path.name.split(".")[0] for path in folder.iterdir() if not path.name.startswith("closed"))
