"""Whether a waiting request could be admitted beside the running ones, compiled."""

from __future__ import annotations

from block.simulation.blocks import cache_hit_blocks
from block.simulation.compiled import compiled
from block.simulation.kernel import first_waiting, fits, prefill_cap
from block.simulation.layout import (
    BLOCK_SIZE,
    CHUNKED,
    GENERATED,
    MAX_BATCHED,
    MAX_SEQS,
    PROMPT,
    RUNNING_COUNT,
    WAITING_HEAD,
    WAITING_TAIL,
)
from block.simulation.memory import Ints


@compiled
def somebody_can_join(s: Ints) -> bool:
    """Whether the first waiting request could be admitted while all running ones decode.

    If not now, then not before one of them ends either: seats and budget stay, free blocks only become
    fewer, and decoding adds nothing to the prefix cache that a prompt could hit.
    """
    budget = s[MAX_BATCHED] - s[RUNNING_COUNT]
    if s[WAITING_HEAD] == s[WAITING_TAIL] or s[RUNNING_COUNT] >= s[MAX_SEQS] or budget <= 0:
        return False
    q = first_waiting(s)
    if q < 0:
        return True
    hits = cache_hit_blocks(s, q)
    cached = hits * s[BLOCK_SIZE]
    tokens = s[q + PROMPT] + s[q + GENERATED] - cached
    cap = prefill_cap(s)
    if 0 < cap < tokens:
        tokens = cap
    if tokens > budget and s[CHUNKED] == 0:
        return False
    return fits(s, q, hits, cached + min(tokens, budget))
