"""Chosen columns and rows of a Parquet file. Needs pyarrow, which comes with the experiments extra.

A few thousand rows are held at a time: pyarrow's own way of reading and filtering whole tables loads more
code and keeps more memory than all that is read here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from block.errors import PackError
from block.latency.least_squares import Floats

_ROWS_AT_ONCE = 4096
_Column = npt.NDArray[Any]


@dataclass(frozen=True)
class ParquetFile:
    """Rows that fulfil some conditions."""

    path: Path
    columns: Mapping[str, _Column]

    @classmethod
    def load(cls, path: Path, wanted: Mapping[str, object], columns: Collection[str]) -> Self:
        """``columns`` of the rows where each wanted column that the file has holds the wanted value.

        Raises PackError for a file that cannot be read, and for no such rows, with the values there are.
        """
        met: dict[str, set[object]] = {}
        parts: dict[str, list[_Column]] = {}
        for batch in _batches(path, {*wanted, *columns}):
            rows = _wanted_rows(batch, wanted, met)
            for name in batch.keys() & set(columns):
                parts.setdefault(name, []).append(batch[name][rows])
        for column, values in met.items():
            if wanted[column] not in values:
                known = ", ".join(sorted(map(str, values))) or "no rows"
                raise PackError(f"{path}: {column} = {wanted[column]}: not measured; has {known}")
        return cls(path, {name: np.concatenate(each) for name, each in parts.items()})

    def numbers(self, name: str) -> Floats:
        """One column as numbers."""
        if name not in self.columns:
            raise PackError(f"{self.path}: no column {name}; has {', '.join(sorted(self.columns))}")
        try:
            return np.asarray(self.columns[name], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise PackError(f"{self.path}: column {name}: {error}; must be numbers") from error

    def most_frequent(self, name: str) -> Self:
        """Of a column of names, the rows of the one that most rows have."""
        if name not in self.columns:
            return self
        names, counts = np.unique(self.columns[name].astype(str), return_counts=True)
        rows = self.columns[name].astype(str) == names[np.argmax(counts)]
        return type(self)(self.path, {each: values[rows] for each, values in self.columns.items()})


def _batches(path: Path, names: set[str]) -> Iterator[dict[str, _Column]]:
    """The named columns that there are, some rows at a time; at least one batch."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile as Reader
    except ImportError as error:
        raise PackError(f"{path}: needs pyarrow ({error}); install the experiments extra") from error
    try:
        with Reader(path) as file:
            present = [name for name in file.schema_arrow.names if name in names]
            yield {name: np.empty(0) for name in present}
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=present, use_threads=False):
                columns = zip(present, batch.columns, strict=True)
                yield {name: column.to_numpy(zero_copy_only=False) for name, column in columns}
    except OSError as error:
        raise PackError(f"{path}: cannot be read ({error}); check the path") from error
    except ArrowException as error:
        raise PackError(f"{path}: not a Parquet file ({error})") from error


def _wanted_rows(
    batch: Mapping[str, _Column], wanted: Mapping[str, object], met: dict[str, set[object]]
) -> npt.NDArray[np.bool_]:
    """Those that fulfil all conditions; notes which values rows had that fulfilled those before."""
    rows = np.ones(len(next(iter(batch.values()), ())), dtype=bool)
    for column, value in wanted.items():
        if column in batch:
            met.setdefault(column, set()).update(batch[column][rows].tolist())
            rows &= batch[column] == value
    return rows
