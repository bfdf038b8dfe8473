"""vLLM's KV block pool, compiled: allocation, release, prefix-cache hits and eviction.

Follows ``vllm/v1/core/block_pool.py`` and ``single_type_kv_cache_manager.py`` (0.32) for one group of
full attention. Without prefix caching blocks are interchangeable and only their number is kept.
"""

from __future__ import annotations

from block.simulation.compiled import compiled
from block.simulation.layout import (
    BLOCK_HASH,
    BLOCK_SIZE,
    BLOCKS,
    BORROWED,
    CACHED_BLOCKS,
    CACHING,
    FREE_BLOCKS,
    FREE_NEXT,
    FREE_PREVIOUS,
    GENERATED,
    HASH_FIRST,
    HASH_LAST,
    HASHES_AT,
    LIKELY_HITS,
    OWN_HASH,
    PROMPT,
    REFERENCES,
    SAME_NEXT,
    SAME_PREVIOUS,
    SHARED_HASHES,
    TABLE_AT,
    TOTAL_BLOCKS,
)
from block.simulation.memory import Ints


@compiled
def blocks_for(s: Ints, tokens: int) -> int:
    """Blocks that hold ``tokens``."""
    return (tokens + s[BLOCK_SIZE] - 1) // s[BLOCK_SIZE]


@compiled
def hash_of(s: Ints, q: int, index: int) -> int:
    """Hash of a request's block: shared with others at the front of its prompt, else its own."""
    if index < s[q + SHARED_HASHES]:
        return s[s[q + HASHES_AT] + index]
    return s[q + OWN_HASH] + index


@compiled
def cache_hit_blocks(s: Ints, q: int) -> int:
    """Leading blocks of a waiting request found in the cache; its last token is always recomputed."""
    if s[CACHING] == 0 and s[q + LIKELY_HITS] == 0:
        return 0
    most = (s[q + PROMPT] + s[q + GENERATED] - 1) // s[BLOCK_SIZE]
    if s[CACHING] == 0:
        return min(s[q + LIKELY_HITS], most)
    for index in range(most):
        if s[s[HASH_FIRST] + hash_of(s, q, index)] < 0:
            return index
    return most


@compiled
def cached_blocks(s: Ints, keys: Ints) -> int:
    """How many of the leading ``keys``, hashes that requests share, are cached."""
    if s[CACHING] == 0:
        return 0
    for index in range(keys.size):
        if s[s[HASH_FIRST] + keys[index]] < 0:
            return index
    return keys.size


@compiled
def evictable_hits(s: Ints, q: int, hits: int) -> int:
    """Of the leading ``hits`` cached blocks, those that lie in the free queue and would leave it."""
    if s[CACHING] == 0:
        return hits  # who else holds them is not known
    count = 0
    for index in range(hits):
        if s[s[REFERENCES] + s[s[HASH_FIRST] + hash_of(s, q, index)]] == 0:
            count += 1
    return count


@compiled
def adopt_hits(s: Ints, q: int, hits: int) -> None:
    """Give the request its leading ``hits`` cached blocks."""
    if s[CACHING] == 0:
        s[FREE_BLOCKS] -= hits
        s[q + BLOCKS] = hits
        return
    for index in range(hits):
        block = s[s[HASH_FIRST] + hash_of(s, q, index)]
        if s[s[REFERENCES] + block] == 0:
            _unlink_free(s, block)
        s[s[REFERENCES] + block] += 1
        s[s[q + TABLE_AT] + index] = block
    s[q + BLOCKS] = hits
    s[q + CACHED_BLOCKS] = hits


@compiled
def grow(s: Ints, q: int, count: int) -> None:
    """Append ``count`` fresh blocks; the caller has checked that they are free."""
    if s[CACHING] == 0:
        s[FREE_BLOCKS] -= count
    else:
        for index in range(s[q + BLOCKS], s[q + BLOCKS] + count):
            block = s[s[FREE_NEXT] + s[TOTAL_BLOCKS]]
            _unlink_free(s, block)
            _forget(s, block)
            s[s[REFERENCES] + block] = 1
            s[s[q + TABLE_AT] + index] = block
    s[q + BLOCKS] += count


