"""Which files a simulated cell's result comes from, beside code and settings: step times, and a trace.

A cell names them; what stands in them may be another thing from run to run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from exp.experiment.cell import Cell
from exp.workload import trace_file

_HERE = Path(__file__).resolve().parents[2]
_SETTINGS = frozenset((".yaml", ".yml"))


def inputs_digest(cell: Cell, data: Path) -> str:
    """Of what stands in them, wherever they lie: another byte, another digest."""
    digest = hashlib.sha256()
    for path in input_files(cell, data):
        digest.update(_content(path))
    return digest.hexdigest()[:16]


def input_files(cell: Cell, data: Path) -> Iterator[Path]:
    """In the order of the cell's settings; raises ConfigError for a trace that is not there."""
    for config in cell.kinds:
        for latency in (config.engine.latency, config.predictor.latency):
            if latency is not None:
                yield _HERE / latency
                yield from _named(_HERE / latency)
    trace = trace_file(cell.traffic.name, data)
    if trace is not None:
        yield trace


@cache
def _named(model: Path) -> tuple[Path, ...]:
    """Files that a model of step times is made from: a GPU's, a language model's, a pack."""
    if model.suffix not in _SETTINGS or not model.is_file():
        return ()
    fields = yaml.safe_load(model.read_bytes())
    texts = [text for text in fields.values() if isinstance(text, str)] if isinstance(fields, dict) else []
    return tuple(path for text in texts if len(text) < 256 and (path := model.parent / text).is_file())


@cache
def _content(path: Path) -> bytes:
    """Its digest; of a file that is not there, the one of none."""
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest()
