"""Recent steps of every kind of shape, in fixed memory.

Shapes fall into cells by size; each cell keeps its newest steps, and the cell longest unused makes room
for a new one. Older steps count less, by how many steps ago they ran: idle time forgets nothing. When an
engine changes its speed, what is held is brought to the new one, as cells that are not met now cannot be.
"""

from __future__ import annotations

import math

import numpy as np

from block.latency.least_squares import Floats, Ints
from block.latency.shapes import CONTEXT, DECODES, TOKENS

CELLS = 24
PER_CELL = 48
HALF_LIFE_STEPS = 16_384
_CONTEXT_UNIT = 256.0
_ENOUGH = 8
"""Steps that tell what is usual for their kind."""
_KNOWS_OTHERS = 256
"""Steps after which a model may judge kinds that it has not seen."""
_ANOTHER_SPEED, _ANOTHER_SPEED_OF_UNKNOWN = 1.15, 1.5
_SHORTEST_S = 1e-5

_Cell = tuple[int, int, bool]


class StepWindow:
    """At most ``CELLS * PER_CELL`` steps as rows of a least-squares fit."""

    def __init__(self, terms: int) -> None:
        """``terms`` is the width of a row."""
        self._rows = np.zeros((CELLS * PER_CELL, terms))
        self._seconds = np.zeros(CELLS * PER_CELL)
        self._taken_at = np.full(CELLS * PER_CELL, -1)
        self._cells: dict[_Cell, tuple[int, int]] = {}
        """Cell -> its place and how many steps it has taken; the longest unused first."""
        self._count = 0
        self.most_tokens = 0.0
        """Largest batch ever taken."""

    def add(self, shapes: Floats, rows: Floats, seconds: Floats) -> None:
        """Take in steps, oldest first."""
        places = [self._place(shape) for shape in shapes.tolist()]
        # Of two steps given the same place, the later one must win, as it does for repeated indices.
        self._rows[places], self._seconds[places] = rows, seconds
        self._taken_at[places] = np.arange(self._count - len(places), self._count)
        self.most_tokens = max(self.most_tokens, float(shapes[:, TOKENS].max()))

    def change_of_speed(self, shapes: Floats, misses: Floats, model: Floats) -> tuple[float, bool]:
        """How many times longer steps take now than when those of their kind were held, and whether most
        kinds are.

        ``misses`` (steps,): seconds of new steps over what a model says of them; ``model`` (terms,): the
        model, which also stands in for kinds that are not held. Small changes count as none, and 1.0 is
        returned; larger ones do, where most kinds are not held, as the model may know them ill.
        """
        cells = [_cell_of(shape) for shape in shapes.tolist()]
        known_of = {cell: self._usual_miss(cell, model) for cell in set(cells)}
        usual = [known_of[cell] for cell in cells]
        known = sum(miss is not None for miss in usual)
        most_known = 2 * known >= len(usual)
        change = float(np.median(misses / np.array([1.0 if miss is None else miss for miss in usual])))
        noticed = _ANOTHER_SPEED if most_known else _ANOTHER_SPEED_OF_UNKNOWN
        enough = known > 0 or self._count >= _KNOWS_OTHERS
        return change if enough and not 1 / noticed < change < noticed else 1.0, most_known

    def _usual_miss(self, cell: _Cell, model: Floats) -> float | None:
        place, taken = self._cells.get(cell, (-1, 0))
        if taken < _ENOUGH:
            return None
        held = slice(place * PER_CELL, place * PER_CELL + min(taken, PER_CELL))
        return float(np.median(self._seconds[held] / np.maximum(self._rows[held] @ model, _SHORTEST_S)))

    @property
    def taken(self) -> int:
        """Steps so far."""
        return self._count

    def rescale(self, factor: float, before: int) -> None:
        """Of all that is held, what came before that many steps were taken lasts so many times as long."""
        self._seconds[self._taken_at < before] *= factor

    def contents(self) -> tuple[Floats, Floats, Floats, Ints]:
        """Rows (steps, terms), seconds (steps,), weights (steps,) in 0..1, and their cells (steps,)."""
        held = np.flatnonzero(self._taken_at >= 0)
        age = self._count - self._taken_at[held]
        return self._rows[held], self._seconds[held], np.exp2(-age / HALF_LIFE_STEPS), held // PER_CELL

    def _place(self, shape: list[float]) -> int:
        key = _cell_of(shape)
        cell, taken = self._cells.pop(key, (-1, 0))
        if cell < 0:
            cell = self._free_cell()
        self._cells[key] = (cell, taken + 1)
        self._count += 1
        return cell * PER_CELL + taken % PER_CELL

    def _free_cell(self) -> int:
        if len(self._cells) < CELLS:
            return len(self._cells)
        cell, _ = self._cells.pop(next(iter(self._cells)))
        self._taken_at[cell * PER_CELL : (cell + 1) * PER_CELL] = -1
        return cell


def _cell_of(shape: list[float]) -> _Cell:
    return (
        int(2 * math.log2(max(shape[TOKENS], 1.0))),
        int(math.log2(1.0 + shape[CONTEXT] / _CONTEXT_UNIT)),
        shape[DECODES] == shape[TOKENS],
    )
