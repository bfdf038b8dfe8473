"""Reading trace files: CSV by column, JSON by line; what is wrong is told by file, line, field and remedy."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from block.errors import ConfigError

_MOST_TOKENS = 2**31 - 1


def missing(path: Path, reason: str) -> ConfigError:
    """A file that cannot be had, and what to do then."""
    return ConfigError(
        f"{path}: {reason}; get it with `block-exp data fetch`, name the data folder with --data, "
        "or use --workload generated"
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One line: its fields, and its place for errors."""

    place: str
    fields: Mapping[str, Any]

    def tokens(self, name: str) -> int:
        """A count of tokens, 0 or more; raises ConfigError for anything else."""
        value = self._get(name)
        try:
            count = int(value) if isinstance(value, str) else value
        except ValueError:
            count = None
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _MOST_TOKENS:
            raise self.wrong(name, "must be a whole number of tokens")
        return count

    def seconds(self, name: str) -> float:
        """A time, 0 or later."""
        value = self._get(name)
        try:
            time_s = float(value)
        except (TypeError, ValueError):
            raise self.wrong(name, "must be a number of seconds") from None
        if not 0 <= time_s < float("inf"):
            raise self.wrong(name, "must not be before 0")
        return time_s

    def moment_s(self, name: str) -> float:
        """A date and time as seconds since 1970, read without a zone and to the microsecond."""
        text = str(self._get(name))
        try:
            return datetime.fromisoformat(f"{text[:26]}+00:00").timestamp()
        except ValueError:
            raise self.wrong(name, "must be a date and time, such as 2023-11-16 18:15:46.68") from None

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        value = self._get(name)
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise self.wrong(name, "must be a list of whole numbers")
        return tuple(value)

    def wrong(self, name: str, demand: str) -> ConfigError:
        """What to raise about a field."""
        shown = repr(self.fields.get(name))
        shown = shown if len(shown) < 60 else f"{shown[:57]}..."
        return ConfigError(f"{self.place}: {name} = {shown}: {demand}; mend the line, or take it out")

    def _get(self, name: str) -> Any:
        value = self.fields.get(name)
        if value is None:
            raise ConfigError(f"{self.place}: {name}: missing; mend the line, or take it out")
        return value


@dataclass(frozen=True, slots=True)
class Csv:
    """A CSV file with a header."""

    path: Path
    columns: tuple[str, ...]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Reads the header; raises ConfigError if there is none."""
        for line in _lines(path):
            columns = next(csv.reader([line]), [])
            return cls(path, tuple(name.strip() for name in columns))
        raise ConfigError(f"{path}: empty; a CSV file starts with the names of its columns")

    def column(self, *names: str) -> str:
        """The first of the names that the file has; raises ConfigError that tells what it has."""
        found = self.optional(*names)
        if found is None:
            raise ConfigError(
                f"{self.path}:1: no column {' or '.join(names)}; it has {', '.join(self.columns)}: "
                "rename the column that holds it"
            )
        return found

    def optional(self, *names: str) -> str | None:
        """The same, or None."""
        return next((name for name in names if name in self.columns), None)

    def rows(self) -> Iterator[Row]:
        """All lines but the header; empty ones are skipped."""
        with _opened(self.path) as file:
            reader = csv.reader(file)
            try:
                next(reader)
                for values in reader:
                    if values:
                        yield self._row(reader.line_num, values)
            except (csv.Error, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"{self.path}:{reader.line_num + 1}: not CSV ({error}); mend the line"
                ) from error

    def _row(self, line: int, values: Sequence[str]) -> Row:
        place = f"{self.path}:{line}"
        if len(values) != len(self.columns):
            raise ConfigError(
                f"{place}: {len(values)} fields under {len(self.columns)} columns; "
                "mend the line, or take it out"
            )
        return Row(place, dict(zip(self.columns, values, strict=True)))


def json_lines(path: Path) -> Iterator[Row]:
    """One JSON object per line; empty lines are skipped."""
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            place = f"{path}:{number}"
            yield Row(place, _mapping(_decoded(line, place), place))


def json_list(path: Path) -> Iterator[Row]:
    """A JSON file that is one list of objects; their places are counted from 1."""
    with _opened(path) as file:
        try:
            text = file.read()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 ({error}); fetch the file anew") from error
    items = _decoded(text, str(path))
    if not isinstance(items, list):
        raise ConfigError(f"{path}: must be a list of conversations, found {type(items).__name__}")
    for number, item in enumerate(items, start=1):
        place = f"{path}: entry {number}"
        yield Row(place, _mapping(item, place))


def _decoded(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: not JSON ({error}); mend it, or fetch the file anew") from error


def _mapping(item: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise ConfigError(f"{place}: must be an object, found {type(item).__name__}; take it out")
    return item


def _lines(path: Path) -> Iterator[str]:
    with _opened(path) as file:
        try:
            yield from file
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 ({error}); fetch the file anew") from error


def _opened(path: Path) -> Any:
    try:
        return path.open(newline="", encoding="utf-8-sig")
    except FileNotFoundError:
        raise missing(path, "not there") from None
    except OSError as error:
        raise missing(path, f"cannot be read ({error.strerror})") from error
