"""Files that commands write, looked at before the work whose result they are to hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from block.errors import ConfigError, PackError
from length_estimation.dataset import data_file


def check_out(data: Sequence[Path], out: Path) -> None:
    """Raises PackError if ``out`` cannot be written, or is to be read as well."""
    for path in data:
        if data_file(path).resolve() == out.resolve():
            raise PackError(f"{out}: is read as well; name another file with --out")
    if not _writable(out):
        raise PackError(f"{out}: cannot be written; name a file in a folder that is there with --out")


def check_figure(path: Path) -> None:
    """Raises ConfigError if no figure can be drawn into it."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise ConfigError("--figure: needs matplotlib; install the 'experiments' extra") from error
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ConfigError(f"--figure {path}: no such format; known are {', '.join(sorted(formats))}")
    if not _writable(path):
        raise ConfigError(f"--figure {path}: cannot be written; name a file in a folder that is there")


def _writable(path: Path) -> bool:
    place = path if path.exists() else path.parent
    return not path.is_dir() and path.parent.is_dir() and os.access(place, os.W_OK)
