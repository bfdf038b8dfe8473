"""Columns of a CSV or Parquet file, with errors that name file, column and row."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from block.errors import PackError
from block.latency.least_squares import Floats


@dataclass(frozen=True)
class TableFile:
    """A CSV file in memory."""

    path: Path
    columns: dict[str, list[str]]

    @classmethod
    def load(cls, path: Path, required: Iterable[str] = ()) -> Self:
        """Raises PackError if the file cannot be read or lacks a column."""
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
        except OSError as error:
            raise PackError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        except (UnicodeDecodeError, ValueError, csv.Error) as error:
            raise PackError(f"{path}: not a CSV file with a header ({error})") from error
        uneven = next((place for place, row in enumerate(rows, 2) if len(row) != len(header)), None)
        if uneven is not None:
            raise PackError(f"{path}:{uneven}: not {len(header)} columns, as the header has; mend the line")
        if not rows:
            raise PackError(f"{path}: no rows below the header; was the profile cut short?")
        table = cls(path, dict(zip(header, map(list, zip(*rows, strict=True)), strict=True)))
        for name in required:
            table.texts(name)
        return table

    def texts(self, name: str) -> list[str]:
        """One column as it stands."""
        if name not in self.columns:
            raise PackError(f"{self.path}: no column {name}; has {', '.join(self.columns)}")
        return self.columns[name]

    def numbers(self, name: str) -> Floats:
        """One column as numbers, empty cells as nan."""
        try:
            return np.array([float(text) if text else np.nan for text in self.texts(name)])
        except ValueError as error:
            raise PackError(f"{self.path}: column {name}: {error}; must be numbers") from error
