"""The runs of a study that are done, a line of JSON each: a study that was interrupted goes on from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from block.errors import StateError


@dataclass(frozen=True, slots=True)
class StudyLog:
    """A file; what it holds of other studies, or of runs of another size, is left alone."""

    path: Path
    study: str
    requests: int

    def read(self) -> dict[tuple[str, int], dict[str, float]]:
        """Figures by variant and seed, of a run's last line. Raises StateError for a damaged one."""
        if not self.path.exists():
            return {}
        rows = [self._row(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        ours = [row for row in rows if (row.get("study"), row.get("requests")) == (self.study, self.requests)]
        return {(row["variant"], row["seed"]): row["figures"] for row in ours}

    def add(self, variant: str, seed: int, figures: Mapping[str, float]) -> None:
        """One more run."""
        row = {"study": self.study, "requests": self.requests, "variant": variant, "seed": seed}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "figures": dict(figures)}) + "\n")

    def _row(self, line: str) -> dict[str, Any]:
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise StateError(f"{self.path}: not a line of JSON: {line[:60]!r}; take it out") from error
        return row
