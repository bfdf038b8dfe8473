"""Cells of other runs that would come out the same: one simulation serves every figure that shows it.

Two specs may name the same cluster under the same load differently. Where a back end is deterministic, and
code and input files are the same, so is the result, whatever its name. Cells that other code made, or that
come of other files, are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from block.errors import ConfigError
from exp.experiment.backend import Kind
from exp.experiment.cell import Cell, substance_of
from exp.experiment.inputs import inputs_digest
from exp.experiment.run_folder import RunFolder
from exp.experiment.sources import covers, sources_digest


class EqualCells:
    """Files by what decides their content."""

    def __init__(self, folders: Sequence[RunFolder] = (), data: Path = Path()) -> None:
        """``data``: the data folder of the cells that are looked for."""
        self._data = data
        self._files = {
            (substance_of(kept.content), kept.inputs): kept.path
            for folder in folders
            for kept in folder.kept()
            if kept.sources == sources_digest()
        }

    @classmethod
    def of(cls, paths: Sequence[Path], wanted: RunFolder, kind: Kind, data: Path) -> Self:
        """Of run folders, for another that is open. Raises ConfigError for those that cannot be of use."""
        if paths and not kind.deterministic:
            raise ConfigError("--reuse: only simulated cells come out alike twice; leave it out")
        folders = [RunFolder(path) for path in paths]
        for folder in folders:
            folder.require()
            _check_made_alike(folder, wanted)
        return cls(folders, data)

    def find(self, cell: Cell) -> Path | None:
        """The file of a cell that differs at most in its names; none under a policy from elsewhere."""
        if not self._files or not covers(cell.cluster.scheduler.policy):
            return None
        return self._files.get((cell.substance, inputs_digest(cell, self._data)))


def _check_made_alike(folder: RunFolder, wanted: RunFolder) -> None:
    for what in ("backend", "python", "versions"):
        theirs, ours = folder.header.get(what), wanted.header.get(what)
        if theirs != ours:
            raise ConfigError(
                f"--reuse {folder.path}: made with another {what} ({theirs}, not {ours}); run it anew, "
                "or leave it out"
            )