@compiled
def cache_full_blocks(s: Ints, q: int, tokens: int) -> None:
    """Enter the request's full blocks up to ``tokens`` in the prefix cache."""
    if s[CACHING] == 0 or tokens < (s[q + CACHED_BLOCKS] + 1) * s[BLOCK_SIZE]:
        return
    full = tokens // s[BLOCK_SIZE]
    for index in range(s[q + CACHED_BLOCKS], full):
        _remember(s, s[s[q + TABLE_AT] + index], hash_of(s, q, index))
    s[q + CACHED_BLOCKS] = max(s[q + CACHED_BLOCKS], full)


@compiled
def release(s: Ints, q: int) -> None:
    """Free all blocks of a request: uncached ones are reused first, cached ones last, tail before head."""
    held = s[q + BLOCKS]
    s[q + BLOCKS] = 0
    s[q + CACHED_BLOCKS] = 0
    if s[CACHING] == 0:
        s[FREE_BLOCKS] += held - s[q + BORROWED]
        s[q + BORROWED] = 0
        return
    front = s[TOTAL_BLOCKS]
    for index in range(held - 1, -1, -1):
        block = s[s[q + TABLE_AT] + index]
        s[s[REFERENCES] + block] -= 1
        if s[s[REFERENCES] + block] > 0:
            continue
        if s[s[BLOCK_HASH] + block] < 0:
            _link_free(s, block, front)
            front = block
        else:
            _link_free(s, block, s[s[FREE_PREVIOUS] + s[TOTAL_BLOCKS] + 1])


@compiled
def forget_own(s: Ints, q: int, blocks: int) -> None:
    """Take the first ``blocks`` hashes that only this request has out of the cache: when it has ended nobody
    asks for them. Their blocks keep their places in the free queue.
    """
    for key in range(s[q + OWN_HASH], s[q + OWN_HASH] + blocks):
        while s[s[HASH_FIRST] + key] >= 0:
            _forget(s, s[s[HASH_FIRST] + key])


@compiled
def _link_free(s: Ints, block: int, after: int) -> None:
    following = s[s[FREE_NEXT] + after]
    s[s[FREE_NEXT] + after] = block
    s[s[FREE_PREVIOUS] + block] = after
    s[s[FREE_NEXT] + block] = following
    s[s[FREE_PREVIOUS] + following] = block
    s[FREE_BLOCKS] += 1


@compiled
def _unlink_free(s: Ints, block: int) -> None:
    before, following = s[s[FREE_PREVIOUS] + block], s[s[FREE_NEXT] + block]
    s[s[FREE_NEXT] + before] = following
    s[s[FREE_PREVIOUS] + following] = before
    s[FREE_BLOCKS] -= 1


@compiled
def _remember(s: Ints, block: int, key: int) -> None:
    """A hash may be held by several blocks; the oldest entry serves hits."""
    s[s[BLOCK_HASH] + block] = key
    last = s[s[HASH_LAST] + key]
    s[s[SAME_PREVIOUS] + block] = last
    s[s[SAME_NEXT] + block] = -1
    s[s[HASH_LAST] + key] = block
    if last < 0:
        s[s[HASH_FIRST] + key] = block
    else:
        s[s[SAME_NEXT] + last] = block


@compiled
def _forget(s: Ints, block: int) -> None:
    key = s[s[BLOCK_HASH] + block]
    if key < 0:
        return
    s[s[BLOCK_HASH] + block] = -1
    before, following = s[s[SAME_PREVIOUS] + block], s[s[SAME_NEXT] + block]
    if before < 0:
        s[s[HASH_FIRST] + key] = following
    else:
        s[s[SAME_NEXT] + before] = following
    if following < 0:
        s[s[HASH_LAST] + key] = before
    else:
        s[s[SAME_PREVIOUS] + following] = before
