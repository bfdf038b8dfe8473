"""Cells of other runs that would come out the same: one simulation serves every figure that shows it.

Two specs may name the same cluster under the same load differently. Where a back end is deterministic and
the code is the same, so is the result, whatever its name. Cells that other code made are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from block.errors import ConfigError
from exp.experiment.backend import Kind
from exp.experiment.cell import Cell
from exp.experiment.run_folder import RunFolder


class EqualCells:
    """Files by what decides their content."""

    def __init__(self, folders: Sequence[RunFolder] = ()) -> None:
        self._files = {
            cell.substance: folder.file(cell)
            for folder in folders
            for cell in folder.spec.cells()
            if folder.has(cell) and folder.current(cell)
        }

    @classmethod
    def of(cls, paths: Sequence[Path], wanted: RunFolder, kind: Kind) -> Self:
        """Of run folders, for another that is open. Raises ConfigError for those that cannot be of use."""
        if paths and not kind.deterministic:
            raise ConfigError("--reuse: only simulated cells come out alike twice; leave it out")
        folders = [RunFolder(path) for path in paths]
        for folder in folders:
            folder.require()
            _check_made_alike(folder, wanted)
        return cls(folders)

    def find(self, cell: Cell) -> Path | None:
        """The file of a cell that differs at most in its names."""
        return self._files.get(cell.substance)


def _check_made_alike(folder: RunFolder, wanted: RunFolder) -> None:
    for what in ("backend", "versions"):
        theirs, ours = folder.header.get(what), wanted.header.get(what)
        if theirs != ours:
            raise ConfigError(
                f"--reuse {folder.path}: made with another {what} ({theirs}, not {ours}); run it anew, "
                "or leave it out"
            )
