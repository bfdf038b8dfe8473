"""How long the responses of some requests will be, as far as routers said; made once for many states.

Who they are changes seldom, how far they are changes with every step. Knows nothing of queues.
"""

from __future__ import annotations

import numpy as np

from block.length_table import LengthTable
from block.lengths import scenario_levels_of
from block.simulation.memory import Floats, Ints
from predictor.ledger import Ledger, router_id


class ExpectedLengths:
    """Of the requests ``ids``, by the engine's ids or the router's own, as of one version of the ledger."""

    def __init__(self, ledger: Ledger, ids: tuple[str, ...]) -> None:
        self.ids = ids
        self.version = ledger.version
        lengths = ledger.lengths(ids)
        self._rows = np.array([row for row, length in enumerate(lengths) if length is not None], np.int64)
        self._table = LengthTable([length for length in lengths if length is not None])
        self._levels: Floats | None = None

    def hold_for(self, ledger: Ledger, ids: tuple[str, ...]) -> bool:
        """Whether they are what ``ledger`` says now of ``ids``."""
        return self.version == ledger.version and self.ids == ids

    def means(self, generated: Ints, max_tokens: Ints) -> Ints:
        """(requests,) whole tokens, given those generated; ``max_tokens`` where no length is known."""
        whole = max_tokens.copy()
        if len(self._rows):
            means = self._table.means(generated[self._rows])
            whole[self._rows] = _whole(means, max_tokens[self._rows])
        return whole

    def scenarios(self, count: int, generated: Ints, max_tokens: Ints) -> Ints:
        """(count, requests) whole tokens in each joint scenario; a single one takes the means."""
        if count == 1:
            return self.means(generated, max_tokens)[None]
        whole = np.tile(max_tokens, (count, 1))
        if len(self._rows):
            totals = self._table.totals(self._levels_of(count), generated[self._rows])
            whole[:, self._rows] = _whole(totals.T, max_tokens[self._rows])
        return whole

    def _levels_of(self, count: int) -> Floats:
        if self._levels is None or self._levels.shape[1] != count:
            self._levels = scenario_levels_of([router_id(self.ids[row]) for row in self._rows], count)
        return self._levels


def _whole(tokens: Floats, max_tokens: Ints) -> Ints:
    whole: Ints = np.minimum(np.maximum(np.rint(tokens), 1), max_tokens).astype(np.int64)
    return whole
