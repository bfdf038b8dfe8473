"""Whether a state can be an engine's at all, in one compiled pass.

Says yes or no, for states come at every step and hardly any is wrong; what is wrong with one, and in which
words, is for ``resume.check_columns`` and the mirror's checks to find out.
"""

from __future__ import annotations

import math
from typing import Final

from block.simulation import columns
from block.simulation.compiled import compiled
from block.simulation.memory import Floats, Ints
from block.types import EngineLimits

_FIELDS: Final = len(columns.FIELDS)


def longest_if_sound(
    numbers: Ints, arrival_s: Floats, running: int, batches: int, free_blocks: int, limits: EngineLimits
) -> int:
    """Tokens of the longest request that can come to its end; 0 if the state cannot be.

    Of ``numbers`` and ``arrival_s``, see ``EngineColumns``; ``batches`` are steps in flight. The limits
    themselves must be possible.
    """
    longest: int = _longest_if_sound(
        numbers,
        arrival_s,
        running,
        batches,
        free_blocks,
        limits.block_size,
        limits.total_blocks,
        limits.max_num_seqs,
        limits.max_model_len,
        limits.prefix_caching,
    )
    return longest


@compiled
def _longest_if_sound(
    numbers: Ints,
    arrival_s: Floats,
    running: int,
    batches: int,
    free_blocks: int,
    block_size: int,
    total_blocks: int,
    max_num_seqs: int,
    max_model_len: int,
    shares_blocks: bool,
) -> int:
    if (
        not 0 <= free_blocks <= total_blocks
        or batches > 2
        or running > max_num_seqs
        or _any_negative(numbers)
    ):
        return 0
    held = most_held = 0
    for r in range(running):
        blocks = -(-numbers[columns.COMPUTED, r] // block_size)
        held += blocks
        most_held = max(most_held, blocks)
    if (most_held if shares_blocks else held) > total_blocks - free_blocks:
        return 0
    longest = min(max_model_len, min(free_blocks + held, total_blocks) * block_size + 1)
    for r in range(arrival_s.size):
        if not (math.isfinite(arrival_s[r]) and _is_possible(numbers, r, longest, total_blocks * block_size)):
            return 0
    return longest if _most_seated(numbers, batches) <= (max_num_seqs if batches > 0 else 0) else 0


@compiled
def _any_negative(numbers: Ints) -> bool:
    for field in range(_FIELDS):
        if field != columns.PRIORITY:
            for r in range(numbers.shape[1]):
                if numbers[field, r] < 0:
                    return True
    return False


@compiled
def _most_seated(numbers: Ints, batches: int) -> int:
    """Requests in the fuller one of the steps in flight."""
    older_seats = newest_seats = 0
    for r in range(numbers.shape[1]):
        in_flight = numbers[columns.IN_FLIGHT, r]
        newest = numbers[columns.NEWEST, r] if batches > 1 else in_flight
        newest_seats += newest > 0
        older_seats += in_flight > newest
    return max(older_seats, newest_seats)


@compiled
def _is_possible(numbers: Ints, r: int, longest: int, capacity: int) -> bool:
    prompt, generated = numbers[columns.PROMPT, r], numbers[columns.GENERATED, r]
    most, computed = numbers[columns.MAX_TOKENS, r], numbers[columns.COMPUTED, r]
    in_flight, total = numbers[columns.IN_FLIGHT, r], prompt + generated
    return (
        prompt >= 1
        and most >= 1
        and generated <= most
        and total < longest
        and numbers[columns.NEWEST, r] <= in_flight
        and computed <= total + numbers[columns.PLACEHOLDERS, r]
        and computed <= total - 1 + in_flight
        and computed <= capacity
    )
