"""Results of ``block-exp bench serve`` as files; the suffix decides the form."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from block.errors import ConfigError

Result = Mapping[str, Any]
_LISTS_OF_LISTS = ("itls",)


def write_result(path: Path, summary: Result, details: Result, *, detailed: bool) -> None:
    """Write whole or not at all. ``detailed`` adds the lists to JSON; CSV and NPZ always have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(FORMS[path.suffix](summary, details, detailed))
    partial.replace(path)


def check_form(path: Path) -> None:
    """Raises ConfigError for a suffix that no form has."""
    if path.suffix not in FORMS:
        raise ConfigError(f"--out {path}: unknown form; the name must end in {', '.join(FORMS)}")


def _json(summary: Result, details: Result, detailed: bool) -> bytes:
    return json.dumps({**summary, **(details if detailed else {})}, indent=1).encode()


def _csv(_: Result, details: Result, __: bool) -> bytes:
    """One line per request."""
    columns = [name for name in details if name not in _LISTS_OF_LISTS]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*(details[name] for name in columns), strict=True))
    return text.getvalue().encode()


def _npz(summary: Result, details: Result, _: bool) -> bytes:
    """An array per list; ``itls`` in one row, with ``itl_offsets``; the summary as JSON."""
    flat = {name: _array(values) for name, values in details.items() if name not in _LISTS_OF_LISTS}
    itls = details["itls"]
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        **flat,
        "itls": np.array([gap for gaps in itls for gap in gaps], np.float64),
        "itl_offsets": np.cumsum([0, *map(len, itls)]),
        "summary": np.array(json.dumps(summary)),
    }
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _array(values: list[Any]) -> np.ndarray[Any, Any]:
    if any(isinstance(value, str) for value in values):
        return np.array([value or "" for value in values])
    return np.array([np.nan if value is None else value for value in values])


FORMS: Mapping[str, Callable[[Result, Result, bool], bytes]] = {".json": _json, ".csv": _csv, ".npz": _npz}
