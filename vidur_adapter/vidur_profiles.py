"""Vidur's profiling layout: operator times of one GPU and model, in milliseconds of one layer.

    compute/<gpu>/<organisation>/<model>/mlp.csv          linear layers and norms, by tokens
    compute/<gpu>/<organisation>/<model>/attention.csv    prefill and decode attention, if recorded
    network/<fabric>/all_reduce.csv, send_recv.csv        by bytes and devices

Versions differ: columns ``time_stats.<op>.median``, ``.mean`` or both; organisation folders or none; files
of a fabric in a folder or named after it; operators that a version does not have. All are read; what is
missing is reported, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from block.errors import PackError
from block.latency.least_squares import Floats
from vidur_adapter.attention import SplitAttention
from vidur_adapter.grid import Grid
from vidur_adapter.model import Part
from vidur_adapter.operator import Flags, Operator, Samples
from vidur_adapter.table_file import TableFile

_MS = 1e-3
_ONCE = ("emb",)
_DEVICES = "num_tensor_parallel_workers"
_SMALLEST = 9
_STATISTICS = ("median", "mean")
_AROUND_ATTENTION = ("attn_kv_cache_save", "attn_input_reshape", "attn_output_reshape")


@dataclass(frozen=True)
class VidurProfiles:
    """A profiling folder: the one that holds ``compute``, or one that holds GPUs."""

    folder: Path
    make: Callable[[Samples], Operator] = Grid

    def models(self) -> list[tuple[str, str]]:
        """(gpu, model) of everything there is."""
        return sorted((path.relative_to(self._compute).parts[0], path.parent.name) for path in self._files())

    def compute_folder(self, gpu: str, model: str) -> Path:
        """Where one model's tables lie; raises PackError that lists what there is."""
        for path in self._files():
            if path.relative_to(self._compute).parts[0] == gpu and path.parent.name == model:
                return path.parent
        known = ", ".join("/".join(pair) for pair in self.models()) or "nothing"
        raise PackError(f"{self.folder}: no profile of {model} on {gpu}; has {known}")

    def linear_parts(self, folder: Path, layers: int, devices: int) -> Iterator[Part]:
        """Everything that is costed by tokens."""
        table = TableFile.load(folder / "mlp.csv", ("num_tokens", _DEVICES))
        rows = _rows_of(table, _DEVICES, devices)
        tokens = table.numbers("num_tokens")[rows]
        for name, seconds in _operators(table):
            if not np.isfinite(seconds[rows]).any():
                continue
            samples, dropped = _possible(Samples.of(name, ("tokens",), (tokens,), seconds[rows]))
            times = 1 if name in _ONCE else layers
            note = f"{folder.name}/mlp.csv" + (f" without {dropped} impossible rows" if dropped else "")
            yield Part(self.make(samples), "tokens", times, "measured", note)

    def most_tokens(self, folder: Path) -> int:
        """Largest batch measured."""
        return int(TableFile.load(folder / "mlp.csv").numbers("num_tokens").max())

    def attention(self, folder: Path, devices: int) -> SplitAttention | None:
        """None where the folder has no attention.csv."""
        path = folder / "attention.csv"
        if not path.is_file():
            return None
        table = TableFile.load(path, ("batch_size", "prefill_chunk_size", "kv_cache_size", "is_prefill"))
        rows = _rows_of(table, _DEVICES, devices)
        prefill = rows & np.array([text == "True" for text in table.texts("is_prefill")])
        single = prefill & (table.numbers("batch_size") == 1)
        return SplitAttention(
            self._attention_part(table, single, "attn_prefill", ("prefill_chunk_size", "kv_cache_size")),
            self._attention_part(table, rows & ~prefill, "attn_decode", ("batch_size", "kv_cache_size")),
        )

    def collective(self, fabric: str, name: str, devices: int) -> Operator:
        """``all_reduce`` or ``send_recv`` by bytes; raises PackError that lists the fabrics."""
        network = self.folder / "network"
        places = (network / fabric / f"{name}.csv", network / f"{fabric}_{name}.csv")
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            known = sorted(
                {file.parent.name if file.parent != network else file.stem for file in _csvs(network)}
            )
            raise PackError(f"{network}: no {name} over {fabric}; has {', '.join(known) or 'nothing'}")
        table = TableFile.load(path, ("size",))
        rows = _rows_of(table, "num_workers", devices) & _rows_of_largest(table, "devices_per_node", devices)
        seconds = dict(_operators(table)).get(name)
        if seconds is None:
            raise PackError(f"{path}: no time_stats.{name}; has {', '.join(table.columns)}")
        return self.make(Samples.of(name, ("bytes",), (table.numbers("size")[rows],), seconds[rows]))

    def _attention_part(self, table: TableFile, rows: Flags, name: str, axes: tuple[str, ...]) -> Operator:
        """With the writing of keys and values, and the reshaping of versions that had it, counted in."""
        if not rows.any():
            raise PackError(f"{table.path}: no rows of {name}; the profile is incomplete")
        seconds = sum(
            values for operator, values in _operators(table) if operator in (name, *_AROUND_ATTENTION)
        )
        columns = tuple(table.numbers(axis)[rows] for axis in axes)
        return self.make(Samples.of(name, axes, columns, np.asarray(seconds)[rows]))

    @property
    def _compute(self) -> Path:
        nested = self.folder / "compute"
        return nested if nested.is_dir() else self.folder

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            raise PackError(f"{self.folder}: no such folder; name Vidur's data/profiling")
        return sorted(self._compute.rglob("mlp.csv"))


def _csvs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.csv"))


def _possible(samples: Samples) -> tuple[Samples, int]:
    """Without rows that take less than half as long as the smallest batches, and how many those are.

    A fork's A30 tables hold projections of thousands of tokens in 2 us, less than a launch takes.
    """
    order = np.argsort(samples.shapes[:, 0], kind="stable")
    least = np.median(samples.seconds[order[:_SMALLEST]]) / 2
    kept = samples.seconds >= least
    possible = Samples(samples.name, samples.axes, samples.shapes[kept], samples.seconds[kept])
    return possible, int(np.count_nonzero(~kept))


def _operators(table: TableFile) -> Iterator[tuple[str, Floats]]:
    """Names and seconds, by the best statistic there is."""
    names = dict.fromkeys(name.split(".")[1] for name in table.columns if name.startswith("time_stats."))
    for name in names:
        columns = [f"time_stats.{name}.{statistic}" for statistic in _STATISTICS]
        column = next((column for column in columns if column in table.columns), None)
        if column is not None:
            yield name, table.numbers(column) * _MS


def _rows_of(table: TableFile, column: str, value: int) -> Flags:
    """Rows for so many devices; all rows where the version has no such column and one device is meant."""
    if column not in table.columns and value == 1:
        return np.ones(len(next(iter(table.columns.values()))), dtype=bool)
    values = table.numbers(column)
    if value not in values:
        known = ", ".join(f"{each:g}" for each in np.unique(values))
        raise PackError(f"{table.path}: {column} = {value}: not measured; has {known}")
    return np.asarray(values == value)


def _rows_of_largest(table: TableFile, column: str, most: int) -> Flags:
    """Rows with as many of the devices as possible in one node."""
    if column not in table.columns:
        return np.ones(len(table.texts("size")), dtype=bool)
    values = table.numbers(column)
    return np.asarray(values == values[values <= most].max(initial=values.min()))
