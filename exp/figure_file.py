"""A figure into the file that a user named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from block.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_figure(path: Path) -> None:
    """Before the work that it shows: raises ConfigError where ``save_figure`` would."""
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ConfigError(f"--plot {path}: no such format; known are {', '.join(sorted(formats))}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: cannot be written (no such folder); check the path")


def save_figure(figure: Figure, path: Path) -> None:
    """In the format that the name ends in; raises ConfigError that names path and remedy."""
    check_figure(path)
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise ConfigError(f"--plot {path}: cannot be written ({error.strerror}); check the path") from error
