"""Chosen columns and rows of a Parquet file. Needs pyarrow, which comes with the experiments extra."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from block.errors import PackError
from block.latency.least_squares import Floats


@dataclass(frozen=True)
class ParquetFile:
    """Rows that fulfil some conditions."""

    path: Path
    rows: Any

    @classmethod
    def load(cls, path: Path, wanted: Mapping[str, object], columns: Collection[str]) -> Self:
        """``columns`` of the rows where each wanted column that the file has holds the wanted value.

        Raises PackError for a file that cannot be read, and for no such rows, with the values there are.
        """
        try:
            from pyarrow import ArrowException, parquet
        except ImportError as error:
            raise PackError(f"{path}: needs pyarrow ({error}); install the experiments extra") from error
        try:
            present = parquet.read_schema(path).names
            names = [name for name in present if name in wanted or name in columns]
            table = parquet.read_table(path, columns=names, use_threads=False, read_dictionary=names)
        except OSError as error:
            raise PackError(f"{path}: cannot be read ({error}); check the path") from error
        except ArrowException as error:
            raise PackError(f"{path}: not a Parquet file ({error})") from error
        for column, value in wanted.items():
            if column in table.column_names:
                table = _only(path, table, column, value)
        return cls(path, table)

    def numbers(self, name: str) -> Floats:
        """One column as numbers."""
        if name not in self.rows.column_names:
            raise PackError(f"{self.path}: no column {name}; has {', '.join(self.rows.column_names)}")
        return np.asarray(self.rows.column(name).to_numpy(), dtype=np.float64)

    def most_frequent(self, name: str) -> Self:
        """Of a column of names, the rows of the one that most rows have."""
        from pyarrow import compute

        if name not in self.rows.column_names:
            return self
        counts = compute.value_counts(self.rows.column(name)).to_pylist()
        best = max(counts, key=lambda each: each["counts"])["values"]
        return type(self)(self.path, _only(self.path, self.rows, name, best))


def _only(path: Path, table: Any, column: str, value: object) -> Any:
    from pyarrow import compute

    rows = compute.equal(table.column(column), value)
    if not compute.any(rows).as_py():
        known = ", ".join(sorted(map(str, compute.unique(table.column(column)).to_pylist())))
        raise PackError(f"{path}: {column} = {value}: not measured; has {known}")
    return table.filter(rows)
