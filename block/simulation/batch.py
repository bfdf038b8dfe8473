"""A batch being built, compiled: its seats, and the facts that decide how long it takes."""

from __future__ import annotations

from block.simulation.compiled import compiled
from block.simulation.layout import (
    ASYNC,
    BATCH,
    BATCH_FACTS,
    BATCH_SEATS,
    COMPUTED,
    CONTEXT,
    DECODES,
    GENERATED,
    IN_FLIGHT,
    LENGTH,
    PLACEHOLDERS,
    PRODUCTS,
    PROMPT,
    SEATS,
)
from block.simulation.memory import Ints


@compiled
def total(s: Ints, q: int) -> int:
    """Prompt and processed output tokens of a request."""
    return s[q + PROMPT] + s[q + GENERATED]


@compiled
def append_to_batch(s: Ints, slot: int, q: int, tokens: int) -> None:
    """Seat a request in batch ``slot``."""
    facts = BATCH + slot * BATCH_FACTS
    seat = s[BATCH_SEATS] + 3 * slot * s[SEATS] + s[facts + LENGTH]
    s[seat] = q
    s[seat + s[SEATS]] = tokens
    s[facts + LENGTH] += 1


@compiled
def unschedule(s: Ints, slot: int, q: int) -> int:
    """Take a request out of the batch being built; returns the tokens it gives back."""
    facts = BATCH + slot * BATCH_FACTS
    first = s[BATCH_SEATS] + 3 * slot * s[SEATS]
    end = first + s[facts + LENGTH]
    for seat in range(first, end):
        if s[seat] == q:
            tokens = s[seat + s[SEATS]]
            for i in range(seat, end - 1):
                s[i] = s[i + 1]
                s[i + s[SEATS]] = s[i + 1 + s[SEATS]]
            s[facts + LENGTH] -= 1
            return tokens
    return 0


@compiled
def settle(s: Ints, slot: int) -> None:
    """Advance the scheduled requests and sum up the batch's shape."""
    facts = BATCH + slot * BATCH_FACTS
    seat = s[BATCH_SEATS] + 3 * slot * s[SEATS]
    decodes, context, products = 0, 0, 0
    for i in range(seat, seat + s[facts + LENGTH]):
        q, tokens = s[i], s[i + s[SEATS]]
        computed = s[q + COMPUTED] + tokens
        s[q + COMPUTED] = computed
        s[q + IN_FLIGHT] += tokens
        emits = computed >= total(s, q) + s[q + PLACEHOLDERS]
        s[i + 2 * s[SEATS]] = emits
        if emits and s[ASYNC]:
            s[q + PLACEHOLDERS] += 1
        context += computed
        if tokens == 1:
            decodes += 1
        else:
            products += tokens * computed
    s[facts + DECODES] = decodes
    s[facts + CONTEXT] = context
    s[facts + PRODUCTS] = products
