"""What an answer rests on: the engine's newest state, the choices under way to it, and all their lengths.

Made once per state and version of the ledger; knows nothing of newcomers and step times.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from block.simulation.columns import COMPUTED, GENERATED, MAX_TOKENS, PROMPT, EngineColumns
from block.simulation.memory import Ints
from block.simulation.resume import longest_request
from block.types import Arrival, EngineLoad
from predictor.expected_lengths import ExpectedLengths
from predictor.ledger import Ledger


@dataclass(frozen=True, eq=False)
class Scene:
    """One moment; lengths are in the order of the state's requests, then of ``coming``."""

    columns: EngineColumns
    under_way: tuple[Arrival, ...]
    """Choices that the engine has not shown yet."""
    coming: tuple[Arrival, ...]
    """Of those, all but the ones whose prompts the engine has no room for: vLLM refuses them at its door."""
    lengths: ExpectedLengths

    @classmethod
    def of(
        cls, columns: EngineColumns, ledger: Ledger, under_way: tuple[Arrival, ...], before: Self | None
    ) -> Self:
        """Takes over what it can from the scene ``before``."""
        longest = longest_request(columns)
        coming = tuple(each for each in under_way if each.prompt_tokens < longest)
        ids = columns.ids + tuple(each.id for each in coming)
        if before is not None and before.lengths.hold_for(ledger, ids):
            lengths = before.lengths
        else:
            lengths = ExpectedLengths(ledger, ids)
        return cls(columns, under_way, coming, lengths)

    def is_current(self, columns: EngineColumns, ledger: Ledger) -> bool:
        """Whether it is still of this state and of all that the ledger knows."""
        return self.columns is columns and self.lengths.version == ledger.version

    def scenarios(self, count: int) -> Ints:
        """(count, requests) response lengths in joint scenarios; a single one takes the means."""
        if count == 1:
            return self._means[None]
        return self.lengths.scenarios(count, self._generated, self._max_tokens)

    @cached_property
    def load(self) -> EngineLoad:
        """Counters for heuristics, choices under way included."""
        columns, numbers, present = self.columns, self.columns.numbers, len(self.columns.ids)
        # Tokens still to be computed before a request's next output token can be.
        behind = numbers[PROMPT] + numbers[GENERATED] - 1 - numbers[COMPUTED]
        prompt_left = int(np.maximum(behind, 0).sum()) + sum(each.prompt_tokens for each in self.under_way)
        output_left = int((self._means - self._generated)[:present].sum())
        output_left += sum(each.output_tokens for each in self.under_way)
        return EngineLoad(
            running=columns.running,
            waiting=columns.waiting,
            committed=len(self.under_way),
            free_blocks=columns.free_blocks,
            total_blocks=columns.limits.total_blocks,
            waiting_prompt_tokens=prompt_left,
            unprocessed_tokens=prompt_left + output_left,
        )

    @cached_property
    def _means(self) -> Ints:
        return self.lengths.means(self._generated, self._max_tokens)

    @cached_property
    def _generated(self) -> Ints:
        return self._with_coming(GENERATED, [0] * len(self.coming))

    @cached_property
    def _max_tokens(self) -> Ints:
        return self._with_coming(MAX_TOKENS, [each.max_tokens for each in self.coming])

    def _with_coming(self, field: int, numbers: list[int]) -> Ints:
        present: Ints = self.columns.numbers[field]
        return np.append(present, np.array(numbers, np.int64)) if numbers else present
